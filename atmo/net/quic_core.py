"""One QUIC connection without I/O: aioquic's, with what Atmosphere needs and it lacks.

This module and `patched_connection` are the only ones that touch private members of aioquic
(`tests/net/test_quic_core.py` fails when they change):

- the server asks for the client's certificate, and nothing is handed on before both ends know each other's node id;
- receive credit grows when the application consumes, not when data arrives, so a slow reader stops the sender;
- what a stream still holds unsent or unacknowledged can be asked, so a fast writer can be made to wait;
- a close by the other end is seen at once, not three probe timeouts later;
- there is no session resumption and no 0-RTT: both would skip the certificates.

Theory of operation: `receive`, `handle_timer` and the commands change the state; after them call `poll` for what
happened, then `transmit` for what to send, then `next_timer`. The caller gives the time; it must never go back.
"""

from __future__ import annotations

import logging
import math
import ssl
from collections.abc import Iterator
from typing import Any

from aioquic import tls
from aioquic.quic import events
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnectionState
from aioquic.quic.packet import QuicErrorCode, QuicProtocolVersion

from atmo.errors import WireError
from atmo.identity import NodeId
from atmo.net.certificate import Credentials, node_of_certificate_untrusted
from atmo.net.patched_connection import PatchedConnection
from atmo.net.quic_config import ALPN, CONNECTION_ID_BYTES, REASON_BYTES, QuicConfig

log = logging.getLogger(__name__)
# What aioquic logs as warnings is what strangers send us; the endpoint's statistics count it.
logging.getLogger("quic").setLevel(logging.CRITICAL)

SUPPORTED_VERSIONS = [int(QuicProtocolVersion.VERSION_1)]
SocketAddress = Any  # what the socket module calls an address; passed through untouched
_HANDED_ON = (events.StreamDataReceived, events.StreamReset, events.StopSendingReceived)
_CONNECTION_IDS = (events.ConnectionIdIssued, events.ConnectionIdRetired)
_PROMPT_DATAGRAMS = 16
"""After so many an acknowledgement does not wait for its timer, or a fast sender idles. Source: measured."""
_LARGE_LOST, _TIMEOUTS = 3, 2
"""So many large packets lost with none that arrived, or so many timeouts in a row, raise the suspicion that the path
does not carry their size. Source: RFC 8899 section 5.1.2; guess for the timeouts, as one is often just late."""
_AMPLIFICATION = 3
"""Bytes sent for each one that came from an address that is not proven. Source: RFC 9000 section 8.1."""
_TLS_MESSAGE_BYTES = 16 * 1024
"""The largest unfinished TLS message kept; ours are under 1 KiB, and TLS itself would allow 16 MiB."""


