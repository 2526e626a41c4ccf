"""What a request may find beyond the nodes that this one knows: in a large mesh the index knows more."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Protocol

from atmo.index.keys import capability_key, model_key
from atmo.router.choice import ruled_out
from atmo.router.decision import Decision, RouteRequest
from atmo.router.names import offers_named
from atmo.router.offer import Offer
from atmo.router.offers import Offers, Tier

_TAG = ":latest"
"""What `router.names` takes for implied where a name has no tag."""


class Seek(Protocol):
    """Has nodes that provide keys of the index tell what they offer; `services.scout.Scout.find` is one."""

    async def __call__(self, keys: Collection[bytes], enough: Callable[[], bool]) -> None:
        """Returns when `enough` holds, nobody else is found, or it took too long; at once in a small mesh."""


def worth_seeking(decision: Decision, offers: Offers) -> bool:
    """Says whether a request failed only because no known node offers its model, or any model for its operation."""
    request, failure = decision.request, decision.failure
    if failure is None or failure.status not in (404, 503) or request.constraints.local_only:
        return False
    return not _fitting(request, offers)


def serves(request: RouteRequest, offers: Offers) -> bool:
    """Says whether one of the offers is for this request and meets its constraints."""
    fitting = map(offers.fresh, _fitting(request, offers))
    return any(not ruled_out(offer, request) for offer in fitting)


def keys_of(request: RouteRequest) -> list[bytes]:
    """Returns the keys under which the index has who could answer a request."""
    if request.auto:
        return [capability_key(request.operation)]
    name, at, _ = request.model.partition("@")
    names = [request.model] + ([name] if at else []) + ([name + _TAG] if ":" not in name else [])
    return [model_key(name) for name in names]


def _fitting(request: RouteRequest, offers: Offers) -> Sequence[Offer] | Tier:
    able = offers.doing(request.operation)
    return able.offers if request.auto else offers_named(request.model, able)
