"""A router that speaks PCP and NAT-PMP, without a network: written from the RFCs, apart from the code under test."""

from __future__ import annotations

import ipaddress
import struct
from dataclasses import dataclass, field

UDP, TCP = 17, 6


@dataclass
class Entry:
    """A mapping."""

    port: int
    until: float
    nonce: bytes = b""


@dataclass
class Router:
    """What it does can be changed at any time.

    Attributes:
        pcp, nat_pmp: What it speaks.
        host: Its address outside.
        taken: Ports that others have.
        most_s: The longest lifetime that it grants.
        refuses: The result of all mappings, 0 for none.
        refuses_s: For how long, as PCP says.
        booted: When it began to count, in seconds.
        heard: Requests.
    """

    pcp: bool = True
    nat_pmp: bool = True
    host: str = "11.0.0.1"
    taken: set[tuple[int, int]] = field(default_factory=set)
    most_s: int = 7_200
    refuses: int = 0
    refuses_s: int = 1_800
    booted: float = -1_000.0
    table: dict[tuple[int, int], Entry] = field(default_factory=dict)
    heard: list[bytes] = field(default_factory=list)

    def restart(self, now: float) -> None:
        self.table.clear()
        self.booted = now

    def lets_in(self, now: float) -> dict[int, int]:
        """Returns the outside port of each protocol."""
        return {key[0]: entry.port for key, entry in self.table.items() if entry.until > now}

    def answer(self, now: float, data: bytes) -> bytes | None:
        self.heard.append(data)
        epoch = int(now - self.booted)
        if data[0] == 2 and self.pcp:
            return self._answer_pcp(now, epoch, data)
        if data[0] == 0 and self.nat_pmp:
            return self._answer_nat_pmp(now, epoch, data)
        if data[0] == 2 and self.nat_pmp:
            return struct.pack("!BBHI", 0, 128 + (data[1] & 0x7F), 1, epoch)
        if data[0] == 0 and self.pcp:
            return struct.pack("!BBBBII12x", 2, 128 + data[1], 0, 1, 1_800, epoch)
        return None

    def _answer_pcp(self, now: float, epoch: int, data: bytes) -> bytes:
        assert len(data) == 60
        _, opcode, lifetime = struct.unpack_from("!BBxxI", data)
        nonce, protocol, internal, suggested = struct.unpack_from("!12sBxxxHH", data, 24)
        assert opcode == 1
        known = self.table.get((protocol, internal))
        result = self.refuses
        if known is not None and known.until > now and known.nonce != nonce:
            result = 2
        if result:
            head = struct.pack("!BBBBII12x", 2, 129, 0, result, self.refuses_s, epoch)
            return head + data[24:]
        lifetime, port = self._map(now, protocol, internal, suggested, lifetime, nonce)
        six = ":" in self.host
        place = ipaddress.ip_address(self.host).packed if six else bytes(10) + b"\xff\xff" + self._packed()
        head = struct.pack("!BBBBII12x", 2, 129, 0, 0, lifetime, epoch)
        return head + struct.pack("!12sBxxxHH16s", nonce, protocol, internal, port, place)

    def _answer_nat_pmp(self, now: float, epoch: int, data: bytes) -> bytes:
        opcode = data[1]
        head = struct.pack("!BBHI", 0, 128 + opcode, self.refuses, epoch)
        if opcode == 0:
            assert len(data) == 2
            return head + (bytes(4) if self.refuses else self._packed())
        assert len(data) == 12
        internal, suggested, lifetime = struct.unpack_from("!HHI", data, 4)
        if self.refuses:
            return head + struct.pack("!HHI", internal, 0, 0)
        lifetime, port = self._map(now, {1: UDP, 2: TCP}[opcode], internal, suggested, lifetime, b"")
        return head + struct.pack("!HHI", internal, port, lifetime)

    def _map(
        self, now: float, protocol: int, internal: int, suggested: int, lifetime: int, nonce: bytes
    ) -> tuple[int, int]:
        key = (protocol, internal)
        known = self.table.get(key)
        if not lifetime:
            self.table.pop(key, None)
            return 0, 0
        port = known.port if known and known.until > now else suggested or internal
        while (protocol, port) in self.taken:
            port += 1
        lifetime = min(lifetime, self.most_s)
        self.table[key] = Entry(port, now + lifetime, nonce)
        return lifetime, port

    def _packed(self) -> bytes:
        return ipaddress.IPv4Address(self.host).packed
