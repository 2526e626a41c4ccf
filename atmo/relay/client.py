"""What a node holds of relays: one home relay, where others find it, and short connections to relays of others."""

from __future__ import annotations

import random
import ssl
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import NoReturn

import trio

from atmo.identity import NodeId, Signer
from atmo.relay.address import RELAYS_MOST, RelayAddress
from atmo.relay.link import Connect, LinkConfig, RelayLink, RelayLost, connect_tcp
from atmo.relay.protocol import CLOSE_REPLACED, Absent, Datagrams, Draining, Told, framed

Deliver = Callable[[NodeId, bytes, RelayAddress], None]
"""Takes a datagram: who sent it, what, and over which relay, which is where an answer has to go."""

Tell = Callable[[NodeId, RelayAddress], None]


@dataclass(frozen=True, slots=True)
class RelayClientConfig:
    """Bounds and waiting times.

    Attributes:
        link: Of each connection.
        retry_first_s: After every relay failed once; doubles with each further round, and half of it is chance.
        retry_most_s: It never gets longer. Source: a relay that is restarted is back within seconds.
        stable_s: A home that held for so long was a good one: what comes then begins anew.
        move_jitter_s: At most so long a node waits before it moves, so that not all come at once.
        others_most: Connections to relays that are not home.
        other_idle_s: One over which nothing went for so long is closed. Source: `QuicConfig.idle_timeout_s` and margin.
        other_retry_s: One that could not be made is not tried again for so long.
    """

    link: LinkConfig = field(default_factory=LinkConfig)
    retry_first_s: float = 1.0
    retry_most_s: float = 60.0
    stable_s: float = 30.0
    move_jitter_s: float = 0.5
    others_most: int = 8
    other_idle_s: float = 45.0
    other_retry_s: float = 30.0


_FAILED_MOST = 64


@dataclass(frozen=True, slots=True)
class RelayState:
    """Where this node can be found.

    Attributes:
        home: The relay that it is connected to; None while there is none.
        relay: Who that relay has proved to be.
        reason: Why there is none.
    """

    home: RelayAddress | None
    relay: NodeId | None
    reason: str


@dataclass(slots=True)
class RelayClientStats:
    """Counters since start.

    Attributes:
        sent: Datagrams that were taken for sending.
        received: Datagrams that came.
        dropped: Those that a full queue pushed out, or for which there was no connection.
        absent: Times that a relay said that a node is not there.
        homes: Times that a home relay was found.
        lost: Times that it was lost.
        failed: Times that a relay could not be reached.
    """

    sent: int = 0
    received: int = 0
    dropped: int = 0
    absent: int = 0
    homes: int = 0
    lost: int = 0
    failed: int = 0


def _ignore(*_: object) -> None:
    pass


