"""What others say that the time is, over QUIC between two nodes."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import Any, cast

import pytest
import trio

from atmo.errors import RemoteError
from atmo.identity import NodeId, Signer
from atmo.services.clock import ASKED_MOST, ClockAnswer, ClockService, offset_s
from atmo.wire.schema import pack

NODES = [Signer(bytes([number]) * 32).node_id for number in range(1, 9)]


class Clocks:
    """A mesh whose nodes answer with what is told for each; none stands for one that cannot be reached."""

    def __init__(self, answers: dict[NodeId, Any]) -> None:
        self.answers = answers
        self.asked: list[NodeId] = []

    @asynccontextmanager
    async def request(self, node: NodeId, protocol: str, header: object, deadline_s: float) -> Any:
        self.asked.append(node)
        answer = self.answers.get(node)
        if answer is None:
            raise RemoteError("there is no way to it")
        yield Stream(answer)


class Stream:
    def __init__(self, answer: Any) -> None:
        self.sent: list[bytes] = []
        self._answer = answer

    async def send(self, body: bytes) -> None:
        self.sent.append(body)

    async def receive(self) -> bytes | None:
        await trio.sleep(0.2)
        return self._answer() if callable(self._answer) else cast(bytes, self._answer)


def service(mesh: Clocks | None, wall: Any) -> ClockService:
    return ClockService(lambda: cast(Any, mesh), wall)


async def test_half_of_the_round_trip_is_taken_off(autojump_clock: object) -> None:
    def wall() -> float:
        return 1_000.0 + trio.current_time()

    def theirs() -> bytes:
        return pack(ClockAnswer(int((wall() - 0.1 + 30.0) * 1_000_000)))  # said in the middle of the round trip

    offsets = await service(Clocks({NODES[0]: theirs}), wall).offsets(NODES[:1])
    assert offsets == [pytest.approx(30.0, abs=0.001)]


async def test_who_does_not_answer_or_talks_nonsense_is_left_out(autojump_clock: object) -> None:
    good = pack(ClockAnswer(5_000_000))
    mesh = Clocks({NODES[0]: b"\xff", NODES[1]: lambda: None, NODES[3]: good})
    assert len(await service(mesh, lambda: 5.0).offsets(NODES)) == 1
    assert len(mesh.asked) == ASKED_MOST


async def test_without_a_mesh_nobody_is_asked() -> None:
    assert await service(None, lambda: 0.0).offsets(NODES) == []
    assert offset_s([]) is None


async def test_the_time_is_told() -> None:
    stream = Stream(b"")
    await service(None, lambda: 12.5).serve(cast(Any, stream))
    assert stream.sent == [pack(ClockAnswer(12_500_000))]


def test_two_liars_of_five_do_not_move_the_median() -> None:
    assert offset_s([0.1, 0.0, -0.1, 9e9, -9e9]) == 0.0
