"""Two ends of py-libp2p's QUIC; runs in an environment of its own that has `libp2p` (`_libp2p.py`).

    python _quic_libp2p.py serve                 prints its address; echoes, and sends as much as it is asked for
    python _quic_libp2p.py measure ADDRESS       prints its figures as JSON

What is asked for is the same as in `quic.py`: a message there and back on a stream of its own, and one long stream from
the server.
"""

from __future__ import annotations

import json
import secrets
import statistics
import sys
import time
from typing import Any

import trio
from libp2p import new_host  # type: ignore[import-not-found]
from libp2p.crypto.ed25519 import create_new_key_pair  # type: ignore[import-not-found]
from libp2p.peer.peerinfo import info_from_p2p_addr  # type: ignore[import-not-found]
from multiaddr import Multiaddr  # type: ignore[import-not-found]

ECHO, BULK, CPU = "/bench/echo/1", "/bench/bulk/1", "/bench/cpu/1"
ROUNDS = 5
DIALS = 7
REQUESTS = 160
BULK_BYTES = 4_000_000
CONCURRENT = 16
SMALL = b"x" * 32
BLOCK_BYTES = 1_000_000


def _host() -> Any:
    return new_host(enable_quic=True, enable_tcp=False, key_pair=create_new_key_pair(secrets.token_bytes(32)))


async def _read(stream: Any, size: int) -> None:
    left = size
    while left:
        left -= len(await stream.read(min(left, BLOCK_BYTES)))


async def _echo(stream: Any) -> None:
    await stream.write(await stream.read(len(SMALL)))
    await stream.close()


async def _send_bulk(stream: Any) -> None:
    left = int.from_bytes(await stream.read(8), "big")
    while left:
        await stream.write(bytes(min(left, BLOCK_BYTES)))
        left -= min(left, BLOCK_BYTES)
    await stream.read(1)  # closed sooner, what is still on its way is lost
    await stream.close()


async def _tell_cpu(stream: Any) -> None:
    await stream.write(int(time.process_time() * 1e6).to_bytes(8, "big"))
    await stream.close()


async def _cpu_s(host: Any, info: Any) -> tuple[float, float]:
    """Returns what both ends have spent."""
    stream = await host.new_stream(info.peer_id, [CPU])
    told = int.from_bytes(await stream.read(8), "big") / 1e6
    await stream.close()
    return told, time.process_time()


async def _serve() -> None:
    host = _host()
    host.set_stream_handler(ECHO, _echo)
    host.set_stream_handler(BULK, _send_bulk)
    host.set_stream_handler(CPU, _tell_cpu)
    async with host.run(listen_addrs=[Multiaddr("/ip4/127.0.0.1/udp/0/quic-v1")]):
        sys.stdout.write(str(host.get_addrs()[0]) + "\n")
        sys.stdout.flush()
        await trio.sleep_forever()


async def _measure(address: str) -> dict[str, float]:
    info = info_from_p2p_addr(Multiaddr(address))
    dials = [await _dial_once(info) for _ in range(DIALS)]
    host = _host()
    async with host.run(listen_addrs=[]):
        await host.connect(info)
        await trio.sleep(1.0)  # identification and the like
        await _requests(host, info, REQUESTS, 1)
        one = [await _requests(host, info, REQUESTS, 1) for _ in range(ROUNDS)]
        many = [await _requests(host, info, REQUESTS, CONCURRENT) for _ in range(ROUNDS)]
        await _bulk(host, info)
        cpu = await _cpu_s(host, info)
        bulk = [await _bulk(host, info) for _ in range(ROUNDS)]
        spent_s = max(after - before for before, after in zip(cpu, await _cpu_s(host, info), strict=True))
    return {
        "dial_ms": round(statistics.median(dials), 1),
        "requests_per_s": round(statistics.median(one)),
        f"requests_{CONCURRENT}_at_once_per_s": round(statistics.median(many)),
        "bulk_1200_mb_s": round(statistics.median(bulk), 1),
        "bulk_1200_one_core_mb_s": round(ROUNDS * BULK_BYTES / spent_s / 1e6, 1),
    }


async def _dial_once(info: Any) -> float:
    host = _host()
    async with host.run(listen_addrs=[]):
        begin = time.perf_counter()
        await host.connect(info)
        taken = (time.perf_counter() - begin) * 1000
        await trio.sleep(0.3)
    return taken


async def _requests(host: Any, info: Any, count: int, at_once: int) -> float:
    async def some(number: int) -> None:
        for _ in range(number):
            stream = await host.new_stream(info.peer_id, [ECHO])
            await stream.write(SMALL)
            await _read(stream, len(SMALL))
            await stream.close()

    begin = time.perf_counter()
    async with trio.open_nursery() as nursery:
        for _ in range(at_once):
            nursery.start_soon(some, count // at_once)
    return count / (time.perf_counter() - begin)


async def _bulk(host: Any, info: Any) -> float:
    begin = time.perf_counter()
    stream = await host.new_stream(info.peer_id, [BULK])
    await stream.write(BULK_BYTES.to_bytes(8, "big"))
    await _read(stream, BULK_BYTES)
    taken = time.perf_counter() - begin
    await stream.write(b".")
    await stream.close()
    return BULK_BYTES / taken / 1e6


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        trio.run(_serve)
    else:
        sys.stdout.write(json.dumps(trio.run(_measure, sys.argv[2])) + "\n")
