"""The two ends that `quic.py` measures: a server in a process of its own, and the client beside it.

    python _quic_ends.py CONNECTIONS DATAGRAM_BYTES

prints the server's port and node id, and serves until it is killed.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import trio
from _memory import memory_mb

from atmo.identity import NodeId, Signer
from atmo.net.ports import Handler, RequestStream
from atmo.net.quic import Connection, Endpoint, QuicConfig, open_endpoint
from atmo.net.requests import open_request, serve_requests
from atmo.reach.probe import Key
from atmo.wire import codec
from atmo.wire.address import Address

SMALL = b"x" * 32
_BLOCK_BYTES = 1_000_000


def config(datagram_bytes: int, connections: int = 16) -> QuicConfig:
    """Returns what makes loopback an ordinary network: 1,200 bytes at first, and no more than `datagram_bytes` ever."""
    return QuicConfig(
        loopback_datagram_bytes=1_200,
        probed_datagram_bytes=datagram_bytes,
        max_connections=connections,
        kept_share=0.0,
        max_incoming_per_host=connections,
    )


@contextmanager
def server(datagram_bytes: int, connections: int = 16) -> Iterator[tuple[Address, NodeId]]:
    """Runs a server for the block."""
    command = [sys.executable, __file__, str(connections), str(datagram_bytes)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        try:
            assert child.stdout is not None
            told = json.loads(child.stdout.readline())
            yield Address("127.0.0.1", told["port"]), NodeId.parse(told["node"])
        finally:
            child.kill()


@asynccontextmanager
async def client(datagram_bytes: int, connections: int = 16) -> AsyncIterator[Endpoint]:
    """Opens the endpoint that dials."""
    async with open_endpoint(Signer(b"c" * 32), "127.0.0.1", 0, config(datagram_bytes, connections)) as endpoint:
        yield endpoint


async def dial(endpoint: Endpoint, address: Address, node: NodeId) -> Connection:
    """Connects, and has both ends probe their path, as the links of a node do."""
    connection = await endpoint.dial(address, node, 10)
    key = endpoint.probing.offer(connection)
    header = {"session": key.session, "secret": key.secret}
    async with open_request(connection, "bench/keys/1", header, 10) as stream:
        body = await stream.receive()
    assert body is not None
    told = codec.decode_untrusted(body)
    endpoint.probing.begin(connection, Key(told["session"], told["secret"]), [])
    return connection


async def grow(connection: Connection, datagram_bytes: int) -> None:
    """Waits until both ends send datagrams of a size."""
    with trio.fail_after(10):
        while connection.core.datagram_bytes != datagram_bytes:
            await trio.sleep(0.01)
        while (await ask(connection, "bench/state/1"))["datagram_bytes"] != datagram_bytes:
            await trio.sleep(0.01)


async def ask(connection: Connection, protocol: str) -> dict[str, float]:
    """Returns what the server tells of itself."""
    async with open_request(connection, protocol, {}, 10) as stream:
        body = await stream.receive()
    assert body is not None
    told: dict[str, float] = json.loads(body)
    return told


async def requests(connection: Connection, count: int, at_once: int) -> float:
    """Returns requests per second, each on a stream of its own."""

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


async def bulk(connection: Connection, size: int) -> float:
    """Returns MB/s from the server on one stream."""
    begin = time.perf_counter()
    async with open_request(connection, "bench/bulk/1", {"size": size}, 60) as stream:
        left = size
        while left:
            left -= len(await stream.receive_raw(min(left, _BLOCK_BYTES)))
    return size / (time.perf_counter() - begin) / 1e6


async def _echo(stream: RequestStream) -> None:
    body = await stream.receive()
    assert body is not None
    await stream.send(body)


async def _send_bulk(stream: RequestStream) -> None:
    left = stream.header["size"]
    block = bytes(_BLOCK_BYTES)
    while left:
        await stream.send_raw(block[:left])
        left -= min(left, len(block))
    await stream.finish()
    await stream.receive()


def _complain(text: str) -> None:
    sys.stderr.write(f"quic: {text}\n")


def _handlers(endpoint: Endpoint, connection: Connection) -> dict[str, Handler]:
    async def keys(stream: RequestStream) -> None:
        endpoint.probing.begin(connection, Key(stream.header["session"], stream.header["secret"]), [])
        key = endpoint.probing.offer(connection)
        await stream.send(codec.encode({"session": key.session, "secret": key.secret}))

    async def state(stream: RequestStream) -> None:
        told = {"datagram_bytes": connection.core.datagram_bytes, "cpu_s": time.process_time(), "mb": memory_mb()}
        await stream.send(json.dumps(told).encode())

    return {"bench/echo/1": _echo, "bench/bulk/1": _send_bulk, "bench/keys/1": keys, "bench/state/1": state}


async def _serve(connections: int, datagram_bytes: int) -> None:
    signer = Signer(b"s" * 32)
    options = config(datagram_bytes, connections)
    async with open_endpoint(signer, "127.0.0.1", 0, options) as endpoint, trio.open_nursery() as nursery:
        sys.stdout.write(json.dumps({"port": endpoint.local_address.port, "node": str(signer.node_id)}) + "\n")
        sys.stdout.flush()
        while True:
            connection = await endpoint.accept()
            nursery.start_soon(serve_requests, connection, _handlers(endpoint, connection).get, _complain)


if __name__ == "__main__":
    trio.run(_serve, int(sys.argv[1]), int(sys.argv[2]))
