"""Lines and events out of bytes that arrive in any pieces."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atmo.errors import UserError
from atmo.shell import lines
from atmo.shell.lines import bounded_lines, events, json_lines


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(edges)]


@given(st.lists(st.binary().filter(lambda b: b"\n" not in b and b"\r" not in b)), st.lists(st.integers(0, 200)))
def test_lines_do_not_depend_on_the_pieces(wanted: list[bytes], cuts: list[int]) -> None:
    data = b"".join(line + b"\r\n" for line in wanted)
    assert list(bounded_lines(pieces(data, cuts))) == wanted


def test_the_last_line_needs_no_end() -> None:
    assert list(bounded_lines([b"a\nb", b"c"])) == [b"a", b"bc"]
    assert list(bounded_lines([b"a\n", b""])) == [b"a"]


@pytest.mark.parametrize("chunks", [[b"12345"], [b"123", b"45"], [b"123", b"45\n"], [b"1\n12345\n"]])
def test_long_lines_are_refused(chunks: list[bytes]) -> None:
    with pytest.raises(UserError, match="more than 4 bytes"):
        list(bounded_lines(chunks, 4))


def test_json_lines() -> None:
    assert list(json_lines([b'{"a": 1}\n\n', b'{"b": 2}'])) == [{"a": 1}, {"b": 2}]


@pytest.mark.parametrize("line", [b"{", b"[1]", b"\xff", b"[" * 100_000])
def test_lines_that_are_no_objects(line: bytes) -> None:
    with pytest.raises(UserError, match="same version"):
        list(json_lines([line]))


def test_events() -> None:
    stream = (
        b': comment\nevent: x\ndata: {"a":\ndata: 1}\n\ndata:{"b": 2}\n\nid: 5\n\ndata: [DONE]\n\ndata: {"c": 3}\n\n'
    )
    assert list(events([stream])) == [{"a": 1}, {"b": 2}]


def test_an_event_without_its_empty_line_is_not_one() -> None:
    assert list(events([b'data: {"a": 1}\n'])) == []


def test_events_of_many_lines_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "MAX_LINE_BYTES", 12)
    with pytest.raises(UserError, match="an event is longer than 12 bytes"):
        list(events([b"data: 12345\n" * 3 + b"\n"]))
