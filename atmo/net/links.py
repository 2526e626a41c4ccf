"""The links of a peer: dialled and accepted connections, of which each node has one, and the gossip on them.

On each link our gossip goes out on a stream that we opened and theirs comes in on one that they opened; every other
request is a stream of its own. Which of two links to one node stays is the peer's to say.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable

import trio

from atmo.engine import Dial
from atmo.errors import RemoteError, WireError
from atmo.identity import NodeId
from atmo.net.link import DriverStats, Link, Shell
from atmo.net.ports import Handler, RequestStream
from atmo.net.quic import Connection, Endpoint, VirtualPath
from atmo.net.relayed import RelayPaths
from atmo.net.requests import open_request, serve_requests
from atmo.peer import LinkAge, Peer
from atmo.peer.messages import decode_message_untrusted
from atmo.wire.address import Address

log = logging.getLogger(__name__)

GOSSIP = "atmo/gossip/1"
_DIAL_S = 5.0
_STAGGER_S = 0.25  # Source: RFC 8305 section 8, Connection Attempt Delay
_RELAY_S = 0.03
"""A relay is tried so long after the first address: what answers at once is taken without it. Source: guess, the round
trip of a city; a better path is found right after, too."""
_QUEUE = 512
_LEAVE_S = 0.3
_REST = 3.0
"""For each second that one neighbour's gossip takes, so many are left to everybody else; what it sends meanwhile waits
at its end. Source: guess."""
_GRACE_S = 2.0
"""A link that another one replaced stays for so long, for requests that its other end sends before it knows; one that
fell silent until its connection would be given up, as the other end may have sent some in vain."""
_LINGER_S = 600.0
"""And for so long at most while requests are under way on it. Source: the longest of them; a connection over which
nothing comes is closed after `QuicConfig.idle_timeout_s`."""
_LOOK_S = 10.0  # between two looks whether its node is a member still
_LINGERING_MOST = 2  # links to one node beside the one in the table
_DEBT_S = 0.005  # shorter rests are not worth a timer


class Links:
    """Keeps the table of links.

    Args:
        endpoint: The open socket.
        peer: Told of links and messages.
        stats: Counts.
        shell: The driver.

    Attributes:
        nursery: Where links run.
        relayed: Gives paths over relays.
        nearby: Tells where on this LAN a node is said to listen: tried last in each dial, as anyone may say so.
    """

    def __init__(self, endpoint: Endpoint, peer: Peer, stats: DriverStats, shell: Shell) -> None:
        self.nursery: trio.Nursery | None = None
        self.relayed: RelayPaths | None = None
        self.nearby: Callable[[NodeId], tuple[Address, ...]] = lambda node: ()
        self._endpoint = endpoint
        self._peer = peer
        self._stats = stats
        self._shell = shell
        self._links: dict[NodeId, Link] = {}
        self._lingering: dict[NodeId, list[Link]] = {}

    # --- queries --------------------------------------------------------------------------------------------------

    def get(self, node: NodeId) -> Link | None:
        """Returns the link to a node, ready or not."""
        return self._links.get(node)

    def ready(self) -> list[Link]:
        """Returns the links whose other ends proved their membership."""
        return [link for link in self._links.values() if link.ready.is_set()]

    def alive(self) -> list[Link]:
        """Returns those, and the ones that linger for requests under way."""
        return [*self.ready(), *(link for links in self._lingering.values() for link in links)]

    # --- commands -------------------------------------------------------------------------------------------------

    async def accept_forever(self) -> None:
        """Makes links of the connections that come from outside."""
        while True:
            self.adopt(await self._endpoint.accept())

    def hang_up(self, node: NodeId, reason: str, *, lingers: bool) -> None:
        """Ends the link to a node, or only takes it out of the table: for as long as requests are under way on it, or
        the other end, which was not heard, may have sent some.
        """
        link = self._links.get(node)
        if lingers and link is not None:
            self._retire(link, reason, link.connection.config.idle_timeout_s)
            return
        for each in (*([link] if link else ()), *self._lingering.get(node, ())):
            each.end(reason)

    def _retire(self, link: Link, reason: str, grace_s: float) -> None:
        assert self.nursery is not None
        node = link.connection.node_id
        link.reason, link.retired = link.reason or reason, True
        link.send.close()
        lingering = self._lingering.setdefault(node, [])
        lingering.append(link)
        if len(lingering) > _LINGERING_MOST:
            lingering[0].end(reason)
        del self._links[node]
        link.gone.set()
        self.nursery.start_soon(self._linger, link, grace_s)
        self._peer.link_down(self._shell.now(), node, reason)
        self._shell.kick()

    async def _linger(self, link: Link, grace_s: float) -> None:
        with trio.move_on_after(grace_s):
            await link.connection.closed.wait()
        until = trio.current_time() + _LINGER_S
        while link.held and not link.ending and trio.current_time() < until and self._is_member(link):
            with trio.move_on_after(_LOOK_S):
                await link.unheld.wait()
        link.end(link.reason)

    def _is_member(self, link: Link) -> bool:
        return self._peer.trust.is_member(self._shell.now().wall, link.connection.node_id)

    def send(self, to: NodeId, body: bytes) -> None:
        """Queues a message; dropped where there is no link, or too much waits for it."""
        link = self._links.get(to)
        if link is None:
            return
        try:
            link.send.send_nowait(body)
            self._stats.messages_out += 1
        except (trio.WouldBlock, trio.BrokenResourceError):
            self._stats.messages_dropped += 1

    async def dial(self, effect: Dial) -> None:
        """Opens a link, or tells the peer that it failed."""
        connection = await self._race(effect)
        if connection is None:
            self._peer.dial_failed(self._shell.now(), effect.node)
            self._shell.kick()
        else:
            self.adopt(connection)

    async def _race(self, effect: Dial) -> Connection | None:
        """Dials all addresses, each a little after the one before, and over relays; the first that answers as the right
        node wins. A better path is found later (`net.pathfinder`)."""
        winner: Connection | None = None

        async def attempt(address: Address | VirtualPath, delay: float, scope: trio.CancelScope) -> None:
            nonlocal winner
            await trio.sleep(delay)
            try:
                connection = await self._endpoint.dial(address, effect.node, _DIAL_S)
            except RemoteError as error:
                log.debug("dial %s at %s: %s", effect.node.short, address, error)
                return
            if winner is None:
                winner = connection
                scope.cancel()
            else:
                await connection.aclose("another address answered first")

        async with trio.open_nursery() as nursery:
            places = dict.fromkeys((*effect.addresses, *self.nearby(effect.node)))
            for number, address in enumerate(places):
                nursery.start_soon(attempt, address, number * _STAGGER_S, nursery.cancel_scope)
            for path in self._relayed_paths(effect.node):
                nursery.start_soon(attempt, path, _RELAY_S if places else 0.0, nursery.cancel_scope)
        return winner

    def _relayed_paths(self, node: NodeId) -> list[VirtualPath]:
        """Returns the paths over the relay at which the node says it is found, and over this node's own, where it may
        be without having been able to say so.
        """
        if self.relayed is None:
            return []
        found = []
        for url in dict.fromkeys((self._peer.relay_of(node), self.relayed.home())):
            try:
                if url is not None:
                    found.append(self.relayed.path(node, url))
            except RemoteError as error:
                log.debug("no relayed path to %s: %s", node.short, error)
        return found

    def adopt(self, connection: Connection) -> None:
        """Makes a connection the link to its node, unless a better one is there."""
        assert self.nursery is not None
        node = connection.node_id
        old = self._links.get(node)
        if node == self._peer.node_id or (old and self._keeps(old, connection)):
            self.nursery.start_soon(connection.aclose, "there is a link already")
            return
        if old:
            self._retire(old, "replaced by a newer link", _GRACE_S)
        send, queue = trio.open_memory_channel[bytes](_QUEUE)
        link = Link(connection, send, queue, trio.current_time())
        self._links[node] = link
        self._peer.link_up(self._shell.now(), node, link.path)
        self.nursery.start_soon(self._run, link)
        self._shell.kick()

    def _keeps(self, old: Link, connection: Connection) -> bool:
        if old.connection.closed.is_set():
            return False
        age = LinkAge(old.connection.outbound, old.since)
        return self._peer.keeps(self._shell.now(), connection.node_id, age, connection.outbound)

    # --- one link -------------------------------------------------------------------------------------------------

    async def _run(self, link: Link) -> None:
        node = link.connection.node_id
        link.connection.admits = lambda: self._shell.admits(node)
        try:
            with link.scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._write_gossip, link)
                    nursery.start_soon(
                        serve_requests,
                        link.connection,
                        lambda protocol: self._dispatch(link, protocol),
                        lambda reason: self._bad(link, reason),
                    )
                    await link.connection.closed.wait()
                    nursery.cancel_scope.cancel()
        finally:
            reason = link.reason or link.connection.close_reason or "shutting down"
            with trio.CancelScope(shield=True, deadline=trio.current_time() + _LEAVE_S):
                await link.connection.aclose(reason)
            self._forget(link)
            if self._links.get(node) is link:
                del self._links[node]
                self._peer.link_down(self._shell.now(), node, reason)
                self._shell.kick()
            link.gone.set()

    def _forget(self, link: Link) -> None:
        node = link.connection.node_id
        left = [each for each in self._lingering.pop(node, ()) if each is not link]
        if left:
            self._lingering[node] = left

    def _dispatch(self, link: Link, protocol: str) -> Handler | None:
        if protocol == GOSSIP:
            return lambda stream: self._read_gossip(link, stream)
        return self._shell.dispatch(link, protocol)

    def _bad(self, link: Link, reason: str) -> None:
        self._stats.bad_requests += 1
        self._peer.malformed(self._shell.now(), link.connection.node_id, reason)
        if link.retired:
            link.end(reason)  # the peer, which counts faults, knows it no more
        self._shell.kick()

    async def _write_gossip(self, link: Link) -> None:
        try:
            async with open_request(link.connection, GOSSIP, {}, math.inf) as stream:
                async for body in link.queue:
                    await stream.send(body)
        except RemoteError as error:
            if not link.retired:
                link.end(str(error))

    async def _read_gossip(self, link: Link, stream: RequestStream) -> None:
        if link.gossiping:
            raise RemoteError("a second gossip stream on one link")
        link.gossiping = True
        try:
            debt_s = 0.0
            while (body := await stream.receive()) is not None:
                began = trio.current_time()
                self._take(link, body)
                debt_s += _REST * (trio.current_time() - began)
                if debt_s > _DEBT_S:
                    await trio.sleep(debt_s)
                    debt_s = 0.0
                else:
                    await trio.lowlevel.checkpoint()
            self._gossip_ended(link)
        except RemoteError as error:
            link.reason = link.reason or str(error)
            link.scope.cancel()
            raise
        except BaseException:
            link.scope.cancel()
            raise

    def _gossip_ended(self, link: Link) -> None:
        """The other end took the link out of its table: so does this one."""
        reason = link.reason or "it ended its gossip"
        if link.retired:
            return
        if self._links.get(link.connection.node_id) is link:
            self._retire(link, reason, _GRACE_S)
        else:
            link.reason = reason
            link.scope.cancel()

    def _take(self, link: Link, body: bytes) -> None:
        node = link.connection.node_id
        if self._links.get(node) is not link:
            return
        self._stats.messages_in += 1
        self._peer.set_load(self._shell.load())
        try:
            message = decode_message_untrusted(body)
        except WireError as error:
            self._stats.malformed += 1
            self._peer.malformed(self._shell.now(), node, str(error))
        else:
            self._peer.receive(self._shell.now(), node, message, len(body))
        self._shell.kick()
