"""Traces: written, read, compared; what is no trace is refused in one sentence."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from atmo.errors import UserError
from atmo.sim import trace as kinds
from atmo.sim.replay import Comparison
from atmo.sim.trace import NOBODY, Entry, Trace, TraceHead, TraceReader, open_trace

HEAD = TraceHead("broadcast", {"nodes": 3, "seed": 1})


def tell(trace: Trace, times: int = 3, odd: int | None = None) -> None:
    first, second = trace.number("n0"), trace.number("n1")
    trace.note(0.5, kinds.START, first, first, "")
    for number in range(times):
        trace.note(1.0 + number, kinds.MESSAGE, first, second, "Ping" if number != odd else "Pong", 18)
    trace.note(9.0, kinds.DOWN, second, NOBODY, "timed out")


def written(path: Path, times: int = 3) -> str:
    trace = Trace(open_trace(path, HEAD))
    tell(trace, times)
    digest = trace.digest()
    trace.close()
    return digest


def compared(path: Path, times: int = 3, odd: int | None = None) -> Comparison:
    reader = TraceReader(path)
    comparison = Comparison(reader)
    trace = Trace(comparison)
    tell(trace, times, odd)
    trace.close()
    comparison.finish()
    return comparison


def test_what_is_written_can_be_read(tmp_path: Path) -> None:
    path = tmp_path / "run.trace"
    written(path)
    reader = TraceReader(path)
    assert reader.head == HEAD
    entries = list(reader.entries())
    assert entries[0] == Entry(0.5, "start", "n0", "n0", "", 0)
    assert entries[1] == Entry(1.0, "message", "n0", "n1", "Ping", 18)
    assert str(entries[1]) == "1.000000 n0 message Ping n1 (18 bytes)"
    assert str(entries[-1]) == "9.000000 n1 down timed out -"
    reader.close()


def test_the_digest_is_of_what_happened_and_does_not_depend_on_a_file(tmp_path: Path) -> None:
    digest = written(tmp_path / "run.trace")
    for times, odd in ((3, None), (4, None), (3, 1)):
        trace = Trace()
        tell(trace, times, odd)
        assert (trace.digest() == digest) is (times == 3 and odd is None)
    assert trace.count == 5


def test_a_long_trace_is_written_in_blocks(tmp_path: Path) -> None:
    path = tmp_path / "run.trace"
    written(path, times=10_000)
    assert sum(1 for _ in TraceReader(path).entries()) == 10_002
    assert compared(path, times=10_000).same


def test_the_same_run_compares_equal(tmp_path: Path) -> None:
    path = tmp_path / "run.trace"
    written(path)
    comparison = compared(path)
    assert comparison.same
    assert (comparison.differs, comparison.longer, comparison.ended) == (None, False, False)


def test_another_run_is_told_where_it_parts(tmp_path: Path) -> None:
    path = tmp_path / "run.trace"
    written(path, times=10_000)
    comparison = compared(path, times=10_000, odd=7_000)
    assert not comparison.same
    assert comparison.where() == "7001.000000 n0 message Ping n1 (18 bytes)"
    shorter = compared(path, times=0)
    assert not shorter.same
    assert shorter.where() == "1.000000 n0 message Ping n1 (18 bytes)"


def test_a_run_that_ends_early_is_not_the_same_and_one_that_was_stopped_is(tmp_path: Path) -> None:
    path = tmp_path / "run.trace"
    trace = Trace(open_trace(path, HEAD))
    tell(trace)
    first = trace.number("n0")
    more = trace
    more.note(10.0, kinds.TIMER, first, first, "")
    more.close()
    comparison = compared(path)
    assert (comparison.differs, comparison.longer, comparison.same) == (None, True, False)
    assert comparison.where() == "more"
    data = gzip.decompress(path.read_bytes())
    path.write_bytes(gzip.compress(data[:-60]))
    comparison = compared(path)
    assert comparison.same
    assert comparison.ended


def test_a_trace_whose_writer_was_killed_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    path = tmp_path / "run.trace"
    written(path, times=10_000)
    path.write_bytes(path.read_bytes()[:-200])
    assert 9_000 < sum(1 for _ in TraceReader(path).entries()) <= 10_002


def test_what_is_no_trace_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.trace"

    def refused(data: bytes | None) -> str:
        if data is not None:
            path.write_bytes(data)
        with pytest.raises(UserError) as caught:
            list(TraceReader(path).entries())
        assert "\n" not in str(caught.value)
        return str(caught.value)

    def packed(head: object, rest: bytes = b"") -> bytes:
        return gzip.compress(json.dumps(head).encode() + b"\n" + rest)

    good = {"format": "atmo-trace", "version": 1, "scenario": "x", "settings": {}, "atmosphere": HEAD.atmosphere}
    assert "can be read" in refused(None)
    assert "can be read" in refused(b"text")
    assert "no trace" in refused(gzip.compress(b"{"))
    assert "no trace" in refused(packed([1]))
    assert "version 2" in refused(packed(good | {"version": 2}))
    assert "Atmosphere 0.0.7" in refused(packed(good | {"atmosphere": "0.0.7"}))
    assert "broken" in refused(packed(good, b"\xff" * 25))
    whole = packed(good, bytes(range(256)) * 4_000)
    assert "broken" in refused(whole[:-600] + b"\xff" * 600)
    assert "no trace" in refused(whole[:20] + b"\xff" * 600)


def test_a_trace_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be written"):
        open_trace(tmp_path / "missing" / "run.trace", HEAD)
