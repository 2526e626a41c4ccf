"""Requests for a node that cannot be dialled go through neighbours: `atmo/forward/1`.

Who has a route to a node (`atmo.peer.routes`) opens a request to the first node of it, which opens one to the next, up
to the target. Once the target has said that it is there, frames on these requests are datagrams, and over them runs an
ordinary QUIC connection between both ends (`net.paths`): what lies between sees ciphertext, and cannot pretend to be
either. Routes are whole, at most four links long and name no node twice, so that nothing goes in circles.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Annotated, Any, Final, Protocol

import trio

from atmo.errors import RemoteError, WireError
from atmo.identity import NodeId
from atmo.net.carrier import Allowance, Carrier, CarrierConfig, CarrierStats
from atmo.net.connection import Connection
from atmo.net.ports import RequestStream
from atmo.net.quic import Endpoint
from atmo.net.requests import Request, open_request
from atmo.peer.route_messages import ROUTE_MOST
from atmo.wire import codec
from atmo.wire.schema import Most, from_wire_untrusted, to_wire

log = logging.getLogger(__name__)

FORWARD: Final = "atmo/forward/1"
_ALLOWANCES: Final = 512
REASONS: Final = ("busy", "unreachable")


@dataclass(frozen=True, slots=True)
class ForwardHeader:
    """The header of `atmo/forward/1`.

    Attributes:
        target: The node at the end.
        route: The nodes after the receiver, the target last; empty at the target itself.
        hops: Links that lie behind, that of this request included.
        deadline_ms: By then the target must have been reached; less by what was spent at each hop.
    """

    target: NodeId
    route: Annotated[tuple[NodeId, ...], Most(ROUTE_MOST)]
    hops: Annotated[int, Most(ROUTE_MOST)]
    deadline_ms: Annotated[int, Most(600_000)]


@dataclass(frozen=True, slots=True)
class ForwardConfig:
    """What a node carries for others.

    Attributes:
        paths: At once, of all nodes, those that end here included. Source: guess.
        paths_of_one: Of one neighbour. Source: guess, four neighbours can fill it.
        bytes_per_s: Of one neighbour. Source: guess, 32 Mbit/s.
        deadline_s: The most that a hop waits for the next. Source: a dial takes 5 s at most.
        carrier: Of each hop.
    """

    paths: int = 64
    paths_of_one: int = 16
    bytes_per_s: float = 4.0 * 1024 * 1024
    deadline_s: float = 15.0
    carrier: CarrierConfig = field(default_factory=CarrierConfig)


@dataclass(slots=True)
class ForwardStats:
    """Counters since start.

    Attributes:
        passed_on: Paths through here.
        accepted: Paths that ended here.
        dialled: Paths that this node opened.
        refused_busy: Paths that were over a limit.
        unreachable: Paths whose next node could not be reached.
    """

    passed_on: int = 0
    accepted: int = 0
    dialled: int = 0
    refused_busy: int = 0
    unreachable: int = 0


class LinkSource(Protocol):
    """Where the forwarder gets its hops from."""

    def reserve(self, node: NodeId, deadline_s: float) -> AbstractAsyncContextManager[Connection]:
        """Returns a verified link that is not forwarded itself, dialled where there is none, and holds it meanwhile.

        Raises:
            RemoteError: There is no way to the node in time.
        """


class Forwarder:
    """Opens forwarded paths, ends those that lead here, and passes on those of others.

    Args:
        endpoint: Whose connections run over the paths.
        links: The hops.
        config: Limits.
    """

    def __init__(self, endpoint: Endpoint, links: LinkSource, config: ForwardConfig = ForwardConfig()) -> None:
        self._endpoint = endpoint
        self._links = links
        self._config = config
        self._paths: Counter[NodeId] = Counter()
        self._allowances: dict[NodeId, Allowance] = {}
        self.stats = ForwardStats()
        self.carried = CarrierStats()

    # --- this node's own paths ------------------------------------------------------------------------------------

    async def dial(self, nursery: trio.Nursery, route: tuple[NodeId, ...], deadline_s: float) -> Connection:
        """Connects to the last node of `route` through the others.

        Args:
            nursery: Runs the path for as long as its connection lives.
            route: The nodes after this one.
            deadline_s: For all of it.

        Raises:
            RemoteError: A node on the way is not there, is busy or lied, or time is up.
        """
        result = await nursery.start(self._carry_own, route, trio.current_time() + deadline_s)
        if isinstance(result, RemoteError):
            raise result
        assert isinstance(result, Connection)
        return result

    async def _carry_own(
        self, route: tuple[NodeId, ...], until: float, *, task_status: trio.TaskStatus[Connection | RemoteError]
    ) -> None:
        connection: Connection | None = None
        try:
            async with self._open(route, 1, until) as stream:
                carrier = Carrier(stream, self._config.carrier, self.carried)
                path = self._endpoint.open_path("forward", carrier.put)
                try:
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(self._run, carrier, path.deliver_untrusted, nursery.cancel_scope)
                        connection = await self._endpoint.dial(path, route[-1], until - trio.current_time())
                        self.stats.dialled += 1
                        task_status.started(connection)
                        await connection.closed.wait()
                        # Its last words are still to go out.
                        nursery.cancel_scope.deadline = trio.current_time() + self._config.carrier.linger_s
                    carrier.check_whole()
                finally:
                    path.close(f"the path through {route[0].short} ended")
        except* RemoteError as group:
            if connection is None:
                task_status.started(_first(group))

    # --- the paths of others --------------------------------------------------------------------------------------

    async def serve(self, stream: RequestStream) -> None:
        """Answers `atmo/forward/1`.

        Raises:
            WireError: The header is not one that an honest node sends.
        """
        header = from_wire_untrusted(ForwardHeader, stream.header)
        self._check_untrusted(stream.node_id, header)
        with self._slot(stream.node_id) as allowance:
            if allowance is None:
                self.stats.refused_busy += 1
                await stream.send(_answer("busy"))
            elif header.route:
                await self._pass_on(stream, header, allowance)
            else:
                await self._end_here(stream, allowance)

    def _check_untrusted(self, source: NodeId, header: ForwardHeader) -> None:
        own, route = self._endpoint.node_id, header.route
        if header.target != (route[-1] if route else own):
            raise WireError("the target is not at the end of the route")
        if not 0 < header.hops <= ROUTE_MOST - len(route):
            raise WireError(f"a route of more than {ROUTE_MOST} hops")
        if len({own, source, *route}) != len(route) + 2:
            raise WireError("a route that comes to a node twice")

    @contextmanager
    def _slot(self, node: NodeId) -> Iterator[Allowance | None]:
        if self._paths.total() >= self._config.paths or self._paths[node] >= self._config.paths_of_one:
            yield None
            return
        self._paths[node] += 1
        try:
            yield self._allowance(node)
        finally:
            self._paths[node] -= 1
            if not self._paths[node]:
                del self._paths[node]

    def _allowance(self, node: NodeId) -> Allowance:
        """Returns what a node may have carried; it outlives paths, or a new one would fill it again."""
        if node not in self._allowances and len(self._allowances) >= _ALLOWANCES:
            self._allowances = {each: left for each, left in self._allowances.items() if each in self._paths}
        return self._allowances.setdefault(node, Allowance(self._config.bytes_per_s, trio.current_time()))

    async def _end_here(self, stream: RequestStream, allowance: Allowance) -> None:
        carrier = Carrier(stream, self._config.carrier, self.carried, allowance)
        path = self._endpoint.open_path("forward", carrier.put)
        try:
            await stream.send(_answer())
            self.stats.accepted += 1
            await carrier.run(path.deliver_untrusted)
            carrier.check_whole()
        finally:
            path.close(f"the path through {stream.node_id.short} ended")

    async def _pass_on(self, stream: RequestStream, header: ForwardHeader, allowance: Allowance) -> None:
        until = trio.current_time() + min(header.deadline_ms / 1_000, self._config.deadline_s)
        answered = False
        try:
            async with self._open(header.route, header.hops + 1, until) as further:
                await stream.send(_answer())
                answered = True
                self.stats.passed_on += 1
                await self._splice(stream, further, allowance)
        except RemoteError as error:
            if answered:
                raise
            log.debug("forwarding to %s: %s", header.route[0].short, error)
            self.stats.unreachable += 1
            await stream.send(_answer("unreachable"))

    async def _splice(self, near: RequestStream, far: RequestStream, allowance: Allowance) -> None:
        """Carries both ways; what the target sends is paid for by who asked, too.

        Raises:
            WireError: `near` sent what is no datagram.
        """
        config = self._config.carrier
        there = Carrier(near, config, self.carried, allowance)
        back = Carrier(far, config, self.carried, allowance)
        fault: WireError | None = None

        async def run(one: Carrier, other: Carrier) -> None:
            nonlocal fault
            try:
                await one.run(other.put)
            except WireError as error:
                fault = error if one is there else fault
            other.end()
            nursery.cancel_scope.deadline = trio.current_time() + config.linger_s

        async with trio.open_nursery() as nursery:
            nursery.start_soon(run, back, there)
            await run(there, back)
        if fault is not None:
            raise fault
        there.check_whole()
        back.check_whole()

    # --- one hop --------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def _open(self, route: tuple[NodeId, ...], hops: int, until: float) -> AsyncIterator[Request]:
        """Opens the request to the first node of `route` and waits until the last one has said that it is there.

        Raises:
            RemoteError: It did not in time, or a node on the way refused.
        """
        first = route[0]
        async with self._links.reserve(first, until - trio.current_time()) as connection:
            rest_ms = max(0, int(1_000 * (until - trio.current_time())))
            header: dict[str, Any] = to_wire(ForwardHeader(route[-1], route[1:], hops, rest_ms))
            async with open_request(connection, FORWARD, header, math.inf) as stream:
                with trio.move_on_at(until) as scope:
                    body = await stream.receive()
                if scope.cancelled_caught:
                    raise RemoteError(f"no way to {route[-1].short} through {first.short} in time")
                _check_answer(first, body)
                yield stream

    @staticmethod
    async def _run(carrier: Carrier, deliver: Any, scope: trio.CancelScope) -> None:
        try:
            await carrier.run(deliver)
        except WireError as error:
            raise RemoteError(str(error)) from error
        scope.cancel()


def _answer(error: str = "") -> bytes:
    return codec.encode({"error": error} if error else {"ok": True})


def _check_answer(node: NodeId, body: bytes | None) -> None:
    """Reads what the first hop answered.

    Raises:
        RemoteError: The target was not reached.
    """
    try:
        value = codec.decode_untrusted(body) if body is not None else None
    except WireError as error:
        raise RemoteError(f"{node.short} answered what cannot be read: {error}") from error
    if not isinstance(value, dict) or value.get("ok") is not True:
        reason = value.get("error") if isinstance(value, dict) else None
        raise RemoteError(f"{node.short} does not forward: {reason if reason in REASONS else 'no reason given'}")


def _first(group: BaseExceptionGroup[RemoteError]) -> RemoteError:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, RemoteError)
    return error
