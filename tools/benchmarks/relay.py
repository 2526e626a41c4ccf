"""The relay: memory with 1,000 clients at rest, and datagrams from one process through a second to a third.

The relay's speed is given in real time, with three busy processes on this machine, and in its own CPU time, which is
what one core of its own would reach. Beside it a plain TCP echo in Python. Progress goes to stderr.
"""

from __future__ import annotations

import re
import resource
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.request import urlopen

import trio

from atmo.identity import NodeId, Signer
from atmo.relay.address import RelayAddress
from atmo.relay.client import RelayClient, RelayClientConfig
from atmo.relay.door import DoorConfig
from atmo.relay.link import LinkConfig, RelayLink
from atmo.relay.server import Relay, RelayConfig, bind, serve_relay
from atmo.relay.session import SessionConfig

CLIENTS = 1_000
DIALS_AT_ONCE = 16
SIZES = (1_200, 16 * 1024)
SECONDS, ROUNDS = 2.0, 3
UNBOUNDED = 1e12
ECHO_BYTES = 200_000_000

SENDER, RECEIVER = Signer(b"s" * 32), Signer(b"r" * 32)


def run() -> dict[str, Any]:
    """Measures memory, then both sizes of datagrams, then the echo."""
    figures: dict[str, float] = {}
    say(f"{CLIENTS} clients")
    with _child("serve") as port:
        before = _metric(port, "process_resident_memory_bytes")
        cpu = _metric(port, "process_cpu_seconds_total")
        trio.run(_idle, port, figures)
        figures["connect_ms"] = round((_metric(port, "process_cpu_seconds_total") - cpu) / CLIENTS * 1e3, 2)
        figures["at_rest_mb"] = round(figures["at_rest_mb"] / 1e6, 1)
        figures["empty_mb"] = round(before / 1e6, 1)
    for size in SIZES:
        say(f"datagrams of {size} bytes")
        rounds = [_forward(size) for _ in range(ROUNDS)]
        figures[f"{size}_real_time_mb_s"] = round(statistics.median(real for real, _ in rounds), 1)
        figures[f"{size}_one_core_mb_s"] = round(statistics.median(core for _, core in rounds), 1)
    say("single datagrams")
    real, core = _forward(SIZES[0], "alone")
    figures[f"{SIZES[0]}_alone_one_core_mb_s"] = round(core, 1)
    say("plain TCP")
    real, core = _echo()
    peers = {
        "TCP echo": {
            f"{size}_{kind}_mb_s": value for size in SIZES for kind, value in (("real_time", real), ("one_core", core))
        }
    }
    aims = {"at_rest_mb": "under 200 MB"} | {f"{size}_one_core_mb_s": "50 MB/s" for size in SIZES}
    return {"figures": figures, "peers": peers, "aims": aims}


def say(text: str) -> None:
    """Tells a person who waits."""
    print(f"relay: {text}", file=sys.stderr, flush=True)


@contextmanager
def _child(*arguments: str) -> Iterator[int]:
    """Runs this file in another process; gives the number that it prints first."""
    command = [sys.executable, __file__, *arguments]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        try:
            assert child.stdout is not None
            yield int(child.stdout.readline())
        finally:
            child.kill()


def _metric(port: int, name: str) -> float:
    time.sleep(1.1)  # the relay makes the text once a second
    with urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        found = re.search(rf"^{name} (\S+)$", answer.read().decode(), re.MULTILINE)
    assert found is not None
    return float(found[1])


def _address(port: int) -> RelayAddress:
    return RelayAddress.parse_untrusted(f"ws://127.0.0.1:{port}/")


