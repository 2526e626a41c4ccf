"""What those who watch a node are told: spans, the access log, and live events of what happens in it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Any, Protocol

import trio

from atmo.api.account import Observer
from atmo.api.watch.access import access_log, close_access_log
from atmo.api.watch.events import MODELS, NODES, ROUTES, TRANSFERS, EventHub
from atmo.config.settings import Settings
from atmo.gateway.gateway import Gateway
from atmo.gateway.tracing import NO_TRACER, Tracer
from atmo.identity import NodeId
from atmo.net.driver import PeerDriver
from atmo.peer import LinkLost, LinkReady, NodeBack, NodeGone, Revoked
from atmo.router.decision import Decision
from atmo.services.transfer import TransferRow

LOOK_S = 1.0
"""Between two looks at transfers, while somebody listens. Source: guess, what a person who watches a bar wants."""

CLOSE_S = 0.5
"""For the last spans, at the end of a node, which has two seconds in all. Source: guess."""

NAMES_MOST = 64
"""Models that one event names."""

_KINDS = {LinkReady: "connected", LinkLost: "disconnected", NodeBack: "back", NodeGone: "gone", Revoked: "revoked"}

log = logging.getLogger(__name__)


class Transfers(Protocol):
    """Lists the transfers of a node."""

    async def rows(self, *, over: bool = False) -> list[TransferRow]: ...


class Watching:
    """Those who watch a node, by its settings.

    Args:
        settings: Of the node.
        node: Its id.

    Attributes:
        tracer: Records spans, where an endpoint for them is set.
        events: Hands events to those who listen.
        observers: Told of each request.

    Raises:
        UserError: The access log cannot be written.
    """

    def __init__(self, settings: Settings, node: NodeId) -> None:
        log_line = access_log(settings.access_log)
        self.events = EventHub()
        self.observers: tuple[Observer, ...] = () if log_line is None else (log_line,)
        self.tracer: Tracer = NO_TRACER
        self._close: Callable[[], None] = lambda: None
        if settings.otel_endpoint:
            self._trace(settings.otel_endpoint, node, settings.name)

    def _trace(self, endpoint: str, node: NodeId, name: str) -> None:
        try:
            from atmo.gateway.otel import OtelTracer
        except ImportError as error:
            log.warning("no spans are sent to %s: %s is missing; install atmosphere-mesh[otel]", endpoint, error.name)
            return
        tracer = OtelTracer(endpoint, str(node), name)
        self.tracer, self._close = tracer, tracer.close

    async def run(self, gateway: Gateway, transfers: Transfers) -> None:
        """Feeds the events until cancelled, and then closes what is open."""
        gateway.on_routed = self._routed
        try:
            await self._follow(transfers)
        finally:
            close_access_log()
            with trio.move_on_after(CLOSE_S, shield=True):
                await trio.to_thread.run_sync(self._close, abandon_on_cancel=True)

    def _routed(self, decision: Decision, request_id: str) -> None:
        if self.events.wanted(ROUTES):
            kind = "decided" if decision.failure is None else "failed"
            row = decision.to_json()
            del row["candidates"], row["omitted"]
            self.events.publish(ROUTES, kind, {"request_id": request_id, **row})

    def attach(self, driver: PeerDriver) -> None:
        """Tells of the nodes of a mesh from now on."""

        def observe(event: object) -> None:
            kind = _KINDS.get(type(event))
            if kind is not None and self.events.wanted(NODES):
                node: NodeId = event.node  # type: ignore[attr-defined]
                name = next((view.name for view in driver.peer.nodes(driver.now()) if view.node == node), "")
                self.events.publish(NODES, kind, {"node": str(node), "name": name})

        driver.observers.append(observe)

    def names(self, what: str, now: Callable[[], Iterable[str]]) -> Callable[[], None]:
        """Returns what is to be called when names of models may have changed; it tells which came and went.

        Args:
            what: Becomes of a model that came: `offered` by a node of the mesh, or `stored` on this one.
            now: Returns the names that there are.
        """
        before: set[str] = set(now())

        def look() -> None:
            nonlocal before
            found = set(now())
            came, went, before = found - before, before - found, found
            if came or went:
                told = {"added": sorted(came)[:NAMES_MOST], "removed": sorted(went)[:NAMES_MOST], "models": len(found)}
                self.events.publish(MODELS, what, told)

        return look

    async def _follow(self, transfers: Transfers) -> None:
        """Tells how transfers stand; looks at them only while somebody listens."""
        before: dict[int, dict[str, Any]] = {}
        while True:
            await trio.sleep(LOOK_S)
            if not self.events.wanted(TRANSFERS):
                before = {}
                continue
            rows = {row.id: row.to_json() for row in await transfers.rows()}
            if before and before.keys() - rows.keys():
                over = {row.id: row.to_json() for row in await transfers.rows(over=True)}
                for number in before.keys() - rows.keys():
                    if number in over:
                        self.events.publish(TRANSFERS, str(over[number]["state"]), over[number])
            for number, row in rows.items():
                if row != before.get(number):
                    self.events.publish(TRANSFERS, str(row["state"]), row)
            before = rows
