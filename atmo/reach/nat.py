"""What a node knows of the NAT before it, from what servers outside say that they see (RFC 4787, RFC 5780).

Every answer of a server says under which address it saw this node's socket. Servers of different hosts that see the
same address: the NAT keeps one mapping for all destinations. Where they see different ones, two ports of one host tell
whether the port counts, too. A server may lie or be behind another NAT than the others: each host has one vote, and
most votes decide; of two that contradict each other neither is believed to be wrong. Answers are compared with those
of about the same time, as a NAT that was restarted has other mappings.
"""

from __future__ import annotations

import ipaddress
import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from atmo.clock import Now
from atmo.reach.prediction import ADDRESS, ENDPOINT, NONE, PORT, UNKNOWN
from atmo.wire.address import Address, host_group

SERVERS_MOST = 16
"""Which a node is told of. Source: as many as relays."""

_BROADCAST = ipaddress.IPv4Address("255.255.255.255")


@dataclass(frozen=True, slots=True)
class NatConfig:
    """Periods and bounds.

    Attributes:
        period_s: Between two measurements. Source: guess; longer than NATs keep what is not used, five minutes as
            RFC 4787 section 4.3 recommends, so that filtering can be tested in each measurement but the first.
        retry_s: After one that nobody answered, then each time twice as long, up to `period_s`. Source: guess.
        soon_s: After the network has changed; addresses come one by one then. Source: guess.
        lifetime_s: An answer counts for so long; three periods.
        together_s: Answers that far apart are compared. Source: the questions of a measurement take 75 s at most.
        observations: Kept answers. Source: a measurement brings 39 at most.
        filterings: Kept results of filtering tests; a measurement brings two.
        public: Reported addresses of one IP version.
    """

    period_s: float = 600.0
    retry_s: float = 5.0
    soon_s: float = 3.0
    lifetime_s: float = 1_800.0
    together_s: float = 150.0
    observations: int = 64
    filterings: int = 8
    public: int = 4


@dataclass(frozen=True, slots=True)
class NatReport:
    """What is known now. Where there are answers over IPv4 it is about that, where NATs are; else about IPv6.

    Attributes:
        mapping: `none`, `endpoint` (one mapping for all destinations), `address` (one for each address), `port` (one
            for each address and port), or `unknown`.
        filtering: Who is let in by a mapping: `endpoint` (everybody), `address` (addresses that were sent to), `port`
            (addresses and ports that were sent to), or `unknown`.
        public: Where others see this node, of both IP versions, the newest first.
        measured_at: Monotonic seconds of the newest answer.
    """

    mapping: str = UNKNOWN
    filtering: str = UNKNOWN
    public: tuple[Address, ...] = ()
    measured_at: float | None = None


@dataclass(frozen=True, slots=True)
class _Observation:
    server: Address
    mapped: Address
    at: float


