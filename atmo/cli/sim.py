"""`atmo sim`: play scenarios of a mesh in virtual time, and play a recorded run again."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from atmo.cli.common import EXIT_ERROR, JsonOption, bad_input, new_group, print_error, print_json, print_table, say
from atmo.errors import UserError
from atmo.shell.text import prose

if TYPE_CHECKING:
    from atmo.sim.report import Report
    from atmo.sim.scenario import Scenario, Tick
    from atmo.sim.trace import TraceReader


NodesOption = Annotated[str | None, typer.Option("--nodes", metavar="N", help="How many machines.")]
SeedOption = Annotated[str | None, typer.Option("--seed", metavar="S", help="Of everything random, a whole number.")]
DurationOption = Annotated[
    str | None, typer.Option("--duration", metavar="SECONDS", help="Virtual seconds of the main act.")
]

app = new_group("Play scenarios of a mesh in virtual time: the node's own code, thousands of machines, one process.")


@app.command("list")
def list_scenarios(as_json: JsonOption = False) -> None:
    """Show the scenarios that come with the program.

    \b
    Examples:
      atmo sim list
      atmo sim list --json     with every check, figure and setting
    """
    from atmo.sim.scenarios import BUILT_IN, OF_PACKETS

    known = {**BUILT_IN, **OF_PACKETS}
    if as_json:
        print_json({name: _described(kind) for name, kind in known.items()})
        return
    rows = [(name, kind.nodes, f"{kind.duration_s:g} s", kind.summary) for name, kind in known.items()]
    print_table(["SCENARIO", ">NODES", ">DURATION", "WHAT HAPPENS"], rows, wrapped=True)


def _described(kind: type[Scenario]) -> dict[str, object]:
    promise = kind.promise
    return {
        "summary": kind.summary,
        "safety": dict(promise.safety),
        "liveness": dict(promise.liveness),
        "figures": dict(promise.figures),
        "settings": kind().settings(),
    }


@app.command()
def run(
    scenario: Annotated[str, typer.Argument(help="Its name, or a file such as my_scenario.py.")],
    nodes: NodesOption = None,
    seed: SeedOption = None,
    duration: DurationOption = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Another setting of the scenario.")
    ] = None,
    trace: Annotated[
        Path | None, typer.Option("--trace", metavar="FILE", help="Write all that happens, for `atmo sim replay`.")
    ] = None,
    plot: Annotated[Path | None, typer.Option("--plot", metavar="FILE.png", help="Draw convergence over time.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Play a scenario; the exit code is 0 where all its checks held, 1 where one did not, 2 for bad input.

    \b
    Examples:
      atmo sim run broadcast --nodes 1000 --seed 7
      atmo sim run partition-heal --set loss=0.01 --trace run.trace
      atmo sim run my_scenario.py --json
    """
    from atmo.sim.runner import make_scenario, replay_command, run_scenario

    with bad_input():
        if plot is not None:
            from atmo.sim.plot import check_plot

            check_plot(plot)
        chosen = make_scenario(
            scenario,
            nodes=_whole("--nodes", nodes),
            seed=_whole("--seed", seed),
            duration_s=_number("--duration", duration),
            settings=_pairs(settings or []),
        )
        with _progress(chosen) as tick:
            report = run_scenario(chosen, scenario, trace=trace, tick=tick)
    if plot is not None:
        from atmo.sim.plot import draw

        draw(report, plot)
    _show(report, as_json)
    if not report.ok:
        _tell_failures(report, replay_command(chosen, scenario))
        raise typer.Exit(EXIT_ERROR)