class RelayClient:
    """A node's connections to relays. Callbacks are called from `run`'s tasks and must not block.

    Args:
        signer: This node's key.
        relays: At most 16; the first that answers becomes home.
        deliver: Takes what comes.
        absent: Is told that a node is not at a relay, or that this relay cannot be reached.
        changed: Is told each new state.
        config: Bounds and waiting times.
        tls: For relays with certificates that the system does not know.
        connect: Opens TCP connections.
        rng: For the jitter.

    Raises:
        ValueError: Too many relays.
    """

    def __init__(
        self,
        signer: Signer,
        relays: Sequence[RelayAddress],
        deliver: Deliver,
        *,
        absent: Tell = _ignore,
        changed: Callable[[RelayState], None] = _ignore,
        config: RelayClientConfig = RelayClientConfig(),
        tls: ssl.SSLContext | None = None,
        connect: Connect = connect_tcp,
        rng: random.Random | None = None,
    ) -> None:
        if len(relays) > RELAYS_MOST:
            raise ValueError(f"{len(relays)} relays are more than {RELAYS_MOST}")
        self.state = RelayState(None, None, "it is being dialled")
        self.stats = RelayClientStats()
        self._signer = signer
        self._relays = tuple(dict.fromkeys(relays))
        self._deliver = deliver
        self._absent = absent
        self._changed = changed
        self._config = config
        self._tls = tls
        self._connect = connect
        self._random = rng or random.Random()
        self._home: RelayLink | None = None
        self._others: dict[RelayAddress, RelayLink] = {}
        self._failed: dict[RelayAddress, float] = {}
        self._nursery: trio.Nursery | None = None
        self._hurry = trio.Event()

    @property
    def others(self) -> tuple[RelayAddress, ...]:
        """The relays besides home to which there are connections, or will be."""
        return tuple(self._others)

    @property
    def queued_bytes(self) -> int:
        """What waits to be sent to the home relay."""
        return 0 if self._home is None else len(self._home.outbox)

    def send(self, node: NodeId, datagram: bytes, relay: RelayAddress | None = None) -> bool:
        """Queues a datagram for a node; never blocks.

        Args:
            node: Whom to.
            datagram: At most 64 KiB.
            relay: Where that node is; None for this node's home. A connection to another one is opened where needed.

        Returns:
            Whether it was taken. False: there is no home, there are too many other connections, or that relay could
            not be reached a moment ago.

        Raises:
            WireError: The datagram is empty or too long.
        """
        body = framed(datagram)
        link = self._link_to(relay)
        if link is None:
            self.stats.dropped += 1
            return False
        link.used = trio.current_time()
        self.stats.sent += 1
        self.stats.dropped += link.outbox.put(node, body, 1)
        return True

    def network_changed(self, hosts: Collection[str]) -> None:
        """This machine has these addresses now: connections that are dead by that are made anew at once."""
        for link in (*((self._home,) if self._home else ()), *self._others.values()):
            link.network_changed(hosts)
        self._failed.clear()
        self._hurry.set()

    async def run(self) -> NoReturn:
        """Holds the connections until cancelled, and then closes them."""
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                await self._hold_home(nursery)
        finally:
            self._nursery = None
        raise AssertionError("home is held for ever")

    async def _hold_home(self, nursery: trio.Nursery) -> NoReturn:
        if not self._relays:
            await trio.sleep_forever()
        turn = failed = 0
        while True:
            address = self._relays[turn % len(self._relays)]
            turn += 1
            link = await self._open_home(nursery, address)
            held_s = 0.0
            if link.relay is not None:
                await link.ending.wait()
                held_s = trio.current_time() - link.since
            failed = 0 if link.lost is None or held_s >= self._config.stable_s else failed + 1
            self._hurry = trio.Event()
            with trio.move_on_after(self._pause_s(failed, link.lost)):
                await self._hurry.wait()

    async def _open_home(self, nursery: trio.Nursery, address: RelayAddress) -> RelayLink:
        """Tries one relay; a home that drains is held until there is a new one."""
        other = self._others.pop(address, None)
        if other is not None:
            other.scope.cancel()  # a relay keeps one connection of a node
            await other.ending.wait()
        link = self._new_link(address)
        nursery.start_soon(self._run_home, link)
        await link.settled.wait()
        if link.relay is not None and link.lost is None:
            before, self._home = self._home, link
            if before is not None:
                before.scope.cancel()
            self.stats.homes += 1
            self._tell(RelayState(address, link.relay, ""))
        return link

    async def _run_home(self, link: RelayLink) -> None:
        await link.run()
        assert link.lost is not None
        self.stats.dropped += link.outbox.clear()
        if link.relay is None:
            self.stats.failed += 1
            if self._home is None:
                self._tell(RelayState(None, None, f"{link.address.url} {link.lost}"))
        if self._home is link:
            self._home = None
            self.stats.lost += 1
            self._tell(RelayState(None, None, f"{link.address.url} {link.lost}"))

    def _pause_s(self, failed: int, lost: RelayLost | None) -> float:
        config = self._config
        if lost is not None and lost.code == CLOSE_REPLACED:
            return config.retry_most_s  # another process has this node's key: the two must not throw each other out
        rounds, rest = divmod(failed, len(self._relays))
        if failed == 0 or rest:
            return self._random.uniform(0.0, config.move_jitter_s)
        pause_s = min(config.retry_most_s, config.retry_first_s * 2.0 ** min(rounds - 1, 16))
        return self._random.uniform(0.5, 1.0) * pause_s

    def _tell(self, state: RelayState) -> None:
        self.state = state
        self._changed(state)

    def _new_link(self, address: RelayAddress) -> RelayLink:
        return RelayLink(address, self._signer, self._config.link, self._told, self._connect, self._tls)

    def _told(self, link: RelayLink, told: Told) -> None:
        if isinstance(told, Datagrams):
            link.used = trio.current_time()
            self.stats.received += len(told.datagrams)
            for datagram in told.datagrams:
                self._deliver(told.source, datagram, link.address)
        elif isinstance(told, Absent):
            self.stats.absent += 1
            self._absent(told.node, link.address)
        elif isinstance(told, Draining):
            link.ending.set()

    def _link_to(self, relay: RelayAddress | None) -> RelayLink | None:
        if relay is None or (self._home is not None and relay == self._home.address):
            return self._home
        link = self._others.get(relay)
        if link is not None:
            return link
        if self._nursery is None or len(self._others) >= self._config.others_most:
            return None
        if trio.current_time() < self._failed.get(relay, 0.0):
            return None
        link = self._others[relay] = self._new_link(relay)
        self._nursery.start_soon(self._run_other, link)
        return link

    async def _run_other(self, link: RelayLink) -> None:
        idle_s = self._config.other_idle_s
        async with trio.open_nursery() as nursery:
            nursery.start_soon(link.run)
            while not link.ending.is_set() and (left := link.used + idle_s - trio.current_time()) > 0:
                with trio.move_on_after(left):
                    await link.ending.wait()
            link.scope.cancel()
        if self._others.get(link.address) is link:
            del self._others[link.address]
        nodes = link.outbox.nodes
        self.stats.dropped += link.outbox.clear()
        if link.relay is None:
            self.stats.failed += 1
            self._remember_failed(link.address)
            for node in nodes:
                self._absent(NodeId(node), link.address)

    def _remember_failed(self, relay: RelayAddress) -> None:
        now = trio.current_time()
        self._failed = {other: until for other, until in self._failed.items() if until > now}
        if len(self._failed) >= _FAILED_MOST:
            del self._failed[next(iter(self._failed))]
        self._failed[relay] = now + self._config.other_retry_s
