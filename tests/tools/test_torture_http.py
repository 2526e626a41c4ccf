"""tools/torture http would notice a node that does not serve others; tests/e2e/test_attacks.py runs the attacks."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import trio

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))

import torture_attack
from torture_attack import Broken, Seen, Target, attack


async def nothing(target: Target, seen: Seen, amount: int) -> None:
    await trio.sleep(0.2)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (None, "not answered within"),
        (b"", "by nothing"),
        (b"HTTP/1.1 500 x\r\n\r\n", "500"),
        (b"HTTP/1.1 429 x\r\n\r\n", "429"),
    ],
)
async def test_a_node_that_serves_nobody(answer: bytes | None, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torture_attack, "SERVED_S", 0.3)

    async def handle(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        if answer is None:
            await trio.sleep_forever()
        await stream.send_all(answer or b"")
        await stream.aclose()

    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, handle, [listener])
        with pytest.raises(Broken, match=said):
            await attack(Target(listener.socket.getsockname()[1], os.getpid()), nothing, 1)
        nursery.cancel_scope.cancel()


async def test_a_node_that_grows_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torture_attack, "GROWTH_MIB", -1)

    async def handle(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(b"HTTP/1.1 200 OK\r\n\r\n")
        await stream.aclose()

    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, handle, [listener])
        with pytest.raises(Broken, match="the node grew"):
            await attack(Target(listener.socket.getsockname()[1], os.getpid()), nothing, 1)
        nursery.cancel_scope.cancel()
