"""Probes: small datagrams beside QUIC on the same socket that prove that a path works, and show from where one is seen.

    mark 1 | kind 1 | session 8 | nonce 8 | place 19 | padding | tag 16        53 bytes and the padding

Each end of a connection draws a session number and a key for what it receives, and tells the other both over the
connection; the tag is keyed BLAKE3 over all before it. So a probe names its connection without any state of addresses,
nobody else can make one, and none says anything about who sent it. Probes are padded to find how large datagrams may
be; a reply never is, so that nobody is flooded by way of replies. A copy that somebody else sends again proves nothing:
only a reply to a nonce that is still waited for does.
"""

from __future__ import annotations

import hmac
import ipaddress
import struct
from collections.abc import Callable
from dataclasses import dataclass

from blake3 import blake3

from atmo.errors import WireError
from atmo.wire.address import Address

MARK = 0x99
"""The first byte. Bit 0x40 is unset, as it is in no QUIC packet, and STUN's first byte is below 4 (RFC 9443)."""

SESSION_BYTES = 8
NONCE_BYTES = 8
KEY_BYTES = 32
PROBE_BYTES = 53
PADDED_BYTES = 16 * 1024
"""The longest probe. Source: the longest datagram that is read whole, `RECEIVE_BYTES` of `net.quic_config`."""

PROBE, REPLY, DOUBT = 1, 2, 3
"""The last is a probe, too, of an end whose own path is in doubt."""

_BODY = struct.Struct(">BB8s8sB16sH")
_TAG_BYTES = 16
_NOWHERE = (0, bytes(16), 0)


@dataclass(frozen=True, slots=True)
class Key:
    """What an end needs to send probes to the other.

    Attributes:
        session: 8 bytes that name the connection at the receiver.
        secret: 32 bytes.
    """

    session: bytes
    secret: bytes


@dataclass(frozen=True, slots=True)
class Probe:
    """A probe, or the reply to one.

    Attributes:
        session: Of the receiver.
        kind: `PROBE`, `REPLY` or `DOUBT`.
        nonce: 8 bytes; a reply repeats that of its probe.
        observed: In a reply, from where the probe came as its receiver saw it; None where that is no UDP address.
    """

    session: bytes
    kind: int
    nonce: bytes
    observed: Address | None = None


def seal_probe(key: Key, kind: int, nonce: bytes, observed: Address | None = None, size: int = PROBE_BYTES) -> bytes:
    """Returns a probe or a reply as bytes, padded to `size`."""
    family, host, port = _pack_address(observed) if observed is not None else _NOWHERE
    body = _BODY.pack(MARK, kind, key.session, nonce, family, host, port).ljust(size - _TAG_BYTES, b"\0")
    return body + _tag(key.secret, body)


def open_probe_untrusted(data: bytes, secret_of: Callable[[bytes], bytes | None]) -> Probe:
    """Reads what came in.

    Args:
        data: A datagram whose first byte is `MARK`.
        secret_of: Returns the secret of a session of this end, None for one that it does not have.

    Raises:
        WireError: It is no probe, or not of who shares the secret.
    """
    if not PROBE_BYTES <= len(data) <= PADDED_BYTES:
        raise WireError(f"a probe has {PROBE_BYTES} to {PADDED_BYTES} bytes, this has {len(data)}")
    body, tag = data[:-_TAG_BYTES], data[-_TAG_BYTES:]
    mark, kind, session, nonce, family, host, port = _BODY.unpack_from(body)
    secret = secret_of(session)
    if mark != MARK or secret is None:
        raise WireError("a probe of no connection")
    if not hmac.compare_digest(tag, _tag(secret, body)):
        raise WireError("a probe with a wrong tag")
    if kind not in (PROBE, REPLY, DOUBT):
        raise WireError(f"a probe of kind {kind}")
    if kind == REPLY and len(data) != PROBE_BYTES:
        raise WireError(f"a reply has {PROBE_BYTES} bytes, this has {len(data)}")
    return Probe(session, kind, nonce, _unpack_address(family, host, port))


def _tag(secret: bytes, body: bytes) -> bytes:
    return blake3(body, key=secret).digest(_TAG_BYTES)


def _pack_address(address: Address) -> tuple[int, bytes, int]:
    host = ipaddress.ip_address(address.host.partition("%")[0])
    return host.version, host.packed.ljust(16, b"\0"), address.port


def _unpack_address(family: int, host: bytes, port: int) -> Address | None:
    if family == 0 or port == 0:
        return None
    if family == 4:
        return Address(str(ipaddress.IPv4Address(host[:4])), port)
    if family == 6:
        return Address(str(ipaddress.IPv6Address(host)), port)
    raise WireError(f"an address of family {family}")
