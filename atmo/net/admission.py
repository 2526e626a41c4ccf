"""Which stranger may begin a handshake: a decision without I/O, made before any key is computed.

Half-open handshakes are bounded in all and per host. When many are under way, or much that comes is garbage, a newcomer
must first show, by coming back with a Retry token, that it receives at the address it claims; a flood from forged
addresses then costs us one small packet each and cannot keep others out.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from dataclasses import dataclass

from aioquic.buffer import Buffer  # type: ignore[attr-defined]
from aioquic.quic.packet import (
    QuicHeader,
    QuicPacketType,
    QuicProtocolVersion,
    encode_quic_retry,
    encode_quic_version_negotiation,
    pull_quic_header,
)
from aioquic.quic.retry import QuicRetryTokenHandler

from atmo.gossip.allowance import Allowance
from atmo.net.paths import is_virtual_host
from atmo.net.quic_config import CONNECTION_ID_BYTES, SMALLEST_INITIAL_BYTES, EndpointStats, QuicConfig
from atmo.net.quic_core import SUPPORTED_VERSIONS
from atmo.wire.address import Address, host_group

FIXED_BIT = 0x40  # RFC 9000 section 17: set in every QUIC packet
LONG_HEADER_BIT = 0x80  # RFC 8999 section 5.1
_CHOSEN_ID_BYTES = 8
"""Of the connection id that a client draws for its first packet, at least. Source: RFC 9000 section 7.2."""


@dataclass(frozen=True, slots=True)
class Admitted:
    """A handshake may begin; see `QuicCore` for the two ids."""

    original_id: bytes
    retry_id: bytes | None


class Admission:
    """Judges the datagrams that belong to no connection.

    Args:
        config: The limits.
        stats: Where what is turned away is counted.
    """

    def __init__(self, config: QuicConfig, stats: EndpointStats) -> None:
        self._config = config
        self._stats = stats
        self._tokens = QuicRetryTokenHandler()
        self._handshakes: Counter[str] = Counter()
        self._connections: Counter[str] = Counter()
        self._broken = Allowance(config.broken_rate, config.broken_burst)
        self._wary_until = -math.inf
        self.half_open = 0

    def judge_untrusted(self, data: bytes, address: Address, now: float) -> Admitted | bytes | None:
        """Returns the right to begin a handshake, or a datagram to answer with, or None to stay silent."""
        if len(data) < SMALLEST_INITIAL_BYTES or not data[0] & LONG_HEADER_BIT:
            self._stats.dropped_unknown += 1
            return None
        version = int.from_bytes(data[1:5], "big")
        if version == QuicProtocolVersion.NEGOTIATION:
            self._stats.dropped_unknown += 1
            return None
        if version not in SUPPORTED_VERSIONS:
            return self._negotiate(data)
        try:
            header = pull_quic_header(Buffer(data=data), host_cid_length=CONNECTION_ID_BYTES)
        except ValueError:
            self._stats.dropped_malformed += 1
            return None
        if header.packet_type is not QuicPacketType.INITIAL or len(header.destination_cid) < _CHOSEN_ID_BYTES:
            self._stats.dropped_unknown += 1
            return None
        if self._is_full(address.host):
            self._stats.refused_full += 1
            return None
        if header.token:
            return self._check_token(header, address, now)
        if self.half_open >= self._config.retry_above_half_open or now < self._wary_until:
            return self._retry(header, address, now)
        return Admitted(header.destination_cid, None)

    def broke(self, now: float) -> None:
        """A packet that was admitted could not be decrypted, which costs as much as one that can."""
        if not self._broken.take(now, 1.0):
            self._wary_until = now + self._config.wary_s

    def begun(self, host: str) -> None:
        """A handshake began with `host`."""
        self.half_open += 1
        self._handshakes[host_group(host)] += 1
        if is_virtual_host(host):
            self._handshakes[host] += 1
        self._connections[host_group(host)] += 1

    def ended(self, host: str) -> None:
        """A handshake that began is over, well or badly."""
        self.half_open -= 1
        _take(self._handshakes, host_group(host))
        if is_virtual_host(host):
            _take(self._handshakes, host)

    def gone(self, host: str) -> None:
        """A connection that began is forgotten."""
        _take(self._connections, host_group(host))

    def _is_full(self, host: str) -> bool:
        config, key = self._config, host_group(host)
        if is_virtual_host(host) and self._handshakes[host] >= config.max_half_open_per_path:
            return True
        return (
            self.half_open >= config.max_half_open
            or self._handshakes[key] >= config.max_half_open_per_host
            or self._connections[key] >= config.max_incoming_per_host
        )

    def _negotiate(self, data: bytes) -> bytes:
        # Only what RFC 8999 promises of every version is read: two ids with their lengths.
        destination_end = 6 + data[5]
        source_end = destination_end + 1 + data[destination_end]
        self._stats.versions_negotiated += 1
        answer = encode_quic_version_negotiation(
            source_cid=data[6:destination_end],
            destination_cid=data[destination_end + 1 : source_end],
            supported_versions=SUPPORTED_VERSIONS,
        )
        # RFC 9000 section 17.2.1: set where other protocols share the port; aioquic leaves it to chance.
        return bytes([answer[0] | FIXED_BIT]) + answer[1:]

    def _retry(self, header: QuicHeader, address: Address, now: float) -> bytes:
        self._stats.retries_sent += 1
        retry_id = os.urandom(CONNECTION_ID_BYTES)
        token = self._tokens.create_token(
            address=(address.host, address.port),
            original_destination_connection_id=header.destination_cid,
            retry_source_connection_id=retry_id,
            now=now,
        )
        return encode_quic_retry(
            version=SUPPORTED_VERSIONS[0],
            source_cid=retry_id,
            destination_cid=header.source_cid,
            original_destination_cid=header.destination_cid,
            retry_token=token,
        )

    def _check_token(self, header: QuicHeader, address: Address, now: float) -> Admitted | None:
        try:
            original = self._tokens.validate_token(
                address=(address.host, address.port),
                destination_cid=header.destination_cid,
                token=header.token,
                now=now,
            )
        except ValueError:
            self._stats.dropped_malformed += 1
            return None
        return Admitted(original, header.destination_cid)


def _take(counter: Counter[str], key: str) -> None:
    counter[key] -= 1
    if not counter[key]:
        del counter[key]
