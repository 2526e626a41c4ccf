"""The numbers and names of the QUIC transport: configuration, counters, error codes. No behaviour."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

ALPN = "atmo/1"
CONNECTION_ID_BYTES = 8
SMALLEST_INITIAL_BYTES = 1_200  # RFC 9000 section 14.1
RECEIVE_BYTES = 16 * 1024
"""The longest datagram we read whole."""
BULK_DATAGRAMS = 16
"""So many at once for one connection are a bulk transfer, acknowledged at once; fewer are likely to be answered by a
task first, so that the acknowledgement travels with the answer. Source: measured, 10 % of either rate."""
SHORTEST_SLEEP_S = 0.0001
"""Below what epoll can sleep; above zero, so that a timer which stays due never spins."""
REASON_BYTES = 256
"""A reason for closing: what we send and what we keep of the other end's."""


class StreamCode(IntEnum):
    """Why a stream was reset or is read no further: the application error codes of `atmo/1`."""

    ENOUGH = 0
    CANCELLED = 1
    UNKNOWN_PROTOCOL = 2
    BAD_FRAME = 3
    FAILED = 4
    LATE = 5
    REFUSED = 6


@dataclass(frozen=True, slots=True)
class QuicConfig:
    """How an endpoint behaves. Values without a source are choices with margin.

    Attributes:
        datagram_bytes: UDP payload; the smallest that every path carries. Source: RFC 9000 section 14.
        probed_datagram_bytes: The largest that is tried on a path; `datagram_bytes` for none. Source: `MtuConfig`.
        loopback_datagram_bytes: `datagram_bytes` towards this machine itself, whose interface carries 64 KiB; measured
            four times as fast as 1,200 bytes.
        idle_timeout_s: A silent connection is dead after this. Source: RFC 9000 section 10.1 leaves it open; NATs
            forget a mapping after 30 s at the earliest that RFC 4787 section 4.3 tolerates in practice.
        keep_alive_s: A connection that heard nothing for this long sends a ping.
        handshake_s: An incoming handshake must end within this time.
        stream_window_bytes: What the other end may send on one stream ahead of our reader.
        connection_window_bytes: The same over all streams of a connection.
        send_buffer_bytes: Unsent or unacknowledged bytes on a stream at which `send_all` waits.
        max_streams: Streams that the other end may have open at once; ours are bounded by its like.
        max_connections: All connections of the endpoint, half-open ones included.
        kept_share: That part of them, rounded down, is for what this node dials; what comes in never takes it. Source:
            guess; a node dials 16 others at once (`LinksConfig.dials`), at a few addresses each.
        max_half_open: Incoming handshakes under way, and those that failed and are not forgotten yet.
        max_half_open_per_host: The same from one IPv4 address or one IPv6 /64.
        max_half_open_per_path: The same over one virtual path, whose other end is one node: all such paths together
            count as one host. Source: guess; a node dials once or twice.
        max_incoming_per_host: Connections that one host may hold, so that it leaves room for others and for our dials.
        retry_above_half_open: With more handshakes than this under way a newcomer must first prove its address
            (Retry, RFC 9000 section 8.1.2).
        broken_rate, broken_burst: So many first packets that cannot be decrypted, a second and at once, are put up
            with; each costs 0.3 ms. Source: guess.
        wary_s: After more of them every newcomer must first prove its address for so long. Source: guess.
        max_accept_queue: Authenticated connections that nobody has accepted yet.
        drain_datagrams: Datagrams read per wake-up. Source: docs/measurements.md, "Datagrams".
        socket_buffer_bytes: Asked of the system for each direction; it may grant less.
    """

    datagram_bytes: int = 1_200
    probed_datagram_bytes: int = 8_192
    loopback_datagram_bytes: int = 8_192
    idle_timeout_s: float = 30.0
    keep_alive_s: float = 12.0
    handshake_s: float = 10.0
    stream_window_bytes: int = 1024 * 1024
    connection_window_bytes: int = 8 * 1024 * 1024
    send_buffer_bytes: int = 512 * 1024
    max_streams: int = 128
    max_connections: int = 256
    kept_share: float = 0.125
    max_half_open: int = 64
    max_half_open_per_host: int = 32
    max_half_open_per_path: int = 4
    max_incoming_per_host: int = 128
    retry_above_half_open: int = 16
    broken_rate: float = 32.0
    broken_burst: float = 64.0
    wary_s: float = 1.0
    max_accept_queue: int = 64
    drain_datagrams: int = 64
    socket_buffer_bytes: int = 4 * 1024 * 1024

    @property
    def kept_for_dials(self) -> int:
        """Connections that are left for what this node dials."""
        return int(self.kept_share * self.max_connections)

    def __post_init__(self) -> None:
        for size in (self.datagram_bytes, self.probed_datagram_bytes, self.loopback_datagram_bytes):
            if not SMALLEST_INITIAL_BYTES <= size <= RECEIVE_BYTES:
                raise ValueError(
                    f"a datagram of {size} bytes is not within {SMALLEST_INITIAL_BYTES} to {RECEIVE_BYTES}"
                )


@dataclass(slots=True)
class EndpointStats:
    """Counters of an endpoint since it opened.

    Attributes:
        dropped_other: Datagrams that are not QUIC by their first byte.
        dropped_unknown: QUIC packets of no connection of ours that do not begin one.
        dropped_malformed: Datagrams whose header does not parse.
        refused_full: Handshakes not begun, or connections not kept, because a limit was reached.
        refused_identity: Handshakes that ended without the right node id at the other end.
        handshakes_late: Incoming handshakes that did not end in time.
        streams_refused: Incoming streams reset because too many wait to be accepted.
        requests_unknown: Requests of protocols that nobody here answers.
        requests_failed: Handlers that raised.
        probes_in: Probes of paths, and replies to ours, that somebody who may send them sent.
        dropped_probes: Others.
        virtual_in, virtual_out: Datagrams over virtual paths, which the counters of datagrams and bytes leave out.
        internal_errors: Exceptions inside aioquic; each one cost its connection.
    """

    datagrams_in: int = 0
    datagrams_out: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    send_errors: int = 0
    dropped_other: int = 0
    dropped_unknown: int = 0
    dropped_malformed: int = 0
    versions_negotiated: int = 0
    retries_sent: int = 0
    dials: int = 0
    dials_failed: int = 0
    accepted: int = 0
    refused_full: int = 0
    refused_identity: int = 0
    handshakes_late: int = 0
    streams_refused: int = 0
    requests_served: int = 0
    requests_unknown: int = 0
    requests_failed: int = 0
    probes_in: int = 0
    dropped_probes: int = 0
    virtual_in: int = 0
    virtual_out: int = 0
    internal_errors: int = 0