@app.command()
def replay(
    file: Annotated[Path, typer.Argument(help="A trace of `atmo sim run --trace`.")],
    show: Annotated[bool, typer.Option("--show", help="Print what happened instead of playing it again.")] = False,
    node: Annotated[str | None, typer.Option(metavar="NAME", help="With --show: only what happened to a node.")] = None,
    since: Annotated[float, typer.Option(metavar="SECONDS", help="With --show: only from then on.")] = 0.0,
    until: Annotated[float, typer.Option(metavar="SECONDS", help="With --show: only up to then.")] = float("inf"),
    as_json: JsonOption = False,
) -> None:
    """Play the run of a trace again, and say where the two differ if they do.

    \b
    Examples:
      atmo sim replay run.trace
      atmo sim replay run.trace --show --node n7 --since 12 --until 13
    """
    from atmo.sim.runner import replay as play_again
    from atmo.sim.runner import replay_command
    from atmo.sim.trace import TraceReader

    with bad_input():
        if not show and (node is not None or since != 0.0 or until != math.inf):
            raise UserError("--node, --since and --until go with --show.")
        if not since <= until:
            raise UserError(f"--since {since:g} is not before --until {until:g}.")
        reader = TraceReader(file)
        if show:
            _show_entries(reader, node, since, until, as_json)
            return
        reader.close()
        with _progress(None) as tick:
            scenario, report, comparison = play_again(file, tick=tick)
    _show(report, as_json)
    if not comparison.same:
        differs = f"This run differs from the recorded one, which says: {comparison.where()}."
        changed = "the program or the scenario has changed since the trace was written, that may be why"
        print_error(UserError(differs, f"Both are of Atmosphere {reader.head.atmosphere}, but if {changed}."))
        raise typer.Exit(EXIT_ERROR)
    if not report.ok:
        _tell_failures(report, replay_command(scenario, reader.head.scenario))
        raise typer.Exit(EXIT_ERROR)
    short = " as far as that goes: it was stopped early" if comparison.ended else ""
    say(f"The same as the recorded run{short}, digest {report.digest}.")


def _show_entries(reader: TraceReader, node: str | None, since: float, until: float, as_json: bool) -> None:
    """Prints what happened, one line each; with `as_json` each line is an object."""
    there = node is None
    for entry in reader.entries():
        if node in (None, entry.node, entry.other):
            there = True
            if since <= entry.time_s <= until:
                print(json.dumps(asdict(entry)) if as_json else entry)
    if not there:
        raise UserError(f"Nothing in this trace happened to {node}.")


def _whole(option: str, text: str | None) -> int | None:
    try:
        return None if text is None else int(text)
    except ValueError:
        raise UserError(f"{option} {text} is no whole number.") from None


def _number(option: str, text: str | None) -> float | None:
    try:
        return None if text is None else float(text)
    except ValueError:
        raise UserError(f"{option} {text} is no number of seconds.") from None


def _pairs(settings: list[str]) -> dict[str, str]:
    pairs = {}
    for text in settings:
        name, equals, value = text.partition("=")
        if not equals:
            raise UserError(f"--set {text} is not of the form NAME=VALUE.")
        pairs[name.strip()] = value.strip()
    return pairs


@contextmanager
def _progress(scenario: Scenario | None) -> Iterator[Tick | None]:
    """Shows how far a run is, on a terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:.0f} s simulated"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        name = f"{scenario.name}, {scenario.nodes} nodes" if scenario else "replay"
        task = bar.add_task(name, total=scenario.length_s() if scenario else None)
        yield lambda now: bar.update(task, completed=now)


def _show(report: Report, as_json: bool) -> None:
    if as_json:
        print_json(report.as_json())
        return
    found = report.as_json()
    said = {True: "ok", False: "FAILED"}
    rows = [(name, "unknown" if name in report.unknown else said[held]) for name, held in report.checks.items()]
    rows += [(name, _plain(value)) for name, value in found["figures"].items()]
    rows += [("simulated_s", _plain(found["simulated_s"])), ("wall_s", _plain(found["wall_s"]))]
    print_table([f"{report.scenario}, {report.nodes} nodes, seed {report.seed}", ">"], rows)
    print(f"digest {report.digest}")


def _plain(value: float) -> str:
    text = f"{value:,.4f}"
    return text.rstrip("0").rstrip(".")


def _tell_failures(report: Report, command: str) -> None:
    if report.traceback:
        print(prose(report.traceback.rstrip()), file=sys.stderr)
    for failure in report.failures:
        nodes = f", nodes {', '.join(failure.nodes)}" if failure.nodes else f", {report.nodes} nodes"
        what = f"{failure.check}: {failure.what} (at {failure.time_s:.3f} s, seed {report.seed}{nodes})"
        print_error(UserError(what))
    if report.unknown:
        print_error(UserError(f"{', '.join(report.unknown)}: unknown, the run ended before (seed {report.seed})"))
    print(f"replay: {command}", file=sys.stderr, flush=True)
