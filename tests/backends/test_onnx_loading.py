"""Models whose load does not end, beside models that are fine."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import trio

from atmo.backends import onnx
from atmo.backends.onnx import OnnxBackend
from atmo.backends.onnx_session import Loaded, SessionCache
from atmo.backends.pool import FOREVER
from tests.backends.graphs import Stored, TinyEmbedder, linear, save


class SlowSessions(SessionCache):
    """Loads files whose name begins with "slow" only when they are let go."""

    def __init__(self) -> None:
        super().__init__()
        self.begun: list[str] = []
        self.go = threading.Event()

    def load(self, path: Path) -> Loaded:
        self.begun.append(path.name)
        if path.name.startswith("slow"):
            self.go.wait()
        return super().load(path)


def stored(folder: Path, *names: str) -> list[Stored]:
    return [Stored(save(linear(), folder / f"{name}.onnx"), name=name) for name in names]


async def test_a_slow_load_hides_no_other_model_and_is_offered_when_it_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx, "TRIED_S", 0.3)
    sessions = SlowSessions()
    models = stored(tmp_path, "slow", "a", "b")
    backend = OnnxBackend(lambda: models, TinyEmbedder(), sessions)
    try:
        assert [c.model for c in await backend.discover()] == ["b", "a"]
        assert backend.recheck_s == onnx.LOOK_AGAIN_S
    finally:
        sessions.go.set()
    with trio.fail_after(10):
        while len(found := await backend.discover()) < 3:
            await trio.sleep(0.01)
    assert [c.model for c in found] == ["slow", "b", "a"]
    assert backend.recheck_s == FOREVER
    assert sorted(sessions.begun) == ["a.onnx", "b.onnx", "slow.onnx"]


async def test_a_load_that_does_not_end_is_not_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx, "TRIED_S", 0.05)
    sessions, now = SlowSessions(), 0.0
    models = stored(tmp_path, "slow-1", "slow-2", "slow-3", "a")
    backend = OnnxBackend(lambda: models, TinyEmbedder(), sessions, lambda: now)
    try:
        with trio.fail_after(10):
            while len(backend._loading) < onnx.LOADS:
                await backend.discover()
        now = onnx.LOAD_S + 1
        offered = [c.model for c in await backend.discover()]
        assert "a" in offered
        assert len(offered) == 2, "two are stuck, the rest is offered on the look into its file"
        assert len(backend._bad) == onnx.LOADS
        assert backend.recheck_s == FOREVER
        assert [c.model for c in await backend.discover()] == offered
        assert len([name for name in sessions.begun if name.startswith("slow")]) == onnx.LOADS
    finally:
        sessions.go.set()
