"""The messages by which a router is asked to let a port in: PCP (RFC 6887) and its forerunner NAT-PMP (RFC 6886).

Both go to UDP port 5351 of the router. Only the requests that map a port, and NAT-PMP's for the external address, are
here; options of PCP are neither sent nor read.
"""

from __future__ import annotations

import ipaddress
import struct
from dataclasses import dataclass

from atmo.errors import WireError
from atmo.wire.address import Address

SERVER_PORT = 5_351
"""Source: RFC 6886 section 1.1, RFC 6887 section 19.5."""

UDP, TCP = 17, 6
"""Protocols, by their numbers of IP."""

NONCE_BYTES = 12
MOST_BYTES = 1_100
"""Of one message. Source: RFC 6887 section 7."""

PCP_VERSION, NAT_PMP_VERSION = 2, 0
SUCCESS, UNSUPPORTED_VERSION = 0, 1
"""Results that both protocols have."""

_PCP_HEADER = struct.Struct("!BBHI16s")  # version, opcode, reserved, lifetime, client
_PCP_ANSWER = struct.Struct("!BBBBII12x")  # version, opcode, reserved, result, lifetime, epoch
_PCP_MAP = struct.Struct("!12sB3xHH16s")  # nonce, protocol, internal port, external port, external address
_ANSWER, _MAP = 0x80, 1
_PMP_HEADER = struct.Struct("!BBHI")  # version, opcode, result, epoch
_PMP_REQUEST = struct.Struct("!BBHHHI")  # version, opcode, reserved, internal port, external port, lifetime
_PMP_MAPPED = struct.Struct("!HHI")  # internal port, external port, lifetime
_PMP_ADDRESS, _PMP_OPCODES = 0, {UDP: 1, TCP: 2}
_MAPPED = b"\x00" * 10 + b"\xff\xff"  # an IPv4 address within an IPv6 one, RFC 4291 section 2.5.5.2

PCP_RESULTS = {
    1: "speaks another version",
    2: "does not allow it",
    3: "takes the request for malformed",
    4: "cannot map ports",
    5: "wants an option that is not known",
    6: "takes an option for malformed",
    7: "has no connection itself",
    8: "has no room for it",
    9: "does not map this protocol",
    10: "gives this machine no more ports",
    11: "cannot give that port",
    12: "sees this machine at another address: there is a NAT between",
    13: "has no room for more peers",
}
NAT_PMP_RESULTS = {
    1: "speaks another version",
    2: "does not allow it",
    3: "has no connection itself",
    4: "has no room for it",
    5: "cannot map ports",
}
"""What the router says by a result, for people. Source: RFC 6887 section 7.4, RFC 6886 section 3.5."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a router answered.

    Attributes:
        result: 0 where it did what was asked.
        epoch: Seconds since it lost its mappings.
        protocol: `UDP` or `TCP`; 0 for the answer that gives the address alone, or none of them.
        nonce: Of PCP; empty for NAT-PMP.
        internal: Port of this machine.
        host: External address, empty where there is none in it.
        port: External port.
        lifetime_s: Of the mapping, or for how long a refusal stays.
    """

    result: int
    epoch: int
    protocol: int = 0
    nonce: bytes = b""
    internal: int = 0
    host: str = ""
    port: int = 0
    lifetime_s: int = 0


def encode_pcp_map(
    nonce: bytes, protocol: int, client: str, port: int, external: Address | None, lifetime_s: int
) -> bytes:
    """Returns the request to map a port, or with a lifetime of 0 to forget it (RFC 6887 section 11.1).

    Args:
        nonce: The same for all requests about one mapping.
        protocol: `UDP` or `TCP`.
        client: From which address of this machine it is sent.
        port: Of this machine.
        external: Where it should be reached from outside; None where any place will do.
        lifetime_s: Asked for.
    """
    nobody = _MAPPED + bytes(4) if ":" not in client else bytes(16)
    place = _packed(external.host) if external else nobody
    header = _PCP_HEADER.pack(PCP_VERSION, _MAP, 0, lifetime_s, _packed(client))
    return header + _PCP_MAP.pack(nonce, protocol, port, external.port if external else 0, place)


def decode_pcp_untrusted(data: bytes) -> Answer:
    """Reads the answer to such a request.

    Raises:
        WireError: It is none.
    """
    if not _PCP_ANSWER.size + _PCP_MAP.size <= len(data) <= MOST_BYTES:
        raise WireError(f"a PCP answer of {len(data)} bytes")
    version, opcode, _, result, lifetime, epoch = _PCP_ANSWER.unpack_from(data)
    if version != PCP_VERSION or opcode != _ANSWER | _MAP:
        raise WireError(f"no PCP answer to MAP: version {version}, opcode {opcode:#x}")
    nonce, protocol, internal, port, place = _PCP_MAP.unpack_from(data, _PCP_ANSWER.size)
    return Answer(result, epoch, protocol, nonce, internal, _text(place), port, lifetime)


def refuses_version_untrusted(data: bytes) -> bool:
    """Says whether it is the answer of a router that does not speak PCP in our version: one of NAT-PMP, or of another
    version of PCP (RFC 6887 section 9 and appendix A).
    """
    if not 4 <= len(data) <= MOST_BYTES:
        return False
    if data[0] == NAT_PMP_VERSION:
        return int.from_bytes(data[2:4], "big") == UNSUPPORTED_VERSION
    return bool(data[1] & _ANSWER) and data[3] == UNSUPPORTED_VERSION


def encode_nat_pmp_address() -> bytes:
    """Returns the request for the external address (RFC 6886 section 3.2)."""
    return bytes((NAT_PMP_VERSION, _PMP_ADDRESS))


def encode_nat_pmp_map(protocol: int, port: int, external: int, lifetime_s: int) -> bytes:
    """Returns the request to map a port, or with a lifetime of 0 to forget it (RFC 6886 sections 3.3 and 3.4)."""
    return _PMP_REQUEST.pack(NAT_PMP_VERSION, _PMP_OPCODES[protocol], 0, port, external, lifetime_s)


def decode_nat_pmp_untrusted(data: bytes) -> Answer:
    """Reads the answer to one of these requests.

    Raises:
        WireError: It is none.
    """
    if not _PMP_HEADER.size <= len(data) <= MOST_BYTES:
        raise WireError(f"a NAT-PMP answer of {len(data)} bytes")
    version, opcode, result, epoch = _PMP_HEADER.unpack_from(data)
    asked = opcode & ~_ANSWER
    protocol = next((number for number, each in _PMP_OPCODES.items() if each == asked), 0)
    if version != NAT_PMP_VERSION or not opcode & _ANSWER or (not protocol and asked != _PMP_ADDRESS):
        raise WireError(f"no NAT-PMP answer: version {version}, opcode {opcode}")
    body = data[_PMP_HEADER.size :]
    if protocol and len(body) >= _PMP_MAPPED.size:
        internal, port, lifetime = _PMP_MAPPED.unpack_from(body)
        return Answer(result, epoch, protocol, internal=internal, port=port, lifetime_s=lifetime)
    if not protocol and len(body) >= 4:
        return Answer(result, epoch, host=str(ipaddress.IPv4Address(body[:4])))
    if result == SUCCESS:
        raise WireError("a NAT-PMP answer without what was asked for")
    return Answer(result, epoch, protocol)


def _packed(host: str) -> bytes:
    address = ipaddress.ip_address(host.partition("%")[0])
    return _MAPPED + address.packed if address.version == 4 else address.packed


def _text(place: bytes) -> str:
    address = ipaddress.IPv6Address(place)
    return str(address.ipv4_mapped or address)
