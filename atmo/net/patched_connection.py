"""aioquic's connection where it has to behave otherwise; with `quic_core` the only module that touches its privates."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from aioquic import tls
from aioquic.buffer import Buffer  # type: ignore[attr-defined]
from aioquic.quic.congestion.base import K_INITIAL_WINDOW, K_MINIMUM_WINDOW
from aioquic.quic.congestion.reno import RenoCongestionControl
from aioquic.quic.connection import (
    CONNECTION_LIMIT_FRAME_CAPACITY,
    MAX_STREAM_DATA_FRAME_CAPACITY,
    RESET_STREAM_FRAME_CAPACITY,
    STOP_SENDING_FRAME_CAPACITY,
    Limit,
    QuicConnection,
    QuicConnectionError,
    QuicReceiveContext,
)
from aioquic.quic.packet import QuicErrorCode, QuicFrameType
from aioquic.quic.packet_builder import QuicPacketBuilder, QuicSentPacket
from aioquic.quic.recovery import QuicPacketPacer, QuicPacketSpace
from aioquic.quic.stream import QuicStream as RawStream

from atmo.net.quic_config import SMALLEST_INITIAL_BYTES, QuicConfig

_TIMER_SLACK_S = 0.002
"""By so much may a timer be late: epoll counts whole milliseconds, rounded up."""
_STREAM_GAPS = 512
"""Ranges of one stream that wait for what lies between; aioquic walks them all at each frame. Source: a window of 1 MiB
in packets of 1,200 bytes, every other one lost, has 437."""
_CRYPTO_GAPS = 64
"""The same of a handshake, whose flights are a few packets. Source: guess."""
_INITIAL_WINDOW_BYTES = 14_720
"""What ten packets may have together at first, or else two. Source: RFC 9002 section 7.2."""


class _Pacer(QuicPacketPacer):
    """Lets a sleep that lasts longer than asked for be made good, which on a fast path is most of the time."""

    def update_rate(self, congestion_window: int, smoothed_rtt: float) -> None:
        super().update_rate(congestion_window, smoothed_rtt)
        self.bucket_max = max(self.bucket_max, _TIMER_SLACK_S)


class _Reno(RenoCongestionControl):
    """Counts the packets of more than 1,200 bytes that were lost since the last one that was acknowledged."""

    def __init__(self, *, max_datagram_size: int) -> None:
        super().__init__(max_datagram_size=max_datagram_size)
        self.large_lost = 0

    def on_packet_acked(self, *, now: float, packet: QuicSentPacket) -> None:
        super().on_packet_acked(now=now, packet=packet)
        if packet.sent_bytes > SMALLEST_INITIAL_BYTES:
            self.large_lost = 0

    def on_packets_lost(self, *, now: float, packets: Iterable[QuicSentPacket]) -> None:
        lost = tuple(packets)
        self.large_lost += sum(packet.sent_bytes > SMALLEST_INITIAL_BYTES for packet in lost)
        super().on_packets_lost(now=now, packets=lost)

    def resize(self, size: int) -> None:
        """Goes on with packets of another size (RFC 9002 section 7.2)."""
        self._max_datagram_size = size
        self.large_lost = 0
        least = K_MINIMUM_WINDOW * size
        if self.ssthresh is None:  # nothing was lost so far
            least = min(K_INITIAL_WINDOW * size, max(_INITIAL_WINDOW_BYTES, least))
        self.congestion_window = max(self.congestion_window, least)


class PatchedConnection(QuicConnection):
    """aioquic's connection with client certificates, credit that grows by consumption, bounded gaps, and a size of
    datagrams that may change."""

    def __init__(self, config: QuicConfig, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._stream_step = config.stream_window_bytes // 4
        self._data_step = config.connection_window_bytes // 4
        for limit, value in ((self._local_max_streams_bidi, config.max_streams), (self._local_max_streams_uni, 0)):
            limit.value = limit.sent = value
        self._congestion = self._loss._cc = _Reno(max_datagram_size=self._max_datagram_size)
        self._loss._pacer = _Pacer(max_datagram_size=self._max_datagram_size)

    def _initialize(self, peer_cid: bytes) -> None:
        super()._initialize(peer_cid)
        self.tls._request_client_certificate = not self._is_client
        self.tls._signature_algorithms = [tls.SignatureAlgorithm.ED25519]
        self.tls._supported_groups = [tls.Group.X25519]

    def _write_connection_limits(self, builder: QuicPacketBuilder, space: QuicPacketSpace) -> None:
        data, streams = self._local_max_data, self._local_max_streams_bidi
        if data.value - data.sent >= self._data_step:
            self._write_limit(builder, data)
        if streams.value - streams.sent > streams.sent - streams.used:
            self._write_limit(builder, streams)

    def _write_limit(self, builder: QuicPacketBuilder, limit: Limit) -> None:
        buffer = builder.start_frame(
            limit.frame_type,
            capacity=CONNECTION_LIMIT_FRAME_CAPACITY,
            handler=self._on_connection_limit_delivery,
            handler_args=(limit,),
        )
        buffer.push_uint_var(limit.value)
        limit.sent = limit.value

    def _write_stream_limits(self, builder: QuicPacketBuilder, space: QuicPacketSpace, stream: RawStream) -> None:
        grown = stream.max_stream_data_local - stream.max_stream_data_local_sent
        if grown < self._stream_step or stream.receiver.is_finished:
            return
        assert stream.stream_id is not None, "only the handshake's own streams have no number"
        buffer = builder.start_frame(
            QuicFrameType.MAX_STREAM_DATA,
            capacity=MAX_STREAM_DATA_FRAME_CAPACITY,
            handler=self._on_max_stream_data_delivery,
            handler_args=(stream,),
        )
        buffer.push_uint_var(stream.stream_id)
        buffer.push_uint_var(stream.max_stream_data_local)
        stream.max_stream_data_local_sent = stream.max_stream_data_local

    def _write_stop_sending_frame(self, builder: QuicPacketBuilder, stream: RawStream) -> None:
        if _fits(builder, STOP_SENDING_FRAME_CAPACITY):
            super()._write_stop_sending_frame(builder, stream)

    def _write_reset_stream_frame(self, builder: QuicPacketBuilder, stream: RawStream) -> None:
        if _fits(builder, RESET_STREAM_FRAME_CAPACITY):
            super()._write_reset_stream_frame(builder, stream)

    def resize(self, size: int) -> None:
        """Sends datagrams of at most `size` bytes from now on; what was lost before is cut anew."""
        self._max_datagram_size = self._loss._pacer._max_datagram_size = size
        self._congestion.resize(size)
        if self._loss._rtt_initialized:
            self._loss._pacer.update_rate(self._congestion.congestion_window, self._loss._rtt_smoothed)

    @property
    def large_lost(self) -> int:
        """Packets of more than 1,200 bytes that were lost since the last one that arrived."""
        return self._congestion.large_lost

    def consume(self, stream_id: int, count: int) -> bool:
        """Gives back credit for `count` bytes; says whether so much has gathered that it should be announced."""
        data = self._local_max_data
        data.value += count
        announce = data.value - data.sent >= self._data_step
        stream = self._streams.get(stream_id)
        if stream is not None:
            stream.max_stream_data_local += count
            grown = stream.max_stream_data_local - stream.max_stream_data_local_sent
            announce = announce or (grown >= self._stream_step and not stream.receiver.is_finished)
        return announce

    def _handle_stream_frame(self, context: QuicReceiveContext, frame_type: int, buf: Buffer) -> None:
        start = buf.tell()
        stream = self._streams.get(buf.pull_uint_var())
        buf.seek(start)
        super()._handle_stream_frame(context, frame_type, buf)
        if stream is not None:
            _refuse_gaps(stream, _STREAM_GAPS, frame_type)

    def _handle_crypto_frame(self, context: QuicReceiveContext, frame_type: int, buf: Buffer) -> None:
        super()._handle_crypto_frame(context, frame_type, buf)
        _refuse_gaps(self._crypto_streams[context.epoch], _CRYPTO_GAPS, frame_type)


def _fits(builder: QuicPacketBuilder, size: int) -> bool:
    """Says whether a packet has room, or nothing in it yet: aioquic ends a flight at a frame for which there is none.

    What was lost goes out again before all else, so that such a frame would end the flight after each single packet.
    """
    return builder.packet_is_empty or builder.remaining_flight_space >= size


def _refuse_gaps(stream: RawStream, most: int, frame_type: int) -> None:
    if len(stream.receiver._ranges) > most:
        raise QuicConnectionError(QuicErrorCode.FLOW_CONTROL_ERROR, frame_type, "too many gaps in a stream")
