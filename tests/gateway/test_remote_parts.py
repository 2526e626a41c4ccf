"""`atmo/execute/1`, the asking side: answers of an honest and a hostile other end."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from atmo.backends.base import Head
from atmo.errors import RemoteError, RequestError
from atmo.gateway import remote
from atmo.gateway.remote import RemoteParts
from atmo.wire import codec, limits
from tests.gateway.world import node_id, stream_pair

ASKING, SERVING = node_id(1), node_id(2)


def _nobody(_head: Head) -> None:
    """Wants to know nothing of when work begins."""


class TestParts:
    async def parts(self, *frames: Any) -> list[Any]:
        here, there = stream_pair(ASKING, SERVING, {})

        async def send() -> None:
            for frame in frames:
                await there.send(frame if isinstance(frame, bytes) else codec.encode(frame))
            await there.finish()

        found: list[Any] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            try:
                found += [part async for part in RemoteParts(here, _nobody)]
            except RemoteError as error:
                found.append(str(error))
            except RequestError as error:
                found.append(error)
            nursery.cancel_scope.cancel()
        return found

    async def test_pieces_become_parts(self) -> None:
        found = await self.parts(
            {"part": b'{"a":1}'}, {"piece": b'{"b"'}, {"piece": b":"}, {"part": b"2}"}, {"end": True}
        )
        assert found == [{"a": 1}, {"b": 2}]

    async def test_after_the_end_there_is_nothing(self) -> None:
        here, there = stream_pair(ASKING, SERVING, {})
        await there.send(codec.encode({"end": True}))
        parts = RemoteParts(here, _nobody)
        for _ in range(2):
            with pytest.raises(StopAsyncIteration):
                await anext(parts)

    @pytest.mark.parametrize(
        ("frame", "words"),
        [
            (b"\xff", "does not decode"),
            (b"\x9a" + (0xF_0000).to_bytes(4, "big") + b"\x80" * 0xF_0000, "more than 64 elements"),
            ([1], "not a map of one key"),
            ({}, "not a map of one key"),
            ({"part": b"{}", "end": True}, "not a map of one key"),
            ({"x": 1}, "none of head, part, piece, error and end"),
            ({1: b""}, "none of head, part, piece, error and end"),
            ({"part": "{}"}, "none of head, part, piece, error and end"),
            ({"part": b"[]"}, "not usable JSON"),
            ({"part": b'{"a": NaN}'}, "not usable JSON"),
            ({"head": {}}, "begins its answer in a way that does not decode"),
            ({"head": {"queue_ms": -1, "ignored": []}}, "begins its answer in a way that does not decode"),
            ({"head": {"queue_ms": 1}}, "names fields that it does not honour in a way that does not decode"),
            ({"head": {"queue_ms": 1, "ignored": ["a"] * 33}}, "names fields that it does not honour"),
            ({"head": {"queue_ms": 1, "ignored": ["a\r\nb"]}}, "names fields that it does not honour"),
            ({"error": {}}, "an error that does not decode"),
            ({"error": {"status": 200, "message": "x"}}, "an error that does not decode"),
            ({"error": {"status": True, "message": "x"}}, "an error that does not decode"),
            ({"error": {"status": 500, "message": 5}}, "an error that does not decode"),
        ],
    )
    async def test_frames_that_are_not_an_answer(self, frame: Any, words: str) -> None:
        (found,) = await self.parts(frame)
        assert words in found

    async def test_work_that_begins_twice(self) -> None:
        head = {"head": {"queue_ms": 1, "ignored": ["seed"]}}
        assert await self.parts(head, head) == ["it begins its answer in a way that does not decode"]

    async def test_a_stream_that_just_ends(self) -> None:
        assert await self.parts() == ["it ended the stream in the middle of an answer"]

    async def test_an_answer_that_is_too_large(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(limits, "REQUEST_BYTES", 10)
        assert await self.parts({"piece": b"x" * 6}, {"piece": b"x" * 6}) == ["its answer is too large"]

    async def test_an_answer_in_too_many_pieces(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(remote, "MAX_PIECES", 3)
        assert await self.parts(*[{"piece": b""}] * 9) == ["its answer comes in too many pieces"]

    async def test_an_error(self) -> None:
        error = {"status": 429, "message": "m" * 3_000, "kind": 5, "code": "c" * 300, "param": "p"}
        (found,) = await self.parts({"error": error})
        assert isinstance(found, RequestError)
        assert (found.status, found.kind, found.param) == (429, "api_error", "p")
        assert (len(found.message), len(found.code or "")) == (2_000, 128)


@given(
    st.binary(max_size=64)
    | st.dictionaries(st.text(max_size=5), st.none() | st.binary() | st.integers(0, 9)).map(codec.encode)
)
def test_no_frame_breaks_the_reader(frame: bytes) -> None:
    async def read() -> None:
        here, there = stream_pair(ASKING, SERVING, {})
        await there.send(frame)
        await there.finish()
        with suppress(RemoteError, RequestError):
            _ = [part async for part in RemoteParts(here, _nobody)]

    trio.run(read)
