"""Draws what a run measured over time. matplotlib comes with the extra `plot` and is only loaded here."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path

from atmo.errors import UserError
from atmo.sim.report import Report

SUFFIXES = (".png", ".svg", ".pdf")


def check_plot(path: Path) -> None:
    """Looks whether there can be a plot, before a long run.

    Raises:
        UserError: matplotlib is missing, or the file is one that it does not draw.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise UserError(f"A plot is a {', '.join(SUFFIXES)} file, not {path.name}.")
    if importlib.util.find_spec("matplotlib") is None:
        raise UserError("Plots need matplotlib.", "Install it with: pip install matplotlib.")


def draw(report: Report, path: Path) -> None:
    """Draws each series of a report over virtual time, one below the other.

    Raises:
        UserError: There is nothing to draw, or the file cannot be written.
    """
    backend, drawing = map(importlib.import_module, ("matplotlib.backends.backend_agg", "matplotlib.figure"))
    if not report.series:
        raise UserError(f"The scenario {report.scenario} measures nothing over time.")
    figure = drawing.Figure(figsize=(8, 2.5 * len(report.series)), layout="constrained")
    backend.FigureCanvasAgg(figure)
    axes = figure.subplots(len(report.series), 1, squeeze=False, sharex=True)[:, 0]
    for axis, (name, points) in zip(axes, report.series.items(), strict=True):
        axis.plot([time for time, _ in points], [value for _, value in points], drawstyle="steps-post")
        axis.set_ylabel(name)
        axis.grid(visible=True, alpha=0.3)
    axes[-1].set_xlabel("virtual seconds")
    axes[0].set_title(f"{report.scenario}, {report.nodes} nodes, seed {report.seed}")
    try:
        figure.savefig(path)
    except OSError as error:
        raise UserError(f"The plot {path} cannot be written: {error.strerror or error}.") from error
