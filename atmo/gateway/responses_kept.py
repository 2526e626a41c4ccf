"""Responses that are kept for a while, so that the next one can continue them. In memory only; no clock, no I/O."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from atmo.errors import RequestError
from atmo.gateway.responses_items import Item, unknown_item
from atmo.wire import limits


@dataclass(frozen=True, slots=True)
class KeepConfig:
    """Bounds of what is kept; of whoever has most of it, what was not used for longest goes first.

    Attributes:
        responses: How many. Source: guess; a conversation has tens.
        size_bytes: Of memory, input and output; twice the largest body, so that every response fits.
        seconds: After which a response that nobody used is forgotten. Source: guess; a conversation of people pauses.
    """

    responses: int = 4_096
    size_bytes: int = 64 * 1024 * 1024
    seconds: float = 3_600.0


@dataclass(slots=True)
class Kept:
    """A response that is kept.

    Attributes:
        owner: The id of the key that made it; empty where none was needed.
        response: As the client got it.
        items: What the request added to the conversation.
        previous: The response that it continues; empty for none.
        size: Bytes that it takes.
        used_at: When somebody last asked for it, in monotonic seconds.
    """

    owner: str
    response: dict[str, Any]
    items: list[Item]
    previous: str
    size: int
    used_at: float = 0.0

    @property
    def all_items(self) -> list[Item]:
        """What the request added, then what the model answered."""
        return [*self.items, *self.response["output"]]


class KeptResponses:
    """Keeps responses within bounds; nobody sees those of another key.

    Args:
        config: The bounds.
    """

    def __init__(self, config: KeepConfig | None = None) -> None:
        self._config = config or KeepConfig()
        self._kept: dict[str, Kept] = {}
        self._items: dict[tuple[str, str], list[tuple[str, Item]]] = {}
        self._counts: Counter[str] = Counter()
        self._sizes: Counter[str] = Counter()
        self.size = 0

    def __len__(self) -> int:
        return len(self._kept)

    def keep(self, kept: Kept, now: float) -> None:
        """Keeps a response, and forgets what no longer fits."""
        response_id = str(kept.response["id"])
        kept.used_at = now
        self._kept[response_id] = kept
        for item in kept.all_items:
            self._items.setdefault((kept.owner, item["id"]), []).append((response_id, item))
        self._count(kept, 1)
        self._expire(now)
        while len(self._kept) > self._config.responses:
            self._forget(self._oldest(self._counts))
        while self.size > self._config.size_bytes:
            self._forget(self._oldest(self._sizes))

    def get(self, owner: str, response_id: str, now: float) -> Kept:
        """Returns a response; it is kept for longer from now on.

        Raises:
            RequestError: 404, there is none, or another key made it.
        """
        self._expire(now)
        kept = self._kept.get(response_id)
        if kept is None or kept.owner != owner:
            raise self._unknown(response_id)
        del self._kept[response_id]
        self._kept[response_id] = kept
        kept.used_at = now
        return kept

    def remove(self, owner: str, response_id: str, now: float) -> None:
        """Forgets a response; see `get`."""
        self.get(owner, response_id, now)
        self._forget(response_id)

    def history(self, owner: str, response_id: str, now: float) -> list[Item]:
        """Returns the items of a conversation up to and with a response, whose id may be empty for none.

        Raises:
            RequestError: 404, one of its responses is not kept (any more); 413, they are larger than a body may be.
        """
        rounds: list[list[Item]] = []
        size = 0
        while response_id:
            kept = self.get(owner, response_id, now)
            rounds.append(kept.all_items)
            response_id = kept.previous
            size += kept.size
            if size > limits.REQUEST_BYTES:
                message = f"The conversation is larger than {limits.REQUEST_BYTES // 2**20} MiB: begin a new one."
                raise RequestError(413, message, param="previous_response_id", code="request_too_large")
        return [item for items in reversed(rounds) for item in items]

    def resolved(self, owner: str, items: Sequence[Item], now: float) -> list[Item]:
        """Returns the items with those that only refer to an item replaced by it.

        Raises:
            RequestError: 404, it is not kept (any more).
        """
        return [self._item(owner, item, now) if item["type"] == "item_reference" else item for item in items]

    def _item(self, owner: str, reference: Item, now: float) -> Item:
        self._expire(now)
        holders = self._items.get((owner, reference["id"]))
        if not holders:
            raise unknown_item(reference["id"])
        response_id, item = holders[-1]
        self.get(owner, response_id, now)
        return item

    def _expire(self, now: float) -> None:
        while self._kept:
            oldest = next(iter(self._kept))
            if self._kept[oldest].used_at + self._config.seconds > now:
                return
            self._forget(oldest)

    def _oldest(self, shares: Counter[str]) -> str:
        """Returns what goes first: nobody's responses make way for those of somebody who keeps more."""
        ((owner, _),) = shares.most_common(1)
        return next(response_id for response_id, kept in self._kept.items() if kept.owner == owner)

    def _count(self, kept: Kept, times: int) -> None:
        self.size += times * kept.size
        self._counts[kept.owner] += times
        self._sizes[kept.owner] += times * kept.size
        if not self._counts[kept.owner]:
            del self._counts[kept.owner], self._sizes[kept.owner]

    def _forget(self, response_id: str) -> None:
        kept = self._kept.pop(response_id)
        self._count(kept, -1)
        for item in kept.all_items:
            key = kept.owner, item["id"]
            holders = self._items.get(key, [])
            holders[:] = (holder for holder in holders if holder[0] != response_id)
            if not holders:
                self._items.pop(key, None)

    def _unknown(self, response_id: str) -> RequestError:
        minutes = self._config.seconds / 60
        message = (
            f"No response '{response_id[:64]}' is kept here: they are for {minutes:g} minutes after their last use, "
            "unless 'store' is false. Send all items of the conversation as 'input'."
        )
        return RequestError(404, message, param="previous_response_id", code="previous_response_not_found")
