"""Which offers a request's `model` field names: exact names, Ollama's implied tag, versions by PEP 440."""

from __future__ import annotations

from collections.abc import Sequence

from packaging.version import InvalidVersion, Version

from atmo.router.offer import Offer
from atmo.wire.versions import newest_in, parse_range

AUTO = "auto"
_IMPLIED_TAG = ":latest"
_ZERO = Version("0.dev0")


def is_auto(model: str) -> bool:
    """Says whether the request leaves the choice of the model to the router."""
    return model in ("", AUTO)


def offers_named(model: str, offers: Sequence[Offer]) -> list[Offer]:
    """Returns the offers of the model that `model` names, the newest version that it admits only.

    `iris` is the newest `iris`, `iris@1.0.0` that version, `iris@>=1,<2` the newest in the range, and `llama3.2` also
    means `llama3.2:latest`, as Ollama has it. Exact names come first, so a model may have an `@` in its name.

    Raises:
        ValueError: What follows the `@` is neither a version nor a range.
    """
    found = _by_name(model, offers)
    name, at, wanted = model.partition("@")
    if not found and at:
        versions = [(version_of(offer), offer) for offer in _by_name(name, offers)]
        admitted = newest_in(parse_range(wanted), {version for version, _ in versions if version is not None})
        found = [offer for version, offer in versions if version in admitted[:1]]
    if len({offer.capability.version for offer in found}) > 1:
        newest = max(map(_rank, found))
        found = [offer for offer in found if _rank(offer) == newest]
    return found


def version_of(offer: Offer) -> Version | None:
    """Returns the version of what is offered, None where it has none that PEP 440 knows."""
    try:
        return Version(offer.capability.version)
    except InvalidVersion:
        return None


def _by_name(name: str, offers: Sequence[Offer]) -> list[Offer]:
    exact = [offer for offer in offers if offer.capability.model == name]
    return exact or [offer for offer in offers if offer.capability.model == name + _IMPLIED_TAG]


def _rank(offer: Offer) -> tuple[bool, Version]:
    version = version_of(offer) or _ZERO
    return (not version.is_prerelease, version)
