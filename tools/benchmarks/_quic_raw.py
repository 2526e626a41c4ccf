"""aioquic alone: two connections in one process, datagrams handed over by function call."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from aioquic.quic import events
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.tls import CipherSuite

from atmo.identity import Signer
from atmo.net.certificate import make_credentials

BULK_BYTES = 8_000_000
REQUESTS = 320
SMALL = b"x" * 32


class _Raw:
    """Two plain aioquic connections with a clock that stands still unless a timer must fire."""

    def __init__(self, datagram_bytes: int) -> None:
        credentials = make_credentials(Signer(b"r" * 32))
        client = QuicConfiguration(is_client=True, verify_mode=0, alpn_protocols=["raw"], max_data=2**40)
        server = QuicConfiguration(is_client=False, alpn_protocols=["raw"], max_data=2**40)
        for configuration in (client, server):
            configuration.max_stream_data = 2**30
            configuration.max_datagram_size = datagram_bytes
            configuration.cipher_suites = [CipherSuite.AES_128_GCM_SHA256]
        server.certificate, server.private_key = credentials.certificate, credentials.private_key
        self.client = QuicConnection(configuration=client)
        self.server = QuicConnection(
            configuration=server,
            original_destination_connection_id=self.client.original_destination_connection_id,
        )
        self.now = 0.0
        self.client.connect(("127.0.0.1", 1), self.now)
        self.pump(lambda event: False)

    def pump(self, done: Callable[[events.QuicEvent], bool]) -> None:
        """Carries datagrams until an event satisfies `done` or nothing moves."""
        ends = ((self.client, self.server), (self.server, self.client))
        while True:
            moved = False
            for source, target in ends:
                for data, address in source.datagrams_to_send(self.now):
                    target.receive_datagram(data, address, self.now)
                    moved = True
                while (event := target.next_event()) is not None:
                    if done(event):
                        return
            if not moved and not self._advance():
                return

    def _advance(self) -> bool:
        """Moves the clock to the next timer within a second, a millisecond at least; False when there is none."""
        due = min(each.get_timer() or math.inf for each in (self.client, self.server))
        if due > self.now + 1:
            return False
        self.now = max(due, self.now + 0.001)
        for each in (self.client, self.server):
            if (each.get_timer() or math.inf) <= self.now:
                each.handle_timer(self.now)
        return True


def raw_bulk(datagram_bytes: int) -> float:
    """Returns MB/s on one stream."""
    raw = _Raw(datagram_bytes)
    got = 0

    def done(event: events.QuicEvent) -> bool:
        nonlocal got
        if isinstance(event, events.StreamDataReceived):
            got += len(event.data)
        return got >= BULK_BYTES

    begin = time.perf_counter()
    raw.client.send_stream_data(0, bytes(BULK_BYTES), True)
    raw.pump(done)
    assert got == BULK_BYTES
    return BULK_BYTES / (time.perf_counter() - begin) / 1e6


def raw_requests(datagram_bytes: int) -> float:
    """Returns requests per second, one after the other, each on a stream of its own."""
    raw = _Raw(datagram_bytes)

    def done(event: events.QuicEvent) -> bool:
        if isinstance(event, events.StreamDataReceived) and event.end_stream and event.data == SMALL:
            raw.server.send_stream_data(event.stream_id, SMALL + SMALL, True)
        return isinstance(event, events.StreamDataReceived) and event.data == SMALL + SMALL

    begin = time.perf_counter()
    for _ in range(REQUESTS):
        raw.client.send_stream_data(raw.client.get_next_available_stream_id(), SMALL, True)
        raw.pump(done)
    return REQUESTS / (time.perf_counter() - begin)
