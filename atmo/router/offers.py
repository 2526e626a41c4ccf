"""All that is on offer, arranged so that a decision looks at the few offers that it needs and not at each.

What is offered changes seldom: it is arranged once, by operation, model and version. How far away a node is and how
busy changes all the time: that is asked for at the decision, of those offers alone that it compares.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from atmo.router.capability import CapabilityKey, key_of
from atmo.router.offer import Offer


@dataclass(frozen=True, slots=True)
class Tier:
    """Offers of which one is as good as another but for the node.

    Attributes:
        here: This machine's.
        away: Those of others.
    """

    here: Sequence[Offer]
    away: Sequence[Offer]

    def __iter__(self) -> Iterator[Offer]:
        yield from self.here
        yield from self.away

    def __len__(self) -> int:
        return len(self.here) + len(self.away)


NOBODY = Tier((), ())


def tier_of(offers: Iterable[Offer]) -> Tier:
    """Returns a tier of all that is given, in its order."""
    here: list[Offer] = []
    away: list[Offer] = []
    for offer in offers:
        (here if offer.local else away).append(offer)
    return Tier(here, away)


class Able:
    """What does the same operation.

    Args:
        offers: In order.

    Attributes:
        offers: In order.
    """

    def __init__(self, offers: Sequence[Offer]) -> None:
        self.offers = offers

    def __len__(self) -> int:
        return len(self.offers)

    @cached_property
    def models(self) -> dict[str, dict[str, Tier]]:
        """By model and the text of its version."""
        rows: dict[str, dict[str, list[Offer]]] = {}
        for offer in self.offers:
            rows.setdefault(offer.capability.model, {}).setdefault(offer.capability.version, []).append(offer)
        return {
            model: {version: tier_of(found) for version, found in versions.items()} for model, versions in rows.items()
        }

    @cached_property
    def special(self) -> Able:
        """Specialists."""
        return Able([offer for offer in self.offers if not offer.capability.general])

    @cached_property
    def general(self) -> tuple[Tier, ...]:
        """Models that take any prompt: the cheapest, then the others; nothing where there is none."""
        found = [offer for offer in self.offers if offer.capability.general]
        if not found:
            return ()
        cheapest = min(offer.capability.cost_per_1k for offer in found)
        free = [offer for offer in found if offer.capability.cost_per_1k == cheapest]
        return tier_of(free), tier_of(offer for offer in found if offer.capability.cost_per_1k > cheapest)

    @cached_property
    def meanings(self) -> dict[CapabilityKey, Offer]:
        """By what a capability says it does: this machine's offer, else the first by model and node."""
        first: dict[CapabilityKey, Offer] = {}
        for offer in self.offers:
            key = key_of(offer.capability)
            held = first.get(key)
            if held is None or preference(offer) < preference(held):
                first[key] = offer
        return first

    @cached_property
    def default(self) -> Offer:
        """The one that is chosen where the choice must not change from call to call: this machine's, a built-in one."""
        return min(
            self.offers, key=lambda one: (not one.local, one.capability.backend != "builtin", one.capability.model)
        )


def preference(offer: Offer) -> tuple[bool, str, bytes]:
    """Orders offers that mean the same: this machine's first."""
    return not offer.local, offer.capability.model, offer.node


class Offers:
    """All that is on offer.

    Args:
        lasting: In order, as far as they last: their `rtt_s`, `load` and `path` may be out of date.
        fresh: Returns one of them as it is at this moment.

    Attributes:
        lasting: In order, as far as they last.
        fresh: Returns one of them as it is at this moment.
    """

    def __init__(self, lasting: Iterable[Offer] = (), fresh: Callable[[Offer], Offer] = lambda offer: offer) -> None:
        self.lasting = tuple(lasting)
        self.fresh = fresh

    def __iter__(self) -> Iterator[Offer]:
        return map(self.fresh, self.lasting)

    def __len__(self) -> int:
        return len(self.lasting)

    def doing(self, operation: str) -> Able:
        """Returns those that do an operation."""
        return self._operations.get(operation) or Able(())

    @cached_property
    def all(self) -> Able:
        """Those of all operations, for looking a model up that does another one."""
        return Able(self.lasting)

    @cached_property
    def models(self) -> tuple[str, ...]:
        """The names of all models."""
        return tuple(dict.fromkeys(offer.capability.model for offer in self.lasting))

    @cached_property
    def _operations(self) -> dict[str, Able]:
        rows: dict[str, list[Offer]] = {}
        for offer in self.lasting:
            for operation in offer.capability.operations:
                rows.setdefault(operation, []).append(offer)
        return {operation: Able(found) for operation, found in rows.items()}
