from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest

from atmo.backends import child
from atmo.backends.child import ChildLimits, _read_result
from atmo.backends.convert import _checked, _publish
from atmo.errors import UserError


@pytest.mark.parametrize(
    ("content", "code", "says"),
    [
        (None, 1, "ended with code 1 and gave no result"),
        (b"{", -signal.SIGXCPU, "more than 120 s of processor time"),
        (b"", -signal.SIGKILL, "was stopped"),
        (b"", -signal.SIGSEGV, "crashed the child process"),
        (b"", -signal.SIGXFSZ, "larger than 2048 MiB"),
        (b"[]", 0, "no valid result"),
        (b"[" * 100_000, 0, "gave no result"),
        (b'{"error": {"message": "It is empty.", "hint": "Fill it."}}', 0, "It is empty. Fill it."),
        (b'{"error": {"kind": "memory"}}', 0, "more than 4.0 GiB of memory"),
        (b'{"fine": 1}', 3, "ended with code 3"),
    ],
)
def test_how_a_child_can_end(tmp_path: Path, content: bytes | None, code: int, says: str) -> None:
    path = tmp_path / "result.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=says):
        _read_result(path, code, ChildLimits(), "Working")


def test_a_result_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "result.json"
    path.write_bytes(b'{"a": "' + b"x" * 100 + b'"}')
    assert _read_result(path, 0, ChildLimits(), "Working") == {"a": "x" * 100}
    monkeypatch.setattr(child, "MAX_RESULT_BYTES", 50)
    with pytest.raises(UserError):
        _read_result(path, 0, ChildLimits(), "Working")


@pytest.mark.parametrize(
    "result",
    [
        {},
        {"type": "classifier"},
        {"type": "virus", "config": {}},
        {"type": "classifier", "config": []},
        {"type": "classifier", "config": {"n_features": "4"}},
        {"type": "classifier", "config": {"n_features": 4, "threshold": "x"}},
    ],
)
def test_what_a_child_says_is_checked(result: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="no valid description"):
        _checked(result, Path("m.joblib"))


def test_what_a_child_wrote_is_checked(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"not a model")
    with pytest.raises(UserError, match="no usable ONNX file"):
        _publish(tmp_path / "model.onnx", tmp_path / "target.onnx", Path("m.joblib"))
    assert not (tmp_path / "target.onnx").exists()
