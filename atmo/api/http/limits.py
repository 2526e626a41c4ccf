"""What one client may take of the HTTP face: sizes, times, connections, requests. No I/O: whoever serves asks here."""

from __future__ import annotations

import ipaddress
import math
from collections import Counter, OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from atmo.wire import limits

MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class HttpLimits:
    """Limits of the HTTP face, whatever serves it. Values without a source are guesses.

    Attributes:
        line_bytes: Of the line with method and path. Source: nginx's large_client_header_buffers, 8 KiB.
        header_bytes: Of that line and all headers together. Source: nginx takes 4 buffers of 8 KiB.
        header_count: Headers of one request. Source: Apache's LimitRequestFields is 100.
        header_s: From the first byte of a request to the end of its headers. Source: Apache's mod_reqtimeout, 20 s at
            most; headers are small.
        body_bytes: Of one request's body.
        body_grace_s: For the beginning of a body, before its rate counts.
        body_bytes_s: What a body has to bring in on average from then on. Source: Apache's mod_reqtimeout asks 500.
        stall_s: A client that takes nothing of its answer for so long is given up.
        idle_s: Between two requests on one connection. Source: nginx's keepalive_timeout, 75 s.
        fresh_s: From connecting to the first byte of the first request: browsers connect ahead, nobody else waits.
        ahead_bytes: Of what a client sends beyond the request that is being answered: it is not read before.
        in_row: Requests that were sent ahead and are answered in a row, before others have their turn.
        connections: In all; for the next one the longest idle one is closed, and where none is idle it is refused.
        connections_per_address: Of one address that is not of this machine; the same.
        own_connections: Of `connections`, how many others leave to this machine.
        requests: Being answered at once; the next one is refused with 429.
        own_requests: Of `requests`, how many others leave to this machine.
        requests_per_address: Being answered at once, of one address that is not of this machine.
        address_rate: Requests a second of one address that is not of this machine, on average; 0 for any number.
        address_burst_s: It may send at once what the rate allows it in so long.
        addresses: That are remembered.
        message_bytes: Of one WebSocket message from a client.
    """

    line_bytes: int = 8 * 1024
    header_bytes: int = 32 * 1024
    header_count: int = 100
    header_s: float = 10.0
    body_bytes: int = limits.REQUEST_BYTES
    body_grace_s: float = 10.0
    body_bytes_s: float = 1_024.0
    stall_s: float = 120.0
    idle_s: float = 75.0
    fresh_s: float = 20.0
    ahead_bytes: int = 64 * 1024
    in_row: int = 16
    connections: int = 4_096
    connections_per_address: int = 256
    own_connections: int = 512
    requests: int = 2_048
    own_requests: int = 256
    requests_per_address: int = 128
    address_rate: float = 200.0
    address_burst_s: float = 4.0
    addresses: int = 4_096
    message_bytes: int = MIB

    def body_deadline_s(self, received: int) -> float:
        """Returns within how many seconds of its beginning a body must be complete that has brought so much."""
        return self.body_grace_s + received / self.body_bytes_s


@lru_cache(maxsize=4_096)
def group_of(address: str) -> str:
    """Returns who is counted as one: an IPv4 address, or the /64 of IPv6 that one line gets; empty for this machine.

    Args:
        address: Of the other end; what is no IP address, as a path of a Unix socket, is of this machine.
    """
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return ""
    if isinstance(parsed, ipaddress.IPv6Address):
        mapped = parsed.ipv4_mapped
        if mapped is None:
            return "" if parsed.is_loopback else str(ipaddress.ip_network((int(parsed) >> 64 << 64, 64)))
        parsed = mapped
    return "" if parsed.is_loopback else str(parsed)


class Connections:
    """The open connections: which one is let in, and which idle one has to go for it.

    Args:
        limits: How many there may be.
        most: Fewer than `limits.connections`, where the system gives fewer files.
    """

    def __init__(self, limits: HttpLimits, most: float = math.inf) -> None:
        self._per_address = limits.connections_per_address
        self._most = max(1, int(min(limits.connections, most)))
        self._others = max(1, self._most - min(limits.own_connections, self._most // 2))
        self._group: dict[int, str] = {}
        self._count: Counter[str] = Counter()
        self._idle: dict[str, OrderedDict[int, None]] = {"": OrderedDict()}
        self._idle_others: OrderedDict[int, None] = OrderedDict()
        self._next = 0

    def __len__(self) -> int:
        return len(self._group)

    def admit(self, address: str) -> tuple[int | None, int | None]:
        """Lets a new connection in, idle at first.

        Returns:
            Its number, None where it is refused; and the number of the one that has to be closed for it, None where
            there is room. Who is to be closed counts no more.
        """
        group = group_of(address)
        waiting = self._in_its_place(group)
        if waiting is None:
            return self._add(group), None
        victim = next(iter(waiting), None)
        if victim is None:
            return None, None
        self.close(victim)
        return self._add(group), victim

    def _in_its_place(self, group: str) -> Mapping[int, None] | None:
        """Returns the idle ones of which the first goes for one more of `group`; None where there is room."""
        if group and self._count[group] >= self._per_address:
            return self._idle.get(group, {})
        if group and len(self._group) - self._count[""] >= self._others:
            return self._idle_others
        if len(self._group) < self._most:
            return None
        return self._idle[""] or ({} if group else self._idle_others)

    def _add(self, group: str) -> int:
        self._next += 1
        self._group[self._next] = group
        self._count[group] += 1
        self.idle(self._next)
        return self._next

    def idle(self, number: int) -> None:
        """A connection waits for its next request."""
        group = self._group.get(number)
        if group is not None:
            self._idle.setdefault(group, OrderedDict())[number] = None
            if group:
                self._idle_others[number] = None

    def busy(self, number: int) -> None:
        """A connection has a request that is being answered: it is not closed for another one."""
        group = self._group.get(number)
        if group is not None:
            self._idle_others.pop(number, None)
            idle = self._idle.get(group)
            if idle is not None:
                idle.pop(number, None)
            if group and not idle:
                self._idle.pop(group, None)

    def close(self, number: int) -> None:
        """A connection has ended; it may be told twice."""
        self.busy(number)
        group = self._group.pop(number, None)
        if group is not None:
            self._count[group] -= 1
            if not self._count[group]:
                del self._count[group]
