"""What of this machine's capabilities the mesh is told, and what the owner adds to what the backends say of them.

Clients of this machine see everything all the same: this is about what leaves it.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from atmo.router.capability import (
    ANY_FEATURE,
    CHAT,
    EMBEDDINGS,
    FEATURES,
    IMAGES,
    SPEECH,
    TRANSCRIPTION,
    Capability,
)
from atmo.router.capability import AUDIO as HEARS
from atmo.router.capability import VISION as SEES

LLM, EMBEDDING, VISION, RAG, AGENTS, AUDIO, ML = "llm", "embeddings", "vision", "rag", "agents", "audio", "ml"
CATEGORIES = (LLM, EMBEDDING, VISION, RAG, AGENTS, AUDIO, ML)
"""Source: seed 003; `ml` is added for classifiers and their like."""

_CATEGORY_OF = {CHAT: LLM, EMBEDDINGS: EMBEDDING, IMAGES: VISION, TRANSCRIPTION: AUDIO, SPEECH: AUDIO}
_FEATURE_OF = {VISION: SEES, AUDIO: HEARS}
"""Features that a chat model loses where their category is switched off."""

_TAG = ":latest"
"""What a name without a tag means, as in `router.names`."""


@dataclass(frozen=True, slots=True)
class Listing:
    """Which names are told.

    Attributes:
        everything: Whether those are that no pattern of `expose` fits.
        expose: Patterns of a shell, such as `llama3*`.
        hide: Patterns of names that are never told; stronger than `expose`.
    """

    everything: bool = True
    expose: tuple[str, ...] = ()
    hide: tuple[str, ...] = ()

    def has(self, names: Collection[str]) -> bool:
        """Says whether what goes by any of `names` is told."""
        return not _fits(names, self.hide) and (self.everything or _fits(names, self.expose))


@dataclass(frozen=True, slots=True)
class Exposure:
    """What the mesh is told of this machine's capabilities.

    Attributes:
        models: Which models.
        projects: Which projects: folders of documents, and those of LlamaFarm.
        off: Categories that are not told, of `CATEGORIES`.
    """

    models: Listing = Listing()
    projects: Listing = Listing()
    off: frozenset[str] = frozenset()

    def told(self, capability: Capability) -> Capability | None:
        """Returns a capability as the mesh is told of it; None where it is not."""
        category = category_of(capability)
        listing = self.projects if category in (RAG, AGENTS) else self.models
        if category in self.off or not listing.has(_names(capability)):
            return None
        lost = {_FEATURE_OF[name] for name in self.off if name in _FEATURE_OF}
        has = tuple(one for one in FEATURES if one != ANY_FEATURE) if lost and _any(capability) else capability.features
        left = tuple(one for one in has if one not in lost)
        return capability if left == capability.features else replace(capability, features=left)


@dataclass(frozen=True, slots=True)
class Hints:
    """What the owner says of all capabilities; a backend that knows better of one of its own is believed.

    Attributes:
        most: Requests that the machine runs at once, so that no capability promises more; 0 for no limit.
        priority, latency_class, residency, cost_per_1k: As of a `Capability`.
    """

    most: int = 0
    priority: str = ""
    latency_class: str = ""
    residency: str = ""
    cost_per_1k: float = 0.0

    def on(self, capability: Capability) -> Capability:
        """Returns the capability with the hints."""
        return replace(
            capability,
            concurrency=min(capability.concurrency, self.most) if self.most else capability.concurrency,
            priority=capability.priority or self.priority,
            latency_class=capability.latency_class or self.latency_class,
            residency=capability.residency or self.residency,
            cost_per_1k=capability.cost_per_1k or self.cost_per_1k,
        )


def category_of(capability: Capability) -> str:
    """Returns the category of a capability; LlamaFarm's ids tell what kind of project they are."""
    kind = capability.id.split(":")[1] if capability.backend == "llamafarm" and ":" in capability.id else ""
    if kind in ("agent", "agents"):
        return AGENTS
    if capability.backend == "rag" or kind in ("rag", "project"):
        return RAG
    return _CATEGORY_OF.get(capability.operation, ML)


def _any(capability: Capability) -> bool:
    return ANY_FEATURE in capability.features


def _names(capability: Capability) -> tuple[str, ...]:
    return capability.model, capability.model.removesuffix(_TAG)


def _fits(names: Collection[str], patterns: Collection[str]) -> bool:
    return any(fnmatchcase(name, pattern) for name in names for pattern in patterns)
