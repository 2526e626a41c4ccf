"""The QUIC transport between two processes on loopback, beside raw aioquic connections pumped in memory.

`run()` takes 15 seconds on an idle machine; progress goes to stderr. Each figure is the median of several rounds.
"""

from __future__ import annotations

import json
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import contextmanager
from typing import Any

import trio
from aioquic.quic import events
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.tls import CipherSuite

from atmo.identity import NodeId, Signer
from atmo.net.certificate import make_credentials
from atmo.net.ports import RequestStream
from atmo.net.quic import Connection, Endpoint, QuicConfig, open_endpoint
from atmo.net.requests import open_request, serve_requests
from atmo.wire.address import Address

ROUNDS = 5
DIALS = 15
REQUESTS = 320
BULK_BYTES = 8_000_000
BULK_LOOPBACK_BYTES = 24_000_000
CONCURRENT = 16
SMALL = b"x" * 32
MAIN_DATAGRAM_BYTES = 1_200


def run() -> dict[str, Any]:
    """Returns the figures of the transport and, as peers, those of aioquic in memory."""
    main = _in_two_processes(MAIN_DATAGRAM_BYTES, _measure_all)
    loopback = QuicConfig().loopback_datagram_bytes
    large = _in_two_processes(loopback, _measure_bulk_loopback)
    say("aioquic in memory")
    return {
        "figures": {**main, f"bulk MB/s at {loopback} bytes": large},
        "peers": {
            f"aioquic in memory, bulk MB/s at {MAIN_DATAGRAM_BYTES} bytes": _median(_raw_bulk),
            "aioquic in memory, requests/s": _median(_raw_requests),
        },
        "aims": {
            "dial ms": "under 12",
            "requests/s": "1,000",
            f"bulk MB/s at {MAIN_DATAGRAM_BYTES} bytes": "10",
        },
    }


def say(text: str) -> None:
    """Tells a person who waits."""
    sys.stderr.write(f"quic: {text}\n")
    sys.stderr.flush()


def _median(measure: Callable[[], float], rounds: int = ROUNDS) -> float:
    return round(statistics.median(measure() for _ in range(rounds)), 1)


# The transport, between two processes


