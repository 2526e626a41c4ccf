"""Runs one benchmark of `tools/benchmarks/` and prints its figures beside what they are measured against.

A benchmark is a module with `run()` that returns `{"figures": {name: number}, "peers": {...}}`. `peers` maps a
figure to a text, or the name of a peer to its own figures; the optional `aims` maps a figure to a text. A benchmark
whose peers have to be installed first takes `run(peers=True)` for them: `--peers`; one that can measure at full size,
which takes longer, takes `run(full=True)`: `--full`; one that can show in a moment that all of it works takes
`run(quick=True)`: `--quick`. What else `run` takes are numbers: `--rounds=3`. The unit of a
figure is the end of its name: `_ms`, `_s`, `_mb_s`, `_per_s`, `_mb`, `_bytes`, `_percent`, `_ratio`.
"""

from __future__ import annotations

import importlib.util
import inspect
import json
import os
import platform
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
BENCHMARKS = ROOT / "tools" / "benchmarks"
UNITS = {
    "_mb_s": "MB/s",
    "_per_s": "/s",
    "_ms": "ms",
    "_us": "µs",
    "_s": "s",
    "_mb": "MB",
    "_bytes": "bytes",
    "_percent": "%",
    "_ratio": "x",
}
OPTIONS = {"--peers": "peers that have to be asked for", "--full": "other size", "--quick": "quick form"}
NUMBER = re.compile(r"--([a-z][a-z-]*)=(\d{1,9})")
USAGE = "usage: tools/bench NAME [--json] [--peers] [--full] [--quick] [--NUMBER=N] | tools/bench --list"


def main(arguments: list[str]) -> int:
    names = [argument for argument in arguments if not argument.startswith("-")]
    options = {argument for argument in arguments if argument.startswith("-")}
    known = available()
    if options == {"--list"} and not names:
        for name in known:
            print(f"{name:<12} {first_line(known[name])}")
        return 0
    numbers = {match[1].replace("-", "_"): int(match[2]) for option in options if (match := NUMBER.fullmatch(option))}
    options = {option for option in options if not NUMBER.fullmatch(option)}
    if len(names) != 1 or options - {"--json", *OPTIONS}:
        print(USAGE, file=sys.stderr)
        return 2
    if names[0] not in known:
        print(f"There is no benchmark {names[0]!r}. Known: {', '.join(known)}.", file=sys.stderr)
        return 2
    sys.path[:0] = [str(ROOT), str(BENCHMARKS)]
    run = load(known[names[0]]).run
    asked = {option.strip("-"): True for option in sorted(options - {"--json"})}
    for option in asked.keys() - inspect.signature(run).parameters.keys():
        print(f"The benchmark {names[0]!r} has no {OPTIONS['--' + option]}.", file=sys.stderr)
        return 2
    for number in numbers.keys() - inspect.signature(run).parameters.keys():
        print(f"The benchmark {names[0]!r} takes no {number!r}.", file=sys.stderr)
        return 2
    result = run(**asked, **numbers)
    result = {"name": names[0], "figures": result["figures"], "peers": result["peers"], "machine": machine()} | {
        key: value for key, value in result.items() if key == "aims" and "--json" not in options
    }
    print(json.dumps(result)) if "--json" in options else show(result)
    return 0


def available() -> dict[str, Path]:
    return {path.stem: path for path in sorted(BENCHMARKS.glob("*.py")) if not path.stem.startswith("_")}


def first_line(path: Path) -> str:
    """Returns the first line of a module's docstring without running it."""
    for line in path.read_text().splitlines():
        if line.strip():
            return line.strip().strip('"')
    return ""


def load(path: Path) -> Any:
    """Imports a benchmark from its file."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


def machine() -> dict[str, Any]:
    """Returns what the figures were measured on."""
    return {
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "os": f"{platform.system()} {platform.release()} {platform.machine()}",
    }


def cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def show(result: Mapping[str, Any]) -> None:
    """Prints the table: a figure, its value here, the aim, and what peers reach."""
    from rich.console import Console
    from rich.table import Table

    figures, peers, aims = result["figures"], result["peers"], result.get("aims", {})
    columns = [name for name, value in peers.items() if isinstance(value, Mapping)]
    notes = {name: value for name, value in peers.items() if not isinstance(value, Mapping)}
    table = Table(title=f"tools/bench {result['name']}")
    table.add_column("figure")
    table.add_column("here", justify="right")
    if aims:
        table.add_column("aim")
    for column in columns:
        table.add_column(column, justify="right")
    if any(name in figures for name in notes):
        table.add_column("beside")
    extra = [name for column in columns for name in peers[column] if name not in figures]
    for name in [*figures, *dict.fromkeys(extra)]:
        row = [title(name), cell(name, figures.get(name))]
        row += [str(aims.get(name, ""))] if aims else []
        row += [cell(name, peers[column].get(name)) for column in columns]
        row += [cell(name, notes.get(name))] if any(note in figures for note in notes) else []
        table.add_row(*row)
    console = Console()
    console.print(table)
    for name, value in notes.items():
        if name not in figures:
            console.print(f"{name}: {cell(name, value)}", highlight=False)
    here = result["machine"]
    console.print(f"{here['cpu']}, {here['cores']} cores, Python {here['python']}, {here['os']}", highlight=False)


def unit(name: str) -> tuple[str, str]:
    """Splits a figure's name into what it is and its unit."""
    for ending, text in UNITS.items():
        if name.endswith(ending):
            return name.removesuffix(ending), text
    return name, ""


def title(name: str) -> str:
    return unit(name)[0].replace("_", " ")


def cell(name: str, value: object) -> str:
    """Formats a number with three significant digits and its unit; texts stay as they are."""
    if value is None:
        return ""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return str(value)
    text = f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return f"{text} {unit(name)[1]}".strip()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
