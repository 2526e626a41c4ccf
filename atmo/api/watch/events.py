"""What happens on this node, told to whoever listens: nothing waits for a listener, and nobody listening costs nothing.

Topics: `routes` (decisions), `requests` (accounts of requests, without content), `nodes` (who comes and goes),
`models` (what the mesh has and can run), `transfers` (downloads).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from typing import Any

from atmo.api.account import Account, Observer
from atmo.api.watch.access import row_of
from atmo.gateway.jsontext import dump

ROUTES, REQUESTS, NODES, MODELS, TRANSFERS = TOPICS = ("routes", "requests", "nodes", "models", "transfers")

Listener = Callable[[bytes], None]
"""Takes an event as JSON; must neither wait nor raise."""


class EventHub:
    """Hands events to listeners by topic.

    Args:
        wall: Returns Unix seconds.
    """

    def __init__(self, wall: Callable[[], float] = time.time) -> None:
        self._wall = wall
        self._listeners: dict[str, dict[Listener, str]] = {topic: {} for topic in TOPICS}

    def wanted(self, topic: str) -> bool:
        """Says whether anybody listens; what an event tells need not be gathered where nobody does."""
        return bool(self._listeners[topic])

    def listen(self, listener: Listener, topics: Collection[str], key: str = "") -> None:
        """Has `listener` told of `topics` and of nothing else from now on.

        Args:
            listener: Who is told.
            topics: Some of `TOPICS`; none to end it.
            key: Events of a key are told to who came with the same, and to who came with none: the machine's owner.
        """
        for topic, listeners in self._listeners.items():
            if topic in topics:
                listeners[listener] = key
            else:
                listeners.pop(listener, None)

    def publish(self, topic: str, kind: str, data: Mapping[str, Any], key: str = "") -> None:
        """Tells those who listen.

        Args:
            topic: One of `TOPICS`.
            kind: What happened: `finished`, `left`, ...
            data: JSON.
            key: The name of the key whose doing it is; empty where it is no key's.
        """
        listeners = self._listeners[topic]
        if not listeners:
            return
        event = {"type": "event", "topic": topic, "event": kind, "time": round(self._wall(), 3), "data": data}
        raw = dump(event)
        for listener, own in list(listeners.items()):
            if not own or own == key or topic not in (REQUESTS, ROUTES):
                listener(raw)


def told_of_requests(hub: EventHub) -> Observer:
    """Returns an observer that has requests told as events when they have ended."""

    def observe(account: Account) -> None:
        if account.operation and hub.wanted(REQUESTS):
            hub.publish(REQUESTS, account.outcome, row_of(account), account.key)

    return observe
