"""Who may come into the relay: bounds on handshakes, arrivals and clients, in all and for each host. No I/O."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from atmo.gossip.allowance import Allowance

_HOSTS_KEPT = 4_096
"""Hosts whose arrivals are counted; the one known longest makes room, which gives its host a full burst again."""


@dataclass(frozen=True, slots=True)
class DoorConfig:
    """Bounds. A host is an IPv4 address or the /64 of an IPv6 address.

    Attributes:
        max_clients: In all. Source: about 50 KB each at rest with TLS (docs/measurements.md); what waits is bounded.
        max_clients_per_host: Source: guess; machines of an office share one address.
        max_handshakes: Connections that have not proved who they are. Source: guess.
        max_handshakes_per_host: Source: guess.
        arrivals_per_s: New connections of one host in the long run; each costs one or two milliseconds with TLS.
        arrivals_burst: And at once.
    """

    max_clients: int = 2_000
    max_clients_per_host: int = 64
    max_handshakes: int = 256
    max_handshakes_per_host: int = 32
    arrivals_per_s: float = 10.0
    arrivals_burst: float = 128.0


class Door:
    """Counts who is in.

    Args:
        config: Bounds.
    """

    def __init__(self, config: DoorConfig) -> None:
        self._config = config
        self._arrivals: dict[str, Allowance] = {}
        self._handshakes: Counter[str] = Counter()
        self._clients: Counter[str] = Counter()
        self.handshakes = 0
        self.clients = 0

    def knock(self, host: str, mono: float) -> Visit | str:
        """A connection came in. Returns its visit, or why it must go."""
        config = self._config
        if self.handshakes >= config.max_handshakes:
            return "handshakes"
        if self._handshakes.get(host, 0) >= config.max_handshakes_per_host:
            return "handshakes_per_host"
        if not self._allowance(host).take(mono, 1.0):
            return "arrivals"
        self.handshakes += 1
        self._handshakes[host] += 1
        return Visit(self, host)

    def _settled(self, host: str) -> None:
        self.handshakes -= 1
        _take(self._handshakes, host)

    def seat(self, host: str) -> str | None:
        """A client has proved who it is. Returns why it must go, else None; then `left` has to follow."""
        if self.clients >= self._config.max_clients:
            return "clients"
        if self._clients.get(host, 0) >= self._config.max_clients_per_host:
            return "clients_per_host"
        self.clients += 1
        self._clients[host] += 1
        return None

    def left(self, host: str) -> None:
        """A client is gone."""
        self.clients -= 1
        _take(self._clients, host)

    def _allowance(self, host: str) -> Allowance:
        found = self._arrivals.get(host)
        if found is None:
            if len(self._arrivals) >= _HOSTS_KEPT:
                del self._arrivals[next(iter(self._arrivals))]
            found = self._arrivals[host] = Allowance(self._config.arrivals_per_s, self._config.arrivals_burst)
        return found


class Visit:
    """A connection whose handshake is under way; made by `Door.knock`.

    Attributes:
        host: Where from.
        ended: Why it ended, as far as is known.
    """

    def __init__(self, door: Door, host: str) -> None:
        self.host = host
        self.ended = "unproved"
        self._door: Door | None = door

    def settled(self) -> None:
        """The handshake is over, well or badly; once is enough."""
        if self._door is not None:
            self._door._settled(self.host)
            self._door = None


def _take(counter: Counter[str], key: str) -> None:
    counter[key] -= 1
    if not counter[key]:
        del counter[key]
