"""Which offers a request's `model` field names: exact names, Ollama's implied tag, versions by PEP 440."""

from __future__ import annotations

from collections.abc import Mapping

from packaging.version import InvalidVersion, Version

from atmo.router.offers import NOBODY, Able, Tier, tier_of
from atmo.wire.versions import newest_in, parse_range

AUTO = "auto"
_IMPLIED_TAG = ":latest"
_ZERO = Version("0.dev0")
_NONE: Mapping[str, Tier] = {}


def is_auto(model: str) -> bool:
    """Says whether the request leaves the choice of the model to the router."""
    return model in ("", AUTO)


def offers_named(model: str, able: Able) -> Tier:
    """Returns the offers of the model that `model` names, the newest version that it admits only.

    `iris` is the newest `iris`, `iris@1.0.0` that version, `iris@>=1,<2` the newest in the range, and `llama3.2` also
    means `llama3.2:latest`, as Ollama has it. Exact names come first, so a model may have an `@` in its name.

    Raises:
        ValueError: What follows the `@` is neither a version nor a range.
    """
    found = _by_name(model, able)
    name, at, wanted = model.partition("@")
    if not found and at:
        texts = _by_name(name, able)
        read = {text: version for text in texts if (version := version_of(text)) is not None}
        admitted = newest_in(parse_range(wanted), set(read.values()))[:1]
        found = {text: texts[text] for text, version in read.items() if version in admitted}
    if len(found) > 1:
        newest = max(map(_rank, found))
        found = {text: tier for text, tier in found.items() if _rank(text) == newest}
    tiers = list(found.values())
    return tiers[0] if len(tiers) == 1 else tier_of(offer for tier in tiers for offer in tier) if tiers else NOBODY


def version_of(text: str) -> Version | None:
    """Returns a version, None for what PEP 440 does not know as one."""
    try:
        return Version(text)
    except InvalidVersion:
        return None


def _by_name(name: str, able: Able) -> Mapping[str, Tier]:
    return able.models.get(name) or able.models.get(name + _IMPLIED_TAG) or _NONE


def _rank(text: str) -> tuple[bool, Version]:
    version = version_of(text) or _ZERO
    return (not version.is_prerelease, version)
