"""What a node can do, as it tells the mesh."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Annotated

from atmo.wire import limits
from atmo.wire.schema import Most

CHAT = "chat"
COMPLETIONS = "completions"
EMBEDDINGS = "embeddings"
IMAGES = "images"
TRANSCRIPTION = "transcription"
SPEECH = "speech"
CLASSIFY = "classify"
ANOMALY = "anomaly"
CLUSTER = "cluster"
FORECAST = "forecast"
OPERATIONS = (
    CHAT,
    COMPLETIONS,
    EMBEDDINGS,
    IMAGES,
    TRANSCRIPTION,
    SPEECH,
    CLASSIFY,
    ANOMALY,
    CLUSTER,
    FORECAST,
)
"""Operations of this version. An advert with another operation is kept and never chosen."""

VISION, AUDIO, TOOLS, JSON_SCHEMA = "vision", "audio", "tools", "json_schema"
ANY_FEATURE = "*"
"""Of a model of which nobody can tell what it may do: it is taken to do what a request needs, and may refuse."""

FEATURES = (COMPLETIONS, VISION, AUDIO, TOOLS, JSON_SCHEMA, ANY_FEATURE)
"""What a chat model may do beyond text to text; `completions` means that it continues a text as it stands, too."""

FEATURES_MOST = 16
COST_MOST, SIZE_B_MOST = 1_000_000, 100_000
"""Of a thousand tokens in US dollars, and of billions of parameters. Source: guess; more is a mistake or a lie."""

LATENCY_CLASSES = ("local", "regional", "global")
PRIORITIES = ("low", "normal", "high")

Name = Annotated[str, Most(limits.NAME_CHARS)]

_UNFIT = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]+")
"""What no terminal, log and header should get, and halves of surrogate pairs, which no encoding takes."""

CapabilityKey = tuple[str, ...]
"""The texts by which requests are compared with a capability: its description, then its examples."""


@dataclass(frozen=True, slots=True)
class Capability:
    """One thing that one node can run.

    Attributes:
        id: Unique on its node and stable while it is offered, such as `onnx:iris@1.0.0` or `ollama:llama3.2:latest`.
        operation: One of `OPERATIONS`.
        model: The name a request uses: `iris`, `llama3.2:latest`, `all-minilm-l6-v2`, `atmosphere-docs`.
        version: PEP 440 version of a model from the store, else empty.
        description: What it does, one or two sentences; routing by meaning compares requests with it.
        examples: Things a user may ask of it; at most 32. Embedded by whoever receives the advert.
        general: True for a model that takes any prompt of its operation (an LLM): it wins where no specialist is near.
        concurrency: How many requests it runs at once; more wait in its queue.
        cost_per_1k: Price of a thousand tokens in US dollars, 0 when it is the owner's own machine.
        backend: Who runs it, for people: `ollama`, `openai`, `onnx`, `builtin`, `rag`.
        features: Of `FEATURES`, which a request may need.
        size_b: Parameters in billions, 0 where nobody knows.
        context: Tokens that a prompt and its answer may have together, 0 where nobody knows.
        device: `cpu` or `gpu`, empty where nobody knows.
        latency_class: One of `LATENCY_CLASSES`, empty for the owner's own machine.
        priority: One of `PRIORITIES`, empty for normal: who is asked first among nodes that are as good.
        residency: Where the data stays, such as `US`; empty where nobody promises anything.
    """

    id: Name
    operation: Name
    model: Name
    version: Name = ""
    description: Annotated[str, Most(1_024)] = ""
    examples: Annotated[tuple[Annotated[str, Most(512)], ...], Most(32)] = ()
    general: bool = False
    concurrency: int = 1
    cost_per_1k: Annotated[float, Most(COST_MOST)] = 0.0
    backend: Name = ""
    features: Annotated[tuple[Name, ...], Most(FEATURES_MOST)] = ()
    size_b: Annotated[float, Most(SIZE_B_MOST)] = 0.0
    context: int = 0
    device: Name = ""
    latency_class: Name = ""
    priority: Name = ""
    residency: Name = ""

    @property
    def operations(self) -> tuple[str, ...]:
        """What it does: its operation, and with it what its features add."""
        if self.operation == CHAT and COMPLETIONS in self.features:
            return CHAT, COMPLETIONS
        return (self.operation,)

    def lacks(self, needs: Iterable[str]) -> list[str]:
        """Returns those of the features `needs` that it has not, sorted."""
        return [] if ANY_FEATURE in self.features else sorted(set(needs).difference(self.features))


def key_of(capability: Capability) -> CapabilityKey:
    """Returns the texts that tell what `capability` does; its model's name where it does not say."""
    if capability.description:
        return (capability.description, *capability.examples)
    return capability.examples or (capability.model,)


def tellable(capability: Capability) -> Capability | None:
    """Returns a capability with texts that can be told to anybody; None where its names are not printable.

    Backends take names and texts from servers and files, which may hold anything.
    """
    if not f"{capability.id}{capability.model}{capability.version}".isprintable():
        return None
    texts = (capability.description, *capability.examples)
    if not any(map(_UNFIT.search, texts)):
        return capability
    description, *examples = (_UNFIT.sub(" ", text) for text in texts)
    return replace(capability, description=description, examples=tuple(examples))
