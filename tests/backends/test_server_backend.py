"""Models that fail are proved by a real call before they are offered on."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

import pytest
import trio

from atmo.backends.base import Call, Part
from atmo.backends.server_backend import ServerBackend
from atmo.errors import RequestError
from atmo.router.capability import CHAT, EMBEDDINGS, IMAGES, Capability

CHATTER = Capability(id="s:chat", operation=CHAT, model="chat")
EMBEDDER = Capability(id="s:embed", operation=EMBEDDINGS, model="embed")
PAINTER = Capability(id="s:paint", operation=IMAGES, model="paint")


class Runner(ServerBackend):
    """A server whose models fail as a test wants."""

    def __init__(self, *, expected: bool = True) -> None:
        super().__init__("runner", 60.0, expected=expected)
        self.away: RequestError | None = None
        self.failing: dict[str, RequestError] = {}
        self.hanging: set[str] = set()
        self.calls: list[Call] = []
        self.listed: list[Capability] = [CHATTER, EMBEDDER, PAINTER]

    async def models(self) -> Sequence[Capability]:
        if self.away is not None:
            raise self.away
        return self.listed

    async def run(self, call: Call) -> AsyncGenerator[Part, None]:
        self.calls.append(call)
        if call.capability.id in self.hanging:
            await trio.sleep_forever()
        if call.capability.id in self.failing:
            raise self.failing[call.capability.id]
        yield {"model": call.capability.model}


def broken(status: int = 502, code: str = "upstream") -> RequestError:
    return RequestError(status, "The server failed with status 500: out of memory.", code=code)


async def call(runner: Runner, capability: Capability = CHATTER) -> None:
    async with aclosing(runner.execute(Call(capability, {"messages": [], "input": "x"}))) as parts:
        async for _ in parts:
            pass


async def fail(runner: Runner, capability: Capability, error: RequestError) -> None:
    runner.failing[capability.id] = error
    with pytest.raises(RequestError):
        await call(runner, capability)


async def test_a_model_that_fails_is_withdrawn_until_a_real_call_succeeds() -> None:
    runner = Runner()
    assert await runner.discover() == runner.listed
    await fail(runner, CHATTER, broken())
    assert await runner.discover() == [EMBEDDER, PAINTER]
    assert await runner.discover() == [EMBEDDER, PAINTER]
    proofs = runner.calls[1:]
    assert [(proof.capability, proof.body["max_tokens"], proof.stream) for proof in proofs] == [(CHATTER, 1, False)] * 2
    del runner.failing[CHATTER.id]
    assert await runner.discover() == runner.listed
    assert len(runner.calls) == 4
    assert await runner.discover() == runner.listed
    assert len(runner.calls) == 4


async def test_a_call_that_succeeds_takes_the_doubt_back() -> None:
    runner = Runner()
    await fail(runner, EMBEDDER, broken(504, "upstream_late"))
    del runner.failing[EMBEDDER.id]
    await call(runner, EMBEDDER)
    assert await runner.discover() == runner.listed
    assert len(runner.calls) == 2


@pytest.mark.parametrize("status", [400, 429])
async def test_whoever_refuses_a_proof_works(status: int) -> None:
    runner = Runner()
    await fail(runner, CHATTER, broken())
    runner.failing[CHATTER.id] = broken(status)
    assert await runner.discover() == runner.listed
    assert await runner.discover() == runner.listed
    assert len(runner.calls) == 2


@pytest.mark.parametrize(
    "error",
    [broken(400), broken(404), broken(429), broken(503), broken(502, "no_key"), broken(502, "upstream_refused")],
)
async def test_failures_that_are_not_the_models(error: RequestError) -> None:
    runner = Runner()
    await fail(runner, CHATTER, error)
    assert await runner.discover() == runner.listed
    assert len(runner.calls) == 1


async def test_what_is_too_dear_to_prove_is_trusted_again() -> None:
    runner = Runner()
    await fail(runner, PAINTER, broken())
    assert await runner.discover() == runner.listed
    assert len(runner.calls) == 1


async def test_a_proof_that_hangs_ends_in_time(autojump_clock: trio.testing.MockClock) -> None:
    runner = Runner()
    await fail(runner, CHATTER, broken())
    runner.hanging.add(CHATTER.id)
    with trio.fail_after(9):
        assert await runner.discover() == [EMBEDDER, PAINTER]


async def test_doubts_are_few_and_go_with_their_models() -> None:
    runner = Runner()
    many = [Capability(id=f"s:{index}", operation=CHAT, model=str(index)) for index in range(70)]
    for capability in many:
        await fail(runner, capability, broken())
    runner.listed = [many[0], many[69]]
    assert await runner.discover() == [many[0]]
    runner.listed = []
    assert await runner.discover() == []
    runner.listed = [many[69]]
    assert await runner.discover() == [many[69]]


async def test_a_server_that_is_away_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "atmo")
    wished, unasked = Runner(), Runner(expected=False)
    for runner in (wished, unasked):
        for _ in range(2):
            runner.away = broken()
            for _ in range(3):
                assert await runner.discover() == []
            runner.away = None
            assert await runner.discover() == runner.listed
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING", "DEBUG", "INFO"]
