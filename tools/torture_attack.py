"""Somebody who asks a node something while others attack it, and has to be answered."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import trio

from atmo.errors import leaf_error

SERVED_S = 20.0
"""Within which a bystander has to be answered. Source: guess; an idle node takes milliseconds, but attackers, bystander
and node share this machine's processors."""

GROWTH_MIB = 450
"""By which the node's memory may grow: the budget of bodies (128 MiB), twice while they are read, and connections."""

CLOSED = 0
"""Stands for a status where the node closed the connection."""

_PAUSE_S = 0.05


class Broken(Exception):
    """The node did not stand it."""


@dataclass(frozen=True, slots=True)
class Target:
    """A node that runs on this machine.

    Attributes:
        port: Of its endpoint, on loopback.
        pid: Of its process.
    """

    port: int
    pid: int

    def rss_mib(self) -> float:
        """Returns how much memory the process holds."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        line = next(line for line in status.splitlines() if line.startswith("VmRSS:"))
        return int(line.split()[1]) / 1_024

    async def connect(self) -> trio.SocketStream:
        """Opens a connection."""
        return await trio.open_tcp_stream("127.0.0.1", self.port)


@dataclass(slots=True)
class Seen:
    """What came of an attack.

    Attributes:
        statuses: How often each status was answered to the attacker, `CLOSED` where there was none.
        served: Bystanders that were answered meanwhile.
        worst_s: The longest that one waited.
        told_to_wait: How often one was told to come again, and did.
        rss_mib: Memory of the node before, and the most during the attack.
    """

    statuses: Counter[int] = field(default_factory=Counter)
    served: int = 0
    worst_s: float = 0.0
    told_to_wait: int = 0
    rss_mib: tuple[float, float] = (0.0, 0.0)

    def __str__(self) -> str:
        told = ", ".join(f"{count} x {status or 'closed'}" for status, count in sorted(self.statuses.items()))
        before, most = self.rss_mib
        return (
            f"{told or 'nothing answered'}; {self.served} bystanders, the slowest in {self.worst_s * 1e3:.0f} ms;"
            f" {before:.0f} MiB before, {most:.0f} MiB at most"
        )


Attack = Callable[[Target, Seen, int], Awaitable[None]]
"""Does something to a node for a moment; the number says how much of it."""


def request(method: str, path: str, body: bytes = b"", *headers: str, close: bool = True) -> bytes:
    """Returns a request in bytes."""
    lines = [f"{method} {path} HTTP/1.1", "host: localhost", *headers]
    lines += [f"content-length: {len(body)}", "content-type: application/json"] if body else []
    lines += ["connection: close"] if close else []
    return "\r\n".join([*lines, "", ""]).encode() + body


async def send(stream: trio.SocketStream, data: bytes) -> bool:
    """Sends what the node takes; False where it closed the connection."""
    try:
        await stream.send_all(data)
    except (trio.BrokenResourceError, OSError):
        return False
    return True


async def status_of(stream: trio.SocketStream) -> int:
    """Returns the status of an answer, `CLOSED` where the node sent none.

    Raises:
        Broken: The node neither answers nor closes.
    """
    head = b""
    try:
        with trio.fail_after(2 * SERVED_S):
            while b"\r\n" not in head:
                piece = await stream.receive_some(4_096)
                if not piece:
                    return CLOSED
                head += piece
    except (trio.BrokenResourceError, OSError):
        return CLOSED
    except trio.TooSlowError:
        raise Broken("the node neither answered nor closed the connection") from None
    return int(head.split(b" ", 2)[1])


async def ask(target: Target, raw: bytes) -> tuple[int, bytes]:
    """Sends a request on a connection of its own; returns the status and the rest of the answer."""
    async with await target.connect() as stream:
        await send(stream, raw)
        answer = b""
        with suppress(trio.BrokenResourceError):
            while piece := await stream.receive_some(65_536):
                answer += piece
    return (int(answer.split(b" ", 2)[1]), answer) if answer else (CLOSED, b"")


async def attack(target: Target, how: Attack, amount: int) -> Seen:
    """Attacks a node, and has it answer others meanwhile.

    Raises:
        Broken: It did not, or took too much memory.
    """
    seen = Seen()
    before = target.rss_mib()
    seen.rss_mib = (before, before)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_watch, target, seen)
            await how(target, seen, amount)
            await _bystander(target, seen)
            nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        error = leaf_error(group)
        if isinstance(error, Broken):
            raise error from None
        raise
    most = seen.rss_mib[1]
    if most - before > GROWTH_MIB:
        raise Broken(f"the node grew from {before:.0f} to {most:.0f} MiB")
    return seen


async def _watch(target: Target, seen: Seen) -> None:
    while True:
        await _bystander(target, seen)
        seen.rss_mib = (seen.rss_mib[0], max(seen.rss_mib[1], target.rss_mib()))
        await trio.sleep(_PAUSE_S)


async def _bystander(target: Target, seen: Seen) -> None:
    body = json.dumps({"model": "all-minilm-l6-v2", "input": "somebody else"}).encode()
    began = time.monotonic()
    for raw in (request("GET", "/health"), request("POST", "/v1/embeddings", body)):
        with trio.move_on_after(SERVED_S) as late:
            status, answer = await ask(target, raw)
            while status == 429 and b"\r\nretry-after: " in answer:  # as every client of OpenAI's does
                seen.told_to_wait += 1
                await trio.sleep(float(answer.partition(b"\r\nretry-after: ")[2].split(b"\r\n")[0]))
                status, answer = await ask(target, raw)
            if status != 200:
                raise Broken(f"a bystander was answered {status or 'by nothing'}: {answer[-300:]!r}")
        if late.cancelled_caught:
            raise Broken(f"a bystander was not answered within {SERVED_S:g} s")
    seen.served += 1
    seen.worst_s = max(seen.worst_s, time.monotonic() - began)
