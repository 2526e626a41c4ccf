"""tools/bench: the JSON object that programs read, and the table that people read."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

BENCH = Path(__file__).parents[2] / "tools" / "lib" / "bench.py"
EXAMPLE = '''"""An example."""

def run():
    return {
        "figures": {"dial_ms": 3.456, "requests_per_s": 1234.5, "size_bytes": 10},
        "peers": {"raw": {"dial_ms": 1.0, "bulk_mb_s": 30}, "size_bytes": "twelve at least", "elsewhere": "a note"},
        "aims": {"dial_ms": "under 12 ms"},
    }
'''


@pytest.fixture
def bench(tmp_path: Path) -> dict[str, Any]:
    (tmp_path / "example.py").write_text(EXAMPLE)
    (tmp_path / "_helper.py").write_text("")
    module = runpy.run_path(str(BENCH))
    module["main"].__globals__["BENCHMARKS"] = tmp_path
    return module


def test_json(bench: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert bench["main"](["example", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert sorted(result) == ["figures", "machine", "name", "peers"]
    assert result["name"] == "example"
    assert result["figures"]["dial_ms"] == 3.456
    assert sorted(result["machine"]) == ["cores", "cpu", "os", "python"]


def test_table(bench: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert bench["main"](["example"]) == 0
    out = capsys.readouterr().out
    for text in ("dial", "3.46 ms", "under 12 ms", "1,234 /s", "10 bytes", "twelve at least", "30 MB/s", "a note"):
        assert text in out


def test_list(bench: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert bench["main"](["--list"]) == 0
    assert capsys.readouterr().out == "example      An example.\n"


def test_peers_that_have_to_be_asked_for(
    bench: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bench["main"](["example", "--peers"]) == 2
    assert "no peers" in capsys.readouterr().err
    (tmp_path / "other.py").write_text(
        'def run(*, peers=False):\n    return {"figures": {"a": int(peers)}, "peers": {}}\n'
    )
    for arguments, value in ((["other", "--json"], 0), (["other", "--json", "--peers"], 1)):
        assert bench["main"](arguments) == 0
        assert json.loads(capsys.readouterr().out)["figures"]["a"] == value


def test_full_size(bench: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench["main"](["example", "--full"]) == 2
    assert "no other size" in capsys.readouterr().err
    (tmp_path / "sized.py").write_text('def run(full=False):\n    return {"figures": {"a": int(full)}, "peers": {}}\n')
    assert bench["main"](["sized", "--json", "--full"]) == 0
    assert json.loads(capsys.readouterr().out)["figures"]["a"] == 1


def test_quick_form(bench: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench["main"](["example", "--quick"]) == 2
    assert "no quick form" in capsys.readouterr().err
    (tmp_path / "brief.py").write_text(
        'def run(quick=False):\n    return {"figures": {"a": int(quick)}, "peers": {}}\n'
    )
    assert bench["main"](["brief", "--json", "--quick"]) == 0
    assert json.loads(capsys.readouterr().out)["figures"]["a"] == 1


@pytest.mark.parametrize("arguments", [[], ["a", "b"], ["example", "--fast"], ["nothing"], ["--list", "example"]])
def test_wrong_usage(bench: dict[str, Any], arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert bench["main"](arguments) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_the_benchmarks_of_the_issue_are_there() -> None:
    result = subprocess.run([sys.executable, str(BENCH), "--list"], capture_output=True, text=True, check=True)
    assert {"quic", "embed", "gateway"} <= {line.split()[0] for line in result.stdout.splitlines()}
