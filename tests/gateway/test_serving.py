"""What a node tells another of answers and errors that JSON or CBOR cannot say."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import pytest

from atmo.backends.base import Call, Part
from atmo.errors import RequestError
from tests.gateway.test_remote import as_json, serving
from tests.gateway.world import Echo, Failing, chat, chunk

HALF = "\ud83d"


class Odd(Echo):
    """Answers with a number that is none."""

    async def answer(self, call: Call) -> AsyncGenerator[Part, None]:
        yield {**chunk("echo", {"content": "a"}), "created": float("nan")}


@pytest.mark.parametrize("stream", [False, True])
async def test_a_number_that_is_none_is_the_backends_fault(stream: bool) -> None:
    async with serving(Odd()) as server:
        (answer,) = await server.answers(as_json(chat()), stream=stream)
    assert (answer["error"]["status"], answer["error"]["code"]) == (502, "bad_answer")


async def test_an_error_with_half_a_character_in_every_field() -> None:
    error = RequestError(400, f"no {HALF}", code=f"c{HALF}", param=f"p{HALF}")
    async with serving(Failing(error=error)) as server:
        (answer,) = await server.answers(as_json(chat()))
    told = answer["error"]
    assert (told["message"], told["code"], told["param"]) == ("no ?", "c?", "p?")
