"""The QUIC transport between two processes on loopback, beside raw aioquic connections pumped in memory.

`run()` takes a minute and a half on an idle machine; progress goes to stderr. Each figure is the median of several
rounds; "one core" is what the busier end would reach with a core of its own, by its CPU time. Datagrams have 1,200
bytes at first, as on any network, and then as many as probing finds, up to a bound. With `--peers` py-libp2p's QUIC is
measured as well (`_libp2p.py`), which installs it into the user's cache the first time.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import _libp2p
import trio
from _quic_ends import ask, bulk, client, dial, grow, requests, server
from _quic_raw import raw_bulk, raw_requests

from atmo.identity import NodeId
from atmo.net.quic import Connection, Endpoint
from atmo.wire.address import Address

ROUNDS = 5
DIALS = 15
REQUESTS = 320
CONCURRENT = 16
BULK = {1_200: 8_000_000, 1_452: 8_000_000, 8_192: 24_000_000}
"""Bytes that are carried in datagrams of a size."""
SMALLEST = 1_200
IDLE, IDLE_SETTLE_S, IDLE_S = 500, 15.0, 30.0
"""Connections at rest, and for how long: a keep-alive of each falls within."""

AIMS = {
    "dial_ms": "under 12",
    "requests_per_s": "1,000",
    "bulk_1200_mb_s": "10",
    "bulk_1452_mb_s": "12",
    "bulk_8192_mb_s": "50",
    f"idle_{IDLE}_connections_mb": "under 200",
    f"idle_{IDLE}_connections_percent": "under 2",
}


def run(*, peers: bool = False) -> dict[str, Any]:
    """Returns the figures of the transport and those of its peers."""
    figures: dict[str, float] = {}
    say("aioquic in memory")
    raw = {
        "requests_per_s": _median(partial(raw_requests, SMALLEST)),
        **{f"bulk_{size}_mb_s": _median(partial(raw_bulk, size)) for size in BULK},
    }
    beside: dict[str, Mapping[str, float] | str] = {"aioquic in memory": raw}
    for size, amount in BULK.items():
        _with_server(size, partial(_measure, figures, size, amount))
    if peers:
        say("py-libp2p")
        beside[_libp2p.NAME] = _libp2p.measure()
    _with_server(SMALLEST, partial(_measure_idle, figures), IDLE + 8)
    return {"figures": figures, "peers": beside, "aims": AIMS}


def say(text: str) -> None:
    """Tells a person who waits."""
    sys.stderr.write(f"quic: {text}\n")
    sys.stderr.flush()


def _median(measure: Callable[[], float], rounds: int = ROUNDS) -> float:
    return round(statistics.median(measure() for _ in range(rounds)), 1)


def _with_server(size: int, measure: Callable[..., Any], connections: int = 16) -> None:
    async def main(address: Address, node: NodeId) -> None:
        async with client(size, connections) as endpoint:
            await measure(endpoint, address, node)

    with server(size, connections) as (address, node):
        trio.run(main, address, node)


async def _measure(
    figures: dict[str, float], size: int, amount: int, endpoint: Endpoint, address: Address, node: NodeId
) -> None:
    if size == SMALLEST:
        say("dialling")
        figures["dial_ms"] = round(
            statistics.median([await _dial_once(endpoint, address, node) for _ in range(DIALS)]), 1
        )
    connection = await dial(endpoint, address, node)
    if size == SMALLEST:
        say("requests")
        one = [await requests(connection, REQUESTS, 1) for _ in range(ROUNDS)]
        many = [await requests(connection, REQUESTS, CONCURRENT) for _ in range(ROUNDS)]
        figures["requests_per_s"] = round(statistics.median(one))
        figures[f"requests_{CONCURRENT}_at_once_per_s"] = round(statistics.median(many))
    say(f"bulk in datagrams of {size} bytes")
    await grow(connection, size)
    await bulk(connection, amount)
    cpu = await _cpu_s(connection)
    figures[f"bulk_{size}_mb_s"] = round(statistics.median([await bulk(connection, amount) for _ in range(ROUNDS)]), 1)
    spent_s = max(after - before for before, after in zip(cpu, await _cpu_s(connection), strict=True))
    figures[f"bulk_{size}_one_core_mb_s"] = round(ROUNDS * amount / spent_s / 1e6, 1)


async def _cpu_s(connection: Connection) -> tuple[float, float]:
    """Returns what both ends have spent."""
    return (await ask(connection, "bench/state/1"))["cpu_s"], time.process_time()


async def _dial_once(endpoint: Endpoint, address: Address, node: NodeId) -> float:
    begin = time.perf_counter()
    connection = await endpoint.dial(address, node, 10)
    taken = (time.perf_counter() - begin) * 1000
    await connection.aclose("measured")
    await trio.sleep(0.02)
    return taken


async def _measure_idle(figures: dict[str, float], endpoint: Endpoint, address: Address, node: NodeId) -> None:
    say(f"{IDLE} connections at rest")
    connections = [await dial(endpoint, address, node) for _ in range(IDLE)]
    await trio.sleep(IDLE_SETTLE_S)
    before = await ask(connections[0], "bench/state/1")
    await trio.sleep(IDLE_S)
    after = await ask(connections[0], "bench/state/1")
    figures[f"idle_{IDLE}_connections_mb"] = round(after["mb"])
    figures[f"idle_{IDLE}_connections_percent"] = round((after["cpu_s"] - before["cpu_s"]) / IDLE_S * 100, 2)
    assert not any(connection.closed.is_set() for connection in connections)