@contextmanager
def _server(datagram_bytes: int) -> Any:
    command = [sys.executable, __file__, "serve", str(datagram_bytes)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        try:
            assert child.stdout is not None
            told = json.loads(child.stdout.readline())
            yield Address("127.0.0.1", told["port"]), NodeId.parse(told["node"])
        finally:
            child.kill()


def _in_two_processes(datagram_bytes: int, measure: Callable[[Endpoint, Address, NodeId], Any]) -> Any:
    async def client(address: Address, node: NodeId) -> Any:
        config = QuicConfig(loopback_datagram_bytes=datagram_bytes)
        async with open_endpoint(Signer(b"c" * 32), "127.0.0.1", 0, config) as endpoint:
            return await measure(endpoint, address, node)

    with _server(datagram_bytes) as (address, node):
        return trio.run(client, address, node)


async def _measure_all(endpoint: Endpoint, address: Address, node: NodeId) -> dict[str, float]:
    say("dialling")
    dials = [await _dial_once(endpoint, address, node) for _ in range(DIALS)]
    connection = await endpoint.dial(address, node, 10)
    say("requests")
    one = [await _requests(connection, REQUESTS, 1) for _ in range(ROUNDS)]
    many = [await _requests(connection, REQUESTS, CONCURRENT) for _ in range(ROUNDS)]
    say("bulk")
    await _bulk(connection, BULK_BYTES)
    bulk = [await _bulk(connection, BULK_BYTES) for _ in range(ROUNDS)]
    return {
        "dial ms": round(statistics.median(dials), 1),
        "requests/s": round(statistics.median(one)),
        f"requests/s, {CONCURRENT} at once": round(statistics.median(many)),
        f"bulk MB/s at {MAIN_DATAGRAM_BYTES} bytes": round(statistics.median(bulk), 1),
    }


async def _measure_bulk_loopback(endpoint: Endpoint, address: Address, node: NodeId) -> float:
    say("bulk with large packets")
    connection = await endpoint.dial(address, node, 10)
    await _bulk(connection, BULK_LOOPBACK_BYTES)
    return round(statistics.median([await _bulk(connection, BULK_LOOPBACK_BYTES) for _ in range(ROUNDS)]), 1)


async def _dial_once(endpoint: Endpoint, address: Address, node: NodeId) -> float:
    begin = time.perf_counter()
    connection = await endpoint.dial(address, node, 10)
    taken = (time.perf_counter() - begin) * 1000
    await connection.aclose("measured")
    await trio.sleep(0.02)
    return taken


async def _requests(connection: Connection, count: int, at_once: int) -> float:
    async def some(number: int) -> None:
        for _ in range(number):
            async with open_request(connection, "bench/echo/1", {}, 10) as stream:
                await stream.send(SMALL)
                assert await stream.receive() == SMALL

    begin = time.perf_counter()
    async with trio.open_nursery() as nursery:
        for _ in range(at_once):
            nursery.start_soon(some, count // at_once)
    return count / (time.perf_counter() - begin)


async def _bulk(connection: Connection, size: int) -> float:
    begin = time.perf_counter()
    async with open_request(connection, "bench/bulk/1", {"size": size}, 60) as stream:
        left = size
        while left:
            left -= len(await stream.receive_raw(min(left, 1_000_000)))
    return size / (time.perf_counter() - begin) / 1e6


async def _echo(stream: RequestStream) -> None:
    body = await stream.receive()
    assert body is not None
    await stream.send(body)


async def _send_bulk(stream: RequestStream) -> None:
    left = stream.header["size"]
    block = bytes(1_000_000)
    while left:
        await stream.send_raw(block[:left])
        left -= min(left, len(block))
    await stream.finish()
    await stream.receive()


async def _serve(datagram_bytes: int) -> None:
    handlers = {"bench/echo/1": _echo, "bench/bulk/1": _send_bulk}
    signer = Signer(b"s" * 32)
    config = QuicConfig(loopback_datagram_bytes=datagram_bytes)
    async with open_endpoint(signer, "127.0.0.1", 0, config) as endpoint, trio.open_nursery() as nursery:
        sys.stdout.write(json.dumps({"port": endpoint.local_address.port, "node": str(signer.node_id)}) + "\n")
        sys.stdout.flush()
        while True:
            connection = await endpoint.accept()
            nursery.start_soon(serve_requests, connection, handlers.get, say)


# aioquic alone: two connections in one process, datagrams handed over by function call


class _Raw:
    """Two plain aioquic connections with a clock that stands still unless a timer must fire."""

    def __init__(self) -> None:
        credentials = make_credentials(Signer(b"r" * 32))
        client = QuicConfiguration(is_client=True, verify_mode=0, alpn_protocols=["raw"], max_data=2**40)
        server = QuicConfiguration(is_client=False, alpn_protocols=["raw"], max_data=2**40)
        for configuration in (client, server):
            configuration.max_stream_data = 2**30
            configuration.max_datagram_size = MAIN_DATAGRAM_BYTES
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


def _raw_bulk() -> float:
    raw = _Raw()
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


def _raw_requests() -> float:
    raw = _Raw()

    def done(event: events.QuicEvent) -> bool:
        if isinstance(event, events.StreamDataReceived) and event.end_stream and event.data == SMALL:
            raw.server.send_stream_data(event.stream_id, SMALL + SMALL, True)
        return isinstance(event, events.StreamDataReceived) and event.data == SMALL + SMALL

    begin = time.perf_counter()
    for _ in range(REQUESTS):
        raw.client.send_stream_data(raw.client.get_next_available_stream_id(), SMALL, True)
        raw.pump(done)
    return REQUESTS / (time.perf_counter() - begin)


if __name__ == "__main__":
    if sys.argv[1:2] == ["serve"]:
        trio.run(_serve, int(sys.argv[2]))
    else:
        sys.stdout.write(json.dumps(run(), indent=2) + "\n")