class Nat:
    """Collects answers about one socket and says what they mean, and when to ask again.

    Args:
        config: Periods and bounds.
        own: Where this node listens, by its interfaces.
    """

    def __init__(self, config: NatConfig, own: Iterable[Address] = ()) -> None:
        self._config = config
        self._own = frozenset(own)
        self._observations: dict[Address, _Observation] = {}  # by server, the newest last
        self._filterings: dict[Address, tuple[str, float]] = {}  # likewise
        self._due = -math.inf
        self._retry_s = config.retry_s
        self._answered = False

    def saw(self, now: Now, server: Address, mapped: Address) -> bool:
        """A server answered that it sees the socket at `mapped`; returns whether that can be."""
        if not _plausible(server, mapped):
            return False
        self._answered = True
        self._observations.pop(server, None)
        self._observations[server] = _Observation(server, mapped, now.mono)
        while len(self._observations) > self._config.observations:
            del self._observations[next(iter(self._observations))]
        return True

    def filters(self, now: Now, server: Address, behaviour: str) -> None:
        """A test with the help of `server` showed whom the NAT lets in."""
        self._filterings.pop(server, None)
        self._filterings[server] = (behaviour, now.mono)
        while len(self._filterings) > self._config.filterings:
            del self._filterings[next(iter(self._filterings))]

    def network_changed(self, now: Now, own: Iterable[Address]) -> bool:
        """These are the addresses of the interfaces now; where they are others than before, all that was known is
        forgotten. Returns whether they are.
        """
        if frozenset(own) == self._own:
            return False
        self._own = frozenset(own)
        self._observations.clear()
        self._filterings.clear()
        self.hurry(now, self._config.soon_s)
        return True

    # When to ask

    def next_timer(self) -> float:
        """Returns when to measure, in monotonic seconds; never while that is under way."""
        return self._due

    def hurry(self, now: Now, within_s: float = 0.0) -> None:
        """There is reason to measure soon: another network, or servers that were not known before."""
        self._retry_s = self._config.retry_s
        self._due = min(self._due, now.mono + within_s)

    def begin(self) -> None:
        """A measurement begins."""
        self._answered = False
        self._due = math.inf

    def end(self, now: Now) -> None:
        """It is over."""
        if self._answered:
            self._retry_s, wait_s = self._config.retry_s, self._config.period_s
        else:
            wait_s = self._retry_s
            self._retry_s = min(2 * self._retry_s, self._config.period_s)
        self._due = min(self._due, now.mono + wait_s)

    # What it means

    def report(self, now: Now) -> NatReport:
        """Returns what the answers that still count mean together."""
        since = now.mono - self._config.lifetime_s
        self._observations = {server: each for server, each in self._observations.items() if each.at >= since}
        self._filterings = {server: each for server, each in self._filterings.items() if each[1] >= since}
        found = {version: each for version in (4, 6) if (each := self._comparable(version))}
        if not found:
            return NatReport(filtering=self._filtering(4))
        verdicts = {version: self._judge(each) for version, each in found.items()}
        version = min(found)
        public = tuple(address for each in verdicts.values() for address in each[1])
        newest = max(each.at for each in self._observations.values())
        return NatReport(verdicts[version][0], self._filtering(version), public, newest)

    def _comparable(self, version: int) -> list[_Observation]:
        """Returns the answers over an IP version that tell of the same NAT at about the same time, the newest first.

        Servers of the own network see no NAT where those outside do, and count only where there are no others.
        """
        found = [each for each in reversed(self._observations.values()) if _host(each.server).version == version]
        found = [each for each in found if _host(each.server).is_global] or found
        recent = [each for each in found if each.at >= found[0].at - self._config.together_s]
        if len({host_group(each.server.host) for each in recent}) > 1:
            return recent
        last = {each.mapped for each in recent}
        return recent + [each for each in found[len(recent) :] if each.mapped in last]

    def _judge(self, answers: list[_Observation]) -> tuple[str, tuple[Address, ...]]:
        """Returns the mapping and where others see the socket."""
        seen: dict[str, list[Address]] = {}
        for each in answers:
            seen.setdefault(host_group(each.server.host), []).append(each.mapped)
        votes = Counter(mapped[0] for mapped in seen.values() if len(set(mapped)) == 1)
        for address, count in votes.most_common(1):
            if 2 * count > len(seen) and (len(seen) > 1 or address in self._own):
                return (NONE if address in self._own else ENDPOINT), (address,)
        public = tuple(dict.fromkeys(each.mapped for each in answers))[: self._config.public]
        pairs = [len(set(mapped)) == 1 for mapped in seen.values() if len(mapped) > 1]
        if len(seen) == 1 and all(pairs):
            return UNKNOWN, public
        return (ADDRESS if 2 * sum(pairs) > len(pairs) else PORT), public

    def _filtering(self, version: int) -> str:
        newest_first = (
            behaviour
            for server, (behaviour, _) in reversed(self._filterings.items())
            if _host(server).version == version
        )
        return next((behaviour for behaviour, _ in Counter(newest_first).most_common(1)), UNKNOWN)


def _host(address: Address) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    return ipaddress.ip_address(address.host)


def alike(one: Address, other: Address) -> bool:
    """Says whether two addresses are of the same version and reach: both of the internet, of private networks, or of
    this machine. So no server has a node send anything into the node's own network.
    """
    first, second = _host(one), _host(other)
    return (first.version, first.is_global, first.is_loopback, first.is_link_local) == (
        second.version,
        second.is_global,
        second.is_loopback,
        second.is_link_local,
    ) and not _is_nobody(second)


def _plausible(server: Address, mapped: Address) -> bool:
    """Says whether a server there can see a socket at `mapped`."""
    source, host = _host(server), _host(mapped)
    if host.version != source.version or _is_nobody(host):
        return False
    return (not host.is_loopback or source.is_loopback) and (not host.is_link_local or source.is_link_local)


def _is_nobody(host: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    return host.is_multicast or host.is_unspecified or host == _BROADCAST