async def _idle(port: int, figures: dict[str, float]) -> None:
    limit = trio.CapacityLimiter(DIALS_AT_ONCE)

    async def hold(number: int, nursery: trio.Nursery) -> None:
        signer = Signer(number.to_bytes(32, "big"))
        async with limit:
            link = RelayLink(_address(port), signer, LinkConfig(), lambda link, told: None)
            nursery.start_soon(link.run)
            await link.settled.wait()
            assert link.relay is not None, link.lost

    async with trio.open_nursery() as nursery:
        async with trio.open_nursery() as dials:
            for number in range(CLIENTS):
                dials.start_soon(hold, number, nursery)
        await trio.sleep(1)
        figures["at_rest_mb"] = await trio.to_thread.run_sync(_metric, port, "process_resident_memory_bytes")
        nursery.cancel_scope.cancel()


def _forward(size: int, how: str = "many") -> tuple[float, float]:
    """Returns MB/s that arrived, by the wall clock and by the relay's CPU time.

    Args:
        size: Of a datagram.
        how: `many` wait for the relay at a time and share messages, or each goes `alone`.
    """
    with _child("serve") as port, _child("send", str(port), str(size), how):
        return trio.run(_receive, port)


async def _receive(port: int) -> tuple[float, float]:
    got, begun = 0, trio.Event()

    def deliver(source: NodeId, data: bytes, relay: RelayAddress) -> None:
        nonlocal got
        got += len(data)
        begun.set()

    def cpu() -> float:
        return _metric(port, "process_cpu_seconds_total")

    config = RelayClientConfig(link=LinkConfig(read_bytes_per_s=UNBOUNDED))
    client = RelayClient(RECEIVER, [_address(port)], deliver, config=config)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.run)
        await begun.wait()
        cpu_before = await trio.to_thread.run_sync(cpu)
        began, before = time.perf_counter(), got
        await trio.sleep(SECONDS)
        cpu_after = await trio.to_thread.run_sync(cpu)
        arrived, passed = got - before, time.perf_counter() - began
        nursery.cancel_scope.cancel()
    return arrived / passed / 1e6, arrived / (cpu_after - cpu_before) / 1e6


async def _send(port: int, size: int, most_queued: int) -> None:
    client = RelayClient(SENDER, [_address(port)], lambda *_: None)
    datagram = bytes(size)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.run)
        print(0, flush=True)
        while True:
            await trio.lowlevel.checkpoint()
            while client.state.home and client.queued_bytes < most_queued:
                client.send(RECEIVER.node_id, datagram)


async def _serve() -> None:
    hosts = DoorConfig(max_clients_per_host=CLIENTS, max_handshakes_per_host=CLIENTS, arrivals_burst=2.0 * CLIENTS)
    session = SessionConfig(bytes_per_s=UNBOUNDED, datagrams_per_s=UNBOUNDED)
    config = RelayConfig(door=hosts, session=session)
    listeners = bind("127.0.0.1", 0, config.socket_bytes)
    print(listeners[0].socket.getsockname()[1], flush=True)
    await serve_relay(Relay(Signer(b"h" * 32), config), listeners, trio.Event())


def _echo() -> tuple[float, float]:
    """Returns MB/s that came back from an echo, by the wall clock and by its CPU time."""
    with _child("echo") as port, socket.create_connection(("127.0.0.1", port)) as plain:
        block = bytes(65_536)
        began, left = time.perf_counter(), ECHO_BYTES
        while left > 0:
            plain.sendall(block)
            back = 0
            while back < len(block):
                back += len(plain.recv(65_536))
            left -= back
        passed = time.perf_counter() - began
        plain.shutdown(socket.SHUT_WR)
        spent = float(plain.recv(64))
    return round(ECHO_BYTES / passed / 1e6, 1), round(ECHO_BYTES / spent / 1e6, 1)


def _serve_echo() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        print(server.getsockname()[1], flush=True)
        plain, _ = server.accept()
        while data := plain.recv(65_536):
            plain.sendall(data)
        plain.sendall(str(time.process_time()).encode())


if __name__ == "__main__":
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 4 * CLIENTS)), hard))
    match sys.argv[1:]:
        case ["serve"]:
            trio.run(_serve)
        case ["send", port, size, how]:
            trio.run(_send, int(port), int(size), LinkConfig().queue_bytes // 2 if how == "many" else 1)
        case ["echo"]:
            _serve_echo()
