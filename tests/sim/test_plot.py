"""Plots are drawn with matplotlib where there is one."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from atmo.errors import UserError
from atmo.sim import plot
from atmo.sim.report import Report


class _Canvas:
    """Stands in for matplotlib: draws a file of one line for each series."""

    def __init__(self, **_: Any) -> None:
        self.lines: list[list[float]] = []

    def subplots(self, rows: int, _: int, **__: Any) -> Any:
        return _Column([self] * rows)

    def plot(self, _: list[float], values: list[float], **__: Any) -> None:
        self.lines.append(values)

    def savefig(self, path: Path) -> None:
        path.write_text(repr(self.lines))

    def set_ylabel(self, *_: Any) -> None:
        pass

    set_xlabel = set_title = set_ylabel

    def grid(self, **_: Any) -> None:
        pass


class _Column(list[_Canvas]):
    def __getitem__(self, index: Any) -> Any:
        return list(self) if isinstance(index, tuple) else super().__getitem__(index)


@pytest.fixture
def drawing(monkeypatch: pytest.MonkeyPatch) -> None:
    backend, figure = ModuleType("matplotlib.backends.backend_agg"), ModuleType("matplotlib.figure")
    backend.FigureCanvasAgg = lambda figure: None  # type: ignore[attr-defined]
    figure.Figure = _Canvas  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "matplotlib", ModuleType("matplotlib"))
    monkeypatch.setitem(sys.modules, "matplotlib.backends", ModuleType("matplotlib.backends"))
    monkeypatch.setitem(sys.modules, backend.__name__, backend)
    monkeypatch.setitem(sys.modules, figure.__name__, figure)


def test_every_series_is_drawn(drawing: None, tmp_path: Path) -> None:
    report = Report("x", 3, 1, series={"a": [(0.0, 1.0), (1.0, 2.0)], "b": [(0.0, 3.0)]})
    plot.draw(report, tmp_path / "x.png")
    assert (tmp_path / "x.png").read_text() == "[[1.0, 2.0], [3.0]]"


def test_what_cannot_be_drawn_says_so(drawing: None, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="measures nothing"):
        plot.draw(Report("x", 3, 1), tmp_path / "x.png")
    with pytest.raises(UserError, match="cannot be written"):
        plot.draw(Report("x", 3, 1, series={"a": [(0.0, 1.0)]}), tmp_path / "missing" / "x.png")


def test_a_plot_is_looked_at_before_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"not x\.txt"):
        plot.check_plot(Path("x.txt"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install"):
        plot.check_plot(Path("x.png"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    plot.check_plot(Path("x.svg"))