class QuicCore:
    """A connection as the trio shell drives it.

    Args:
        credentials: Our certificate; None makes a client that shows none, which every server refuses.
        config: Windows, limits and timeouts.
        datagram_bytes: The largest UDP payload we send on this connection.
        expected: Who must answer; None on the accepting side.
        original_id: The connection id that the client chose first; None on the dialling side.
        retry_id: The connection id of our Retry packet, if the client came back by one.
    """

    def __init__(
        self,
        credentials: Credentials | None,
        config: QuicConfig,
        *,
        datagram_bytes: int,
        expected: NodeId | None = None,
        original_id: bytes | None = None,
        retry_id: bytes | None = None,
    ) -> None:
        configuration = QuicConfiguration(
            alpn_protocols=[ALPN],
            certificate=credentials.certificate if credentials else None,
            cipher_suites=[tls.CipherSuite.AES_128_GCM_SHA256, tls.CipherSuite.CHACHA20_POLY1305_SHA256],
            connection_id_length=CONNECTION_ID_BYTES,
            idle_timeout=config.idle_timeout_s,
            is_client=original_id is None,
            max_data=config.connection_window_bytes,
            max_datagram_size=datagram_bytes,
            max_stream_data=config.stream_window_bytes,
            private_key=credentials.private_key if credentials else None,
            supported_versions=SUPPORTED_VERSIONS,
            verify_mode=ssl.CERT_NONE,
        )
        self._quic = PatchedConnection(
            config,
            configuration=configuration,
            original_destination_connection_id=original_id,
            retry_source_connection_id=retry_id,
        )
        self._config = config
        self._expected = expected
        self._close_datagrams: list[tuple[bytes, SocketAddress]] = []
        self._late_bytes = 0
        self._failed = False
        self._arrived = 0
        self.outbound = original_id is None
        self.peer: NodeId | None = None
        """The authenticated other end, None until the handshake is over and checked."""
        self.refused = False
        """True when the handshake ended but the other end is not who it must be."""
        self.internal_errors = 0

    # Getters

    @property
    def host_ids(self) -> list[bytes]:
        """The connection ids by which packets find us at this moment."""
        return [each.cid for each in self._quic._host_cids]

    @property
    def peer_address(self) -> SocketAddress:
        """Where we send to now; the other end may move."""
        return self._quic.get_peer_address()

    @property
    def heard(self) -> bool:
        """True once one packet of the other end was decrypted."""
        return self._quic._state is not QuicConnectionState.FIRSTFLIGHT

    @property
    def closed(self) -> bool:
        """True from the moment either end closes or the connection dies."""
        return self._failed or self._quic._close_event is not None

    @property
    def gone(self) -> bool:
        """True when nothing more will be sent or needs to be received: forget the connection."""
        return self._failed or self._quic._state in (QuicConnectionState.DRAINING, QuicConnectionState.TERMINATED)

    @property
    def close_reason(self) -> str:
        """Why it closed, in words fit for printing; empty while it is open."""
        event = self._quic._close_event
        if event is None:
            return "an internal error" if self._failed else ""
        if event.reason_phrase == "Idle timeout":
            return f"nothing was heard for {self._config.idle_timeout_s:g} s"
        text = "".join(letter if letter.isprintable() else "?" for letter in event.reason_phrase[:REASON_BYTES])
        return text or _code_text(event.error_code)

    @property
    def rtt_s(self) -> float | None:
        """Smoothed round-trip time, None before the first measurement."""
        loss = self._quic._loss
        return loss._rtt_smoothed if loss._rtt_initialized else None

    @property
    def datagram_bytes(self) -> int:
        """The largest UDP payload that is sent."""
        return self._quic._max_datagram_size

    @property
    def awaits_answer(self) -> bool:
        """True while something was sent that has to be acknowledged."""
        space = self._quic._spaces.get(tls.Epoch.ONE_RTT)
        return space is not None and space.ack_eliciting_in_flight > 0

    @property
    def loses_large(self) -> bool:
        """True when it looks as if large datagrams did not arrive any more, or nothing at all did."""
        return self._quic.large_lost >= _LARGE_LOST or self._quic._loss._pto_count >= _TIMEOUTS

    def next_timer(self) -> float:
        """When to call `handle_timer`, `math.inf` when never."""
        if self.gone:
            return math.inf
        at = self._quic.get_timer()
        return math.inf if at is None else at

    def unsent(self, stream_id: int) -> int:
        """Bytes written to a stream that are not acknowledged yet, 0 when its sending is over."""
        stream = self._quic._streams.get(stream_id)
        if stream is None or stream.sender.is_finished or stream.sender._reset_error_code is not None:
            return 0
        return stream.sender._buffer_stop - stream.sender._buffer_start

    def is_open(self, stream_id: int) -> bool:
        """Says whether the connection still keeps state for a stream."""
        return stream_id in self._quic._streams

    def can_open(self) -> bool:
        """Says whether the other end's limit and our own let us open one more stream."""
        quic = self._quic
        if len(quic._streams) >= 2 * self._config.max_streams:
            return False
        return quic.get_next_available_stream_id() // 4 < quic._remote_max_streams_bidi

    # Inputs

    def connect(self, address: SocketAddress, now: float) -> None:
        """Begins the handshake (dialling side)."""
        self._quic.connect(address, now)

    def receive(self, data: bytes, address: SocketAddress, now: float) -> None:
        """Takes one datagram; hostile bytes at worst close the connection."""
        if self.gone:
            return
        if self._close_datagrams:
            self._late_bytes += len(data)
            return
        self._arrived += 1
        try:
            self._quic.receive_datagram(data, address, now)
            if len(self._tls_waiting) > _TLS_MESSAGE_BYTES:
                self._quic.close(error_code=QuicErrorCode.CRYPTO_BUFFER_EXCEEDED, reason_phrase="TLS message too long")
        except Exception:
            log.exception("QUIC connection lost: an internal error while receiving a datagram")
            self._fail()

    def handle_timer(self, now: float) -> None:
        """Call when `next_timer` is due; earlier calls do nothing."""
        if now < self.next_timer():
            return
        try:
            self._quic.handle_timer(now)
        except Exception:
            log.exception("QUIC connection lost: an internal error in a timer")
            self._fail()

    def poll(self) -> Iterator[Any]:
        """Yields what happened: connection ids always, stream events once the other end is known."""
        quic = self._quic
        while (event := quic.next_event()) is not None:
            if isinstance(event, _HANDED_ON):
                if self.peer is not None:
                    yield event
            elif isinstance(event, _CONNECTION_IDS):
                yield event
            elif isinstance(event, events.HandshakeCompleted):
                self._authenticate(event)

    def transmit(self, now: float) -> list[tuple[bytes, SocketAddress]]:
        """Returns the datagrams to send now."""
        quic = self._quic
        if self.gone or not quic._network_paths:
            return []
        if self._close_datagrams:
            return self._close_again()
        try:
            self._hurry_acknowledgement(now)
            datagrams = quic.datagrams_to_send(now)
        except Exception:
            log.exception("QUIC connection lost: an internal error while building packets")
            self._fail()
            return []
        if quic._state is QuicConnectionState.CLOSING:
            self._close_datagrams = datagrams
            path = quic._network_paths[0]
            if not path.is_validated and path.bytes_sent > _AMPLIFICATION * path.bytes_received:
                return []  # aioquic does not bound the last words by what came, as it does all others
        return datagrams

    def _close_again(self) -> list[tuple[bytes, SocketAddress]]:
        """Answers late packets with the close, once so much came that nobody is flooded by way of it (RFC 9000 section
        10.2.1): who sends under a forged address needs no key for that."""
        if _AMPLIFICATION * self._late_bytes < sum(len(data) for data, _ in self._close_datagrams):
            return []
        self._late_bytes = 0
        return self._close_datagrams

    # Commands

    def open_stream(self) -> int:
        """Opens a bidirectional stream; ask `can_open` before. Nothing is sent until something is written."""
        stream_id = self._quic.get_next_available_stream_id()
        self._quic.send_stream_data(stream_id, b"")
        return stream_id

    def write(self, stream_id: int, data: bytes | memoryview, end: bool = False) -> None:
        """Adds to a stream's buffer, without a limit: ask `unsent` before."""
        self._quic.send_stream_data(stream_id, data, end)  # type: ignore[arg-type]

    def consume(self, stream_id: int, count: int) -> bool:
        """Tells that the application took `count` bytes; True asks for a `transmit` that announces the credit."""
        return self._quic.consume(stream_id, count)

    def settle(self, stream_id: int) -> bool:
        """Gives back the connection's credit for what a reset stream will never hand on; then as `consume`."""
        stream = self._quic._streams.get(stream_id)
        if stream is None:
            return False
        consumed = stream.max_stream_data_local - self._config.stream_window_bytes
        return self._quic.consume(stream_id, stream.receiver.highest_offset - consumed)

    def reset(self, stream_id: int, code: int) -> None:
        """Ends our sending abruptly (RESET_STREAM); nothing happens when it is over already."""
        stream = self._quic._streams.get(stream_id)
        if stream is not None:
            stream.sender.reset(code)

    def stop(self, stream_id: int, code: int) -> None:
        """Asks the other end to stop sending (STOP_SENDING); nothing happens when it is over already."""
        stream = self._quic._streams.get(stream_id)
        if stream is not None and not stream.receiver.is_finished:
            stream.receiver.stop(code)

    def resize(self, datagram_bytes: int) -> None:
        """Sends datagrams of at most so many bytes from now on; 1,200 at least."""
        self._quic.resize(datagram_bytes)

    def hurry(self) -> None:
        """What is sent goes another way now: what was lost on the old one need not wait any longer for its timer."""
        self._quic._loss._pto_count = 0

    def ping(self) -> None:
        """Sends something that must be acknowledged."""
        if not self._quic._ping_pending:
            self._quic.send_ping(0)

    def close(self, reason: str) -> None:
        """Closes with a reason for the other end; a reason over 256 bytes is cut."""
        text = reason.encode()[:REASON_BYTES].decode(errors="ignore")
        self._quic.close(error_code=QuicErrorCode.NO_ERROR, reason_phrase=text)

    # Internals

    @property
    def _tls_waiting(self) -> bytes:
        context = getattr(self._quic, "tls", None)
        return context._receive_buffer if context is not None else b""

    def _authenticate(self, event: events.HandshakeCompleted) -> None:
        certificate = self._quic.tls._peer_certificate
        try:
            if certificate is None or event.session_resumed:
                raise WireError("a node must show its certificate")
            if event.alpn_protocol != ALPN:
                raise WireError(f"only {ALPN} is spoken here")
            node = node_of_certificate_untrusted(certificate)
            if self._expected is not None and node != self._expected:
                raise WireError(f"this is {node.short}, not {self._expected.short} who was called")
        except WireError as error:
            self.refused = True
            self.close(str(error))
        else:
            self.peer = node

    def _hurry_acknowledgement(self, now: float) -> None:
        """Sends an acknowledgement before its timer with stream data that goes out anyway, or when much is due."""
        space = self._quic._spaces.get(tls.Epoch.ONE_RTT)
        if space is None or space.ack_at is None:
            return
        much = self._arrived >= _PROMPT_DATAGRAMS or space.ack_at <= now
        if much or any(not stream.sender.buffer_is_empty for stream in self._quic._streams_queue):
            # aioquic paces an acknowledgement that is due exactly now, and would be asked again and again.
            space.ack_at = math.nextafter(now, -math.inf)
            self._arrived = 0

    def _fail(self) -> None:
        self._failed = True
        self.internal_errors += 1


def _code_text(code: int) -> str:
    """Names a transport error (RFC 9000 section 20.1); an application's close before the handshake ends has no more."""
    if code == QuicErrorCode.NO_ERROR:
        return "closed"
    try:
        return f"closed by {QuicErrorCode(code).name.lower().replace('_', ' ')}"
    except ValueError:
        return f"closed with code {code:#x}"
