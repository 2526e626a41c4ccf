"""Progress of a long job: a bar on a terminal, a plain line now and then elsewhere, nothing for machines."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import IO, Any

from atmo.shell.text import clock_text, printable, size_text

FIRST_LINE_S = 0.5
"""What is done sooner needs no words."""

LINE_PERIOD_S = 2.0
"""Between two plain lines: a log of a download stays readable (guess)."""

SHOWN_SOURCES = 3

OnProgress = Callable[[Mapping[str, Any]], None]


def describe_rate(report: Mapping[str, Any]) -> str:
    """Says how fast, from whom, and how long it still takes."""
    parts = []
    rate = report.get("rate_bytes_s") or 0
    if rate:
        parts.append(f"{size_text(rate)}/s")
    if report.get("eta_s") is not None:
        parts.append(f"{clock_text(report['eta_s'])} left")
    names = [printable(name) for name in report.get("sources") or ()]
    if names:
        more = f" +{len(names) - SHOWN_SOURCES}" if len(names) > SHOWN_SOURCES else ""
        parts.append(f"from {', '.join(names[:SHOWN_SOURCES])}{more}")
    return "  ".join(parts)


@contextmanager
def shown_progress(
    title: str, stream: IO[str], *, quiet: bool = False, clock: Callable[[], float] = time.monotonic
) -> Iterator[OnProgress]:
    """Gives a function that shows every report on `stream` until the block ends.

    Args:
        title: What is going on, in front of the bar.
        stream: Usually stderr, so that stdout holds results only.
        quiet: Show nothing.
        clock: Seconds; paces the plain lines.
    """
    if quiet:
        yield lambda report: None
    elif stream.isatty():
        with _bar(title, stream) as show:
            yield show
    else:
        yield _lines(title, stream, clock)


def _lines(title: str, stream: IO[str], clock: Callable[[], float]) -> OnProgress:
    due = clock() + FIRST_LINE_S

    def show(report: Mapping[str, Any]) -> None:
        nonlocal due
        now = clock()
        if now < due:
            return
        due = now + LINE_PERIOD_S
        done, total = report.get("bytes_done") or 0, report.get("bytes_total") or 0
        parts = [f"{title}: {printable(report.get('phase') or '')}"]
        if total:
            parts += [f"{100 * done // total} %", f"{size_text(done)} of {size_text(total)}", describe_rate(report)]
        print("  ".join(parts).rstrip(), file=stream, flush=True)

    return show


@contextmanager
def _bar(title: str, stream: IO[str]) -> Iterator[OnProgress]:
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, Progress, TextColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TextColumn("{task.percentage:>3.0f} %"),
        TextColumn("{task.fields[amount]}"),
        TextColumn("{task.fields[rate]}", style="dim"),
    )
    console = Console(file=stream, highlight=False)
    with Progress(*columns, console=console, transient=True, refresh_per_second=8) as bars:
        task = bars.add_task(escape(title), total=None, amount="", rate="")

        def show(report: Mapping[str, Any]) -> None:
            done, total = report.get("bytes_done") or 0, report.get("bytes_total") or 0
            bars.update(
                task,
                description=escape(f"{title} · {printable(report.get('phase') or '')}"),
                completed=done,
                total=total or None,
                amount=f"{size_text(done)} of {size_text(total)}" if total else "",
                rate=escape(describe_rate(report)),
            )

        yield show
