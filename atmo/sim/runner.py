"""Runs a scenario and, again, the one of a trace. The only part of the simulator that looks at a wall clock."""

from __future__ import annotations

import gc
import math
import os
import time
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, get_type_hints

from atmo.errors import UserError
from atmo.sim.replay import Comparison
from atmo.sim.report import Report
from atmo.sim.scenario import Scenario, Stage, Tick
from atmo.sim.scenarios import find_scenario
from atmo.sim.trace import Trace, TraceHead, TraceReader, open_trace

_COLLECTIONS = (200_000, 50, 1_000)


SHARES = ("loss", "duplication", "reordering", "nat", "one_way")
"""Settings of every scenario that are shares."""

SPANS = ("jitter_s", "skew_s", "join_gap_s")
"""Those that are seconds."""


class BadInput(UserError):
    """What was asked for makes no sense: the command ends with exit code 2."""


def make_scenario(
    wanted: str, *, nodes: int | None, seed: int | None, duration_s: float | None, settings: Mapping[str, str]
) -> Scenario:
    """Makes a scenario as a person asked for it.

    Args:
        wanted: Its name, or the path of a file that holds it.
        nodes, seed, duration_s: In place of the scenario's own, where they are given.
        settings: Further fields by name, as text.

    Raises:
        BadInput: There is no such scenario, or it cannot be run like that.
    """
    try:
        kind = find_scenario(wanted)
    except UserError as error:
        raise BadInput(str(error)) from error
    given: dict[str, Any] = {"nodes": nodes, "seed": seed, "duration_s": duration_s}
    given = {name: value for name, value in given.items() if value is not None}
    hints = get_type_hints(kind)
    known = [known.name for known in fields(kind)]
    for name, text in settings.items():
        if name not in known:
            raise BadInput(f"The scenario {kind.name} has no setting {name!r}.", f"It has {', '.join(known)}.")
        given[name] = _read(name, hints[name], text)
    scenario = kind(**given)
    _check(scenario)
    return scenario


def _read(name: str, kind: Any, text: str) -> Any:
    if kind is bool and text.lower() in ("true", "false", "1", "0"):
        return text.lower() in ("true", "1")
    try:
        if kind in (int, float):
            return kind(text)
    except ValueError:
        pass
    if kind is str:
        return text
    raise BadInput(f"{name}={text} is no {getattr(kind, '__name__', kind)}.")


def _check(scenario: Scenario) -> None:
    if scenario.nodes < scenario.least_nodes:
        raise BadInput(f"The scenario {scenario.name} needs at least {scenario.least_nodes} nodes.")
    if not 0 < scenario.duration_s < 10**8:
        raise BadInput("A run lasts more than no time, and less than three years.")
    for name in SHARES:
        if not 0 <= getattr(scenario, name) <= 1:
            raise BadInput(f"{name} is a share, from 0 to 1.")
    for name in SPANS:
        if not 0 <= getattr(scenario, name) < math.inf:
            raise BadInput(f"{name} is a number of seconds.")
    needs, has = memory_needed(scenario), memory_free()
    if needs > has:
        most = _nodes_that_fit(scenario, has)
        raise BadInput(
            f"{scenario.nodes} nodes take about {needs / 2**30:.1f} GiB of memory, and {has / 2**30:.1f} GiB are free: "
            f"at most {most} nodes fit here."
        )


def memory_needed(scenario: Scenario, nodes: int | None = None) -> int:
    """Returns about how many bytes a run takes."""
    count = scenario.nodes if nodes is None else nodes
    return count * scenario.node_kib * 1_024 + scenario.known(count) ** 2 * scenario.pair_bytes


def memory_free() -> int:
    """Returns how many bytes a run may take: what is available, less where a container allows less."""
    free = _number(Path("/proc/meminfo"), "MemAvailable:", 1_024)
    if free is None:
        free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    group = Path("/sys/fs/cgroup")
    limit, used = _number(group / "memory.max"), _number(group / "memory.current")
    return min(free, limit - used) if limit is not None and used is not None else free


def _number(path: Path, label: str = "", unit: int = 1) -> int | None:
    try:
        words = path.read_text().split()
        return int(words[words.index(label) + 1 if label else 0]) * unit
    except (OSError, ValueError, IndexError):
        return None


def _nodes_that_fit(scenario: Scenario, has: int) -> int:
    low, high = 0, scenario.nodes
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if memory_needed(scenario, middle) <= has else (low, middle - 1)
    return low


def run_scenario(
    scenario: Scenario, wanted: str | None = None, *, trace: Path | None = None, tick: Tick | None = None
) -> Report:
    """Plays a scenario.

    Args:
        scenario: What to play.
        wanted: How it was asked for, so that a trace says it.
        trace: A file that gets all that happens.
        tick: Told of every virtual second.

    Raises:
        UserError: The trace cannot be written.
    """
    file = None
    if trace is not None:
        file = open_trace(trace, TraceHead(wanted or scenario.name, scenario.settings()))
    recorder = Trace(file)
    try:
        return _timed(Stage(scenario, recorder, tick))
    finally:
        recorder.close()


def replay(path: Path, *, tick: Tick | None = None) -> tuple[Scenario, Report, Comparison]:
    """Plays the scenario of a trace again and compares all that happens.

    Raises:
        BadInput: The file is no trace, one of another version, or its scenario is not to be had.
    """
    try:
        reader = TraceReader(path)
        kind = find_scenario(reader.head.scenario)
        scenario = kind(**reader.head.settings)
    except (UserError, TypeError) as error:
        raise BadInput(str(error)) from error
    comparison = Comparison(reader)
    try:
        report = _timed(Stage(scenario, Trace(comparison), tick))
        comparison.finish()
    finally:
        reader.close()
    return scenario, report, comparison


def _timed(stage: Stage) -> Report:
    """Plays with rare collections of garbage: a world makes few cycles, and to look for them takes a fifth of all."""
    thresholds = gc.get_threshold()
    gc.set_threshold(*_COLLECTIONS)
    began = time.perf_counter()
    try:
        report = stage.play()
    finally:
        gc.set_threshold(*thresholds)
    report.wall_s = time.perf_counter() - began
    return report


def replay_command(scenario: Scenario, wanted: str | None = None) -> str:
    """Returns the command that plays the same again."""
    kind = type(scenario)
    words = ["atmo sim run", wanted or scenario.name, f"--nodes {scenario.nodes}", f"--seed {scenario.seed}"]
    for known in fields(kind):
        value = getattr(scenario, known.name)
        if known.name == "duration_s" and value != known.default:
            words.append(f"--duration {value:g}")
        elif known.name not in ("nodes", "seed", "duration_s") and value != known.default:
            words.append(f"--set {known.name}={value}")
    return " ".join(words)
