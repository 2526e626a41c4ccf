"""Two cores joined by function calls, on a clock that only the test moves."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from aioquic.quic import events

from atmo.identity import NodeId, Signer
from atmo.net.certificate import Credentials, make_credentials
from atmo.net.quic_config import QuicConfig
from atmo.net.quic_core import QuicCore

ALICE, BOB, EVE = Signer(b"a" * 32), Signer(b"b" * 32), Signer(b"e" * 32)
CLIENT, SERVER = ("192.0.2.1", 1), ("192.0.2.2", 2)
DELAY_S = 0.005
Wire = Callable[[bytes], bytes | None]


class Pair:
    """A client that dials a server; either may be given other credentials than it should have.

    Args:
        wire: Sees each datagram and returns what arrives instead, None for nothing.
    """

    def __init__(
        self,
        config: QuicConfig = QuicConfig(),
        *,
        credentials: Credentials | None = make_credentials(ALICE),
        expected: NodeId = BOB.node_id,
        wire: Wire = lambda data: data,
    ) -> None:
        self.now = 0.0
        self.client_address = CLIENT
        self.wire = wire
        self.config = config
        self.client = QuicCore(credentials, config, datagram_bytes=1_200, expected=expected)
        self.client.connect(SERVER, self.now)
        self.server: QuicCore | None = None
        self.seen: dict[str, list[events.QuicEvent]] = {"client": [], "server": []}
        self._flying: list[tuple[float, str, bytes]] = []

    def run(self, seconds: float = 1.0) -> Pair:
        """Carries datagrams and fires timers until nothing is due within `seconds`."""
        until = self.now + seconds
        while True:
            self._collect()
            at = min([when for when, _, _ in self._flying] + [core.next_timer() for core in self._cores().values()])
            if at > until:
                self.now = until
                return self
            self.now = max(self.now, at)
            self._deliver()
            for core in self._cores().values():
                core.handle_timer(self.now)

    def data(self, end: str, stream_id: int = 0) -> bytes:
        """Returns what has arrived at one end of a stream."""
        return b"".join(each.data for each in self.of(end, events.StreamDataReceived) if each.stream_id == stream_id)

    def of(self, end: str, kind: type[Any]) -> list[Any]:
        """Returns the events of one kind that one end has seen."""
        return [each for each in self.seen[end] if isinstance(each, kind)]

    def both(self) -> tuple[QuicCore, QuicCore]:
        """Returns client and server after a handshake that must have gone well."""
        self.run()
        assert self.server is not None
        assert self.client.peer == BOB.node_id
        assert self.server.peer is not None
        return self.client, self.server

    def _cores(self) -> dict[str, QuicCore]:
        return {"client": self.client} | ({"server": self.server} if self.server else {})

    def _collect(self) -> None:
        for name, core in self._cores().items():
            self.seen[name] += core.poll()
            for data, _ in core.transmit(self.now):
                arrived = self.wire(data)
                if arrived is not None:
                    target = "server" if name == "client" else "client"
                    self._flying.append((self.now + DELAY_S, target, arrived))
            self.seen[name] += core.poll()

    def _deliver(self) -> None:
        due = [each for each in self._flying if each[0] <= self.now]
        self._flying = [each for each in self._flying if each[0] > self.now]
        for _, target, data in due:
            if target == "client":
                self.client.receive(data, SERVER, self.now)
                continue
            if self.server is None:
                self.server = QuicCore(
                    make_credentials(BOB), self.config, datagram_bytes=1_200, original_id=data[6 : 6 + data[5]]
                )
            self.server.receive(data, self.client_address, self.now)


def assert_open(pair: Pair) -> None:
    """Both ends are in use."""
    for core in pair.both():
        assert not core.closed, core.close_reason
        assert core.next_timer() < math.inf
