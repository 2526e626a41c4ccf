from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atmo.api.ranges import Span, Unsatisfiable, is_matched, is_range_current, wanted_span

SIZE = 1_000


@pytest.mark.parametrize(
    ("header", "wanted"),
    [
        ("bytes=0-0", Span(0, 1)),
        ("bytes=0-", Span(0, 1_000)),
        ("bytes=10-19", Span(10, 20)),
        ("bytes=999-", Span(999, 1_000)),
        ("bytes=990-2000", Span(990, 1_000)),
        ("bytes=0-99999999999999999999999999999999", Span(0, 1_000)),
        ("bytes=-1", Span(999, 1_000)),
        ("bytes=-1000", Span(0, 1_000)),
        ("bytes=-5000", Span(0, 1_000)),
        ("bytes = 5-6 ,", Span(5, 7)),
        ("Bytes=0005-0006", Span(5, 7)),
    ],
)
def test_ranges(header: str, wanted: Span) -> None:
    assert wanted_span([header], SIZE) == wanted


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [""],
        ["bytes"],
        ["bytes="],
        ["bytes=,"],
        ["lines=0-5"],
        ["bytes=a-b"],
        ["bytes=-"],
        ["bytes=--5"],
        ["bytes=5"],
        ["bytes=5-4"],
        ["bytes=0x5-6"],
        ["bytes=+5-6"],
        ["bytes=٣-٤"],
        ["bytes=0-1,x"],
    ],
)
def test_what_is_no_range_is_ignored(headers: list[str]) -> None:
    assert wanted_span(headers, SIZE) is None


@pytest.mark.parametrize(
    "headers",
    [
        ["bytes=1000-"],
        ["bytes=1000-1001"],
        ["bytes=-0"],
        ["bytes=" + "9" * 10_000 + "-"],
        ["bytes=0-1,5-6"],
        ["bytes=0-1", "5-6"],
        ["bytes=" + "0-," * 5_000],
    ],
)
def test_what_is_not_there_is_refused(headers: list[str]) -> None:
    with pytest.raises(Unsatisfiable):
        wanted_span(headers, SIZE)


def test_an_empty_file_has_no_ranges() -> None:
    with pytest.raises(Unsatisfiable):
        wanted_span(["bytes=0-"], 0)


@given(st.lists(st.text(alphabet="bytes=-,0123456789 \t", max_size=40), max_size=3), st.integers(0, 2**53))
def test_a_span_always_lies_in_the_file(headers: list[str], size: int) -> None:
    try:
        span = wanted_span(headers, size)
    except Unsatisfiable:
        return
    assert span is None or 0 <= span.start < span.end <= size


def test_conditions() -> None:
    assert is_range_current(None, '"a"')
    assert is_range_current(' "a"', '"a"')
    assert not is_range_current('W/"a"', '"a"')
    assert not is_range_current("Tue, 15 Nov 1994 12:45:26 GMT", '"a"')
    assert is_matched(["*"], '"a"', weakly=False)
    assert is_matched(['"b"', '"c", "a"'], '"a"', weakly=False)
    assert not is_matched(['W/"a"'], '"a"', weakly=False)
    assert is_matched(['W/"a"'], '"a"', weakly=True)
    assert not is_matched(["a"], '"a"', weakly=True)
