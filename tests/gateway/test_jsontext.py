from __future__ import annotations

import json
import math
from contextlib import suppress
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from atmo.errors import RequestError
from atmo.gateway.jsontext import (
    HUGE_BYTES,
    MAX_DEPTH,
    THREAD_BYTES,
    dump,
    parse_object_untrusted,
    read_object_untrusted,
    write_object,
)


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"", "Expecting value at line 1, column 1"),
        (b"{", "Expecting property name"),
        (b'{"a', "Unterminated string starting at line 1, column 2"),
        (b'{"a": 1} x', "Extra data"),
        (b"\xff\xfe{}", "byte 0 is not UTF-8"),
        (b'{"a": "\xed\xa0\x80"}', "is not UTF-8"),
        (b"[]", "want an object, got a list"),
        (b'"x"', "got a string"),
        (b"true", "got true or false"),
        (b"1", "got a number"),
        (b"1.5", "got a number"),
        (b"null", "got null"),
        (b'{"a": NaN}', "NaN is not a JSON number"),
        (b'{"a": -Infinity}', "-Infinity is not a JSON number"),
        (b'{"a": 1e999}', "1e999 is too large"),
        (b'{"a": 18446744073709551616}', "longer than 64 bits"),
        (b'{"a": -9223372036854775809}', "longer than 64 bits"),
        (b'{"a": ' + b"9" * 5_000 + b"}", "longer than 64 bits"),
        (b'{"a": "\\ud800"}', "half of a surrogate pair"),
        (b'{"\\udc00": 1}', "half of a surrogate pair"),
        (b'{"a": ' + b"[" * 65 + b"]" * 65 + b"}", "nested deeper than 64"),
        (b'{"a": ' + b"[" * 100_000, "nested deeper than 64"),
        (b'{"a":' * 100_000, "nested deeper than 64"),
    ],
)
def test_refuses(raw: bytes, words: str) -> None:
    with pytest.raises(RequestError) as caught:
        parse_object_untrusted(raw)
    assert caught.value.status == 400
    assert words in caught.value.message
    assert len(caught.value.message) < 200


def test_reads_what_clients_send() -> None:
    deep = b'{"a": ' + b"[" * (MAX_DEPTH - 1) + b"]" * (MAX_DEPTH - 1) + b"}"
    assert parse_object_untrusted(deep)["a"]
    wide = b'{"a": [' + b"[1]," * 1_000 + b'{"b": 2.5e3}]}'
    assert parse_object_untrusted(wide)["a"][-1] == {"b": 2500.0}
    assert parse_object_untrusted('{"a": "\\ud83d\\ude00 \\u00e9 ü"}'.encode()) == {"a": "😀 é ü"}
    assert parse_object_untrusted(b'{"a": 18446744073709551615}') == {"a": 2**64 - 1}


def test_a_byte_order_mark_is_passed_over() -> None:
    assert parse_object_untrusted(b'\xef\xbb\xbf{"a": "\xef\xbb\xbf"}') == {"a": "\ufeff"}


def test_writes() -> None:
    assert dump({"a": "ü", "b": [1, None]}) == '{"a":"ü","b":[1,null]}'.encode()
    assert json.loads(dump({"a": "\ud800"})) == {"a": "\ud800"}
    with pytest.raises(ValueError, match="not JSON compliant"):
        dump({"a": math.nan})


@given(st.binary(max_size=200))
def test_nothing_but_request_errors_escapes(raw: bytes) -> None:
    with suppress(RequestError):
        value = parse_object_untrusted(raw)
        assert parse_object_untrusted(dump(value)) == value


LARGE = [
    {"a": "x" * THREAD_BYTES},
    {"x" * THREAD_BYTES: 1},
    {"a": [0.5] * 100_000},
    {"a": [["x" * 1_000]] * 300},
    {str(number): {} for number in range(40_000)},
]


class Threads:
    """Counts what goes to a thread."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.used = 0
        real = trio.to_thread.run_sync

        async def counted(work: Any, *arguments: Any) -> Any:
            self.used += 1
            return await real(work, *arguments)

        monkeypatch.setattr(trio.to_thread, "run_sync", counted)


@pytest.mark.parametrize("value", LARGE, ids=range(len(LARGE)))
async def test_large_objects_are_read_and_written_in_a_thread(
    value: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = Threads(monkeypatch)
    assert await read_object_untrusted(await write_object(value)) == value
    assert threads.used == 2


@pytest.mark.parametrize("value", [{}, {"a": [1, {"b": None}], "c": "x" * 1_000}])
async def test_small_objects_are_not(value: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    threads = Threads(monkeypatch)
    assert await read_object_untrusted(await write_object(value)) == value
    assert threads.used == 0


async def test_many_huge_objects_are_read_two_at_a_time() -> None:
    raw = await write_object({"a": "x" * HUGE_BYTES})
    found: list[int] = []

    async def read() -> None:
        found.append(len((await read_object_untrusted(raw))["a"]))

    async with trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(read)
        await trio.testing.wait_all_tasks_blocked()
        assert len(found) <= 2
    assert found == [HUGE_BYTES] * 4


async def test_errors_come_out_of_the_thread() -> None:
    with pytest.raises(RequestError, match="Expecting value"):
        await read_object_untrusted(b" " * THREAD_BYTES)
    with pytest.raises(ValueError, match="not JSON compliant"):
        await write_object({"a": [math.nan] * 100_000})


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(st.dictionaries(st.text(), JSON, max_size=4))
def test_what_is_written_reads_back(value: dict[str, object]) -> None:
    assert parse_object_untrusted(dump(value)) == value
