"""How values look to a person."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atmo.shell.text import (
    Wrapper,
    clock_text,
    printable,
    prose,
    size_text,
    table,
    time_text,
    width_of,
    wrapped_table,
)
from atmo.shell.views import (
    info_lines,
    model_rows,
    names_text,
    nat_text,
    node_rows,
    path_notes,
    peer_rows,
    route_rows,
    rtt_text,
    status_lines,
)


@given(st.text())
def test_printable_text_is_one_harmless_line(text: str) -> None:
    shown = printable(text)
    assert shown.isprintable()
    assert len(shown) == len(text)


def test_prose_keeps_lines_and_scripts_but_no_control() -> None:
    assert prose("a\tb\nc\r\x1b[2J\x9b1m\u202eü 字 👩\u200d🚀\u00a0!") == "a\tb\nc[2J1mü 字 👩\u200d🚀\u00a0!"


def test_text_that_streams_breaks_between_words() -> None:
    assert wrapped("aaa bbb ccc\n  dd ee ffffffffffff g", 8) == "aaa bbb\nccc\n  dd ee\nffffffffffff\ng"
    assert wrapped("a  \nb ", 8) == "a\nb"
    assert wrapped("a b\tc  ", None) == "a b\tc  "


@given(st.text("ab \n字"), st.integers(4, 12))
def test_wrapping_keeps_every_word(text: str, width: int) -> None:
    shown = wrapped(text, width)
    assert shown.split() == text.split()
    assert all(width_of(line) <= width or len(line.split()) == 1 for line in shown.split("\n"))


def wrapped(text: str, width: int | None) -> str:
    out: list[str] = []
    wrapper = Wrapper(out.append, width)
    for char in text:
        wrapper.feed(char)
    wrapper.flush()
    return "".join(out)


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1_500, "1.5 kB"), (99_499, "99.5 kB"), (150_000, "150 kB"), (999_600, "1.0 MB")],
)
def test_sizes(count: int, text: str) -> None:
    assert size_text(count) == text
    assert size_text(2.5e13) == "25.0 TB"


def test_times() -> None:
    assert [time_text(s) for s in (None, 0, 0.9, 12, 300, 7_200, 200_000)] == [
        "-",
        "now",
        "now",
        "12 s",
        "5 min",
        "2 h",
        "2 d",
    ]
    assert [clock_text(s) for s in (None, 7.9, 65, 3_725, 1e12)] == ["-:--", "0:07", "1:05", "1:02:05", "99:59:59"]
    assert [rtt_text(ms) for ms in (None, 0.04, 9.96, 120.4)] == ["-", "0.0 ms", "10.0 ms", "120 ms"]


def test_tables_align_by_columns_of_the_terminal() -> None:
    lines = table((">N", "NAME", "X"), [["1", "字字", "a"], ["20", "é́x", "b"]])
    assert lines == [" N  NAME  X", " 1  字字  a", "20  é́x    b"]
    assert table(("A",), [["x" * 30]], width=10)[1] == "x" * 9 + "\u2026"
    assert table(("A",), [["字" * 30]], width=10)[1] == "字" * 4 + "\u2026"
    assert table(("A",), [["short"]], width=10)[1] == "short"


@given(st.lists(st.tuples(st.text(), st.text())), st.integers(2, 40))
def test_tables_fit_the_terminal(rows: list[tuple[str, str]], width: int) -> None:
    lines = table(("A", ">B"), rows, width)
    assert len(lines) == len(rows) + 1
    assert all(width_of(line) <= width for line in lines)


def test_sentences_wrap_beside_or_below_the_other_columns() -> None:
    headers, rows = ["NAME", ">N", "WHAT"], [("lamp", 5, "it shines when somebody comes in"), ("bell", 12, "")]
    assert wrapped_table(headers, rows, None) == table(headers, rows)
    assert wrapped_table(headers, rows, 36) == [
        "NAME   N  WHAT",
        "lamp   5  it shines when somebody",
        "          comes in",
        "bell  12",
    ]
    assert wrapped_table(headers, rows, 26) == [
        "NAME   N",
        "    WHAT",
        "lamp   5",
        "    it shines when",
        "    somebody comes in",
        "bell  12",
    ]


def test_rows_of_nodes_and_models() -> None:
    assert node_rows(
        [{"id": "a" * 52, "name": "x", "roles": [], "path": None, "rtt_ms": None, "last_seen_s": None}]
    ) == [["x", "-", "-", "-", "-", "-", "a" * 10]]
    assert node_rows([{"id": "b" * 52, "name": "y", "path": "", "present": False}])[0][2] == "gone"
    founder = {"id": "c" * 52, "name": "z", "path": "lan", "roles": ["admin"], "founder": True}
    assert node_rows([founder])[0][1] == "founder, admin"
    model = {"name": "m", "version": "1", "format": "onnx", "size_bytes": 1, "local": False, "nodes": list("abcdef")}
    assert model_rows([model]) == [["m", "1", "-", "onnx", "1 B", "no", "a, b, c, d +2", ""]]
    odd = model | {"deprecated": True, "readers": ["edge"], "source": "ollama"}
    assert model_rows([odd])[0][-1] == "deprecated, for edge, ollama"
    assert names_text([]) == "-"


def test_paths_and_why_they_are_no_better_ones() -> None:
    relayed = {"name": "bert", "path": "relay", "path_address": None, "path_since_s": 65, "rtt_ms": 50.4}
    assert peer_rows([relayed]) == [["bert", "relay", "-", "65 s", "50 ms"]]
    assert path_notes([relayed, {**relayed, "no_better_path": "UDP is\x1b[2J blocked"}]) == [
        "bert by relay: UDP is\ufffd[2J blocked"
    ]


def test_rows_of_a_dry_run() -> None:
    base = {"model": "m", "node_name": "n", "verdict": "passed over"}
    rows = route_rows(
        [{**base, "verdict": "chosen", "similarity": 0.5}, {**base, "verdict": "fallback", "load": 2}, base]
    )
    assert [row[0] for row in rows] == ["->", "2", ""]
    assert [row[5] for row in rows] == ["0.50", "-", "-"]
    assert [row[6] for row in rows] == ["-", "2", "-"]


@pytest.mark.parametrize(
    ("nat", "text"),
    [
        ({"mapping": "unknown", "filtering": "unknown", "public": []}, ""),
        (
            {"mapping": "endpoint", "filtering": "port", "public": ["192.0.2.1:7", "[2001:db8::1]:7"]},
            "one port for all destinations; lets in whom was sent to; seen at 192.0.2.1:7, [2001:db8::1]:7",
        ),
        ({"mapping": "port", "filtering": "unknown", "public": []}, "another port for each destination"),
        ({"mapping": "none", "filtering": "endpoint", "public": ["\x1b"]}, "none; lets in everybody; seen at \ufffd"),
    ],
)
def test_what_is_known_of_the_nat(nat: dict[str, Any], text: str) -> None:
    assert nat_text(nat) == text
    shown = status_lines({"running": True, "nat": nat})[1:]
    assert shown == ([f"  nat  {text}"] if text else [])


@pytest.mark.parametrize(
    ("mapping", "text"),
    [
        (
            {"how": "PCP", "external": "11.0.0.1:7", "tcp": True, "lifetime_s": 7_200, "reason": ""},
            "lets in UDP and TCP at 11.0.0.1:7 (PCP, for 2 h)",
        ),
        (
            {"how": "UPnP", "external": "100.64.0.1:7", "tcp": False, "lifetime_s": 3_600, "reason": "a second NAT"},
            "lets in UDP at 100.64.0.1:7 (UPnP, for 60 min); others are not told: a second NAT",
        ),
        ({"external": None, "reason": "\x1b"}, "maps no port: \ufffd"),
        ({"external": None, "reason": ""}, ""),
    ],
)
def test_what_the_router_does(mapping: dict[str, Any], text: str) -> None:
    shown = status_lines({"running": True, "port_mapping": mapping})[1:]
    assert shown == ([f"  router  {text}"] if text else [])


def test_status_is_wrapped_between_words() -> None:
    node = "n" * 52
    status = {"running": True, "node_id": node, "capabilities": ["builtin:embed", "rag:atmosphere-docs"]}
    assert status_lines(status, 40)[1:] == [
        "  node id",
        f"                {node}",
        "  capabilities  builtin:embed,",
        "                rag:atmosphere-docs",
    ]


def test_status_of_any_kind() -> None:
    assert status_lines({"running": False, "home": "/h"}) == ["No node is running on /h.", "  home  /h"]
    lines = status_lines(
        {
            "running": True,
            "name": "k",
            "version": "1",
            "pid": 3,
            "mesh": {"id": "i" * 20, "name": "m"},
            "http": "http://x",
            "stored_bytes": 1_500,
            "uptime_s": 5,
            "counts": {"a": 1, "b": 2},
            "listen": ["a:1", "b:2"],
            "note": None,
        }
    )
    assert lines == [
        "k is running: atmo 1, process 3",
        "  endpoint    http://x/v1",
        "  mesh        m (iiiiiiiiii)",
        "  listens on  a:1, b:2",
        "  stored      1.5 kB",
        "  uptime      5 s",
    ]


def test_what_is_special_about_a_version_is_told_in_words() -> None:
    publisher = "qt6uac4ve3o55qr7t7hpbyax2v3eeloz76ivplrs66esqbu5efaq"
    rival = {"manifest": "0e" * 32, "sha256": "52" * 32, "publisher": publisher, "nodes": ["a", "b"], "local": True}
    advice = {"by": "a", "reason": "Mishears.", "replacement": "", "since_s": 1_700_000_000}
    row = {"name": "m", "version": "1", "local": True, "private": True, "deprecated": True, "active": None}
    seen = "2026-01-02T03:04:05Z"
    first, *lines = info_lines({**row, "deprecation": advice, "rivals": [rival], "first_seen": seen})
    told = dict(line.strip().split("  ", 1) for line in lines)
    assert first == "m 1, on this machine"
    assert told.pop("deprecation").strip().startswith("by: a, reason: Mishears., since 2023-11-1")
    assert told.pop("first seen").strip().startswith("2026-01-0")
    assert {title: words.strip() for title, words in told.items()} == {
        "private": "yes",
        "rivals": "sha256 5252525252 published by qt6uac4ve3, on a, b",
    }
    assert "deprecat" not in "".join(info_lines({**row, "deprecated": False}))


@pytest.mark.parametrize(
    ("model_format", "kind", "told"),
    [
        ("onnx", "classifier", "yes"),
        ("safetensors", "llm", "no: no node of this version can run models of the format safetensors"),
        ("gguf", "model", "no: no node of this version can run models of the type model"),
        ("gguf", "llm", "no: pip install 'atmosphere-mesh[gguf]'"),
    ],
)
def test_whether_a_model_runs_here_is_told(
    model_format: str, kind: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("atmo.backends.store.find_spec", lambda _name: None)
    row = {"name": "m", "version": "1", "local": True, "format": model_format, "type": kind}
    assert info_lines(row)[-1].split("  ")[-1] == told
