"""What every command shares: the home option, durations, output for people and for machines, and how errors end."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from atmo.config.settings import resolve_home
from atmo.errors import RemoteError, StoppedError, UserError, leaf_error
from atmo.shell.text import printable, prose, table, wrapped_table

EXIT_ERROR = 1
EXIT_BAD_INPUT = 2
EXIT_STOPPED = 3
"""Another command has paused or cancelled what this one was waiting for."""

EXIT_INTERRUPTED = 128 + signal.SIGINT
EXIT_BROKEN_PIPE = 128 + signal.SIGPIPE

HELP_NAMES = {"help_option_names": ["-h", "--help"]}

HomeOption = Annotated[
    Path | None,
    typer.Option("--home", metavar="DIR", help="The node's folder. [default: $ATMO_HOME, else ~/.atmosphere]"),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]

_DURATION_UNITS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 7 * 86_400}
_MAX_DURATION_S = 10 * 366 * 86_400


def new_group(summary: str | None, **settings: Any) -> typer.Typer:
    """Returns an empty group of commands that looks like the others; no summary, and its callback's text is it."""
    if summary is not None:
        settings["help"] = summary
    return typer.Typer(
        no_args_is_help=True,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings=HELP_NAMES,
        **settings,
    )


def home_of(context: typer.Context, flag: Path | None) -> Path:
    """Returns the home: the command's own `--home`, else the one before the command, else the environment's."""
    given = flag if flag is not None else context.find_root().params.get("home")
    return resolve_home(Path(given) if given is not None else None)


def parse_duration(text: str) -> float:
    """Reads `90s`, `30m`, `24h`, `7d`, `2w` as seconds.

    Raises:
        typer.BadParameter: It has another form, or is zero or longer than ten years.
    """
    match = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,3})?)([smhdw])", text.strip().lower())
    seconds = float(match[1]) * _DURATION_UNITS[match[2]] if match else 0.0
    if not 0 < seconds <= _MAX_DURATION_S:
        raise typer.BadParameter(f"{text!r} is not a duration such as 90s, 30m, 24h or 7d.")
    return seconds


def split_names(text: str | None) -> list[str]:
    """Reads `a,b , c` as a list."""
    return [name.strip() for name in (text or "").split(",") if name.strip()]


def say(text: str) -> None:
    """Tells the person something beside the result."""
    print(prose(text), file=sys.stderr, flush=True)


def print_json(value: Any) -> None:
    """Prints for a program. Only ASCII, so that no name from elsewhere can drive a terminal."""
    print(json.dumps(value, indent=2))


def terminal_columns() -> int | None:
    """Returns how wide the terminal is that stdout goes to, None where it goes elsewhere."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def print_table(headers: Sequence[str], rows: Sequence[Sequence[Any]], *, wrapped: bool = False) -> None:
    """Prints columns, whole in a pipe; on a terminal cut to its width, or with the last column wrapped."""
    width = terminal_columns()
    header, *lines = wrapped_table(headers, rows, width) if wrapped else table(headers, rows, width)
    print(f"\x1b[1m{header}\x1b[0m" if sys.stdout.isatty() and "NO_COLOR" not in os.environ else header)
    for line in lines:
        print(line)


def run_guarded(command: Callable[[], object]) -> int:
    """Runs a command and returns its exit code; every foreseen failure becomes one line on stderr."""
    try:
        code = _run(command)
        sys.stdout.flush()
    except BrokenPipeError:
        silence_stdout()
        return EXIT_BROKEN_PIPE
    return code


def _run(command: Callable[[], object]) -> int:
    try:
        command()
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else 0 if ended.code is None else EXIT_ERROR
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except (UserError, RemoteError, BaseExceptionGroup) as error:
        leaf = leaf_error(error)
        if isinstance(leaf, UserError):
            print_error(leaf)
            return EXIT_STOPPED if leaf.code == StoppedError.code else EXIT_ERROR
        if isinstance(leaf, RemoteError):
            print_error(UserError(f"{str(leaf).rstrip(chr(46))}."))
        elif isinstance(error, BaseExceptionGroup) and error.subgroup(KeyboardInterrupt) is not None:
            return EXIT_INTERRUPTED
        else:
            raise
        return EXIT_ERROR
    return 0


@contextmanager
def bad_input() -> Iterator[None]:
    """Ends the command with exit code 2 where what was asked for makes no sense."""
    try:
        yield
    except UserError as error:
        print_error(error)
        raise typer.Exit(EXIT_BAD_INPUT) from None


def print_error(error: UserError) -> None:
    """Prints `error: what` and, where there is one, the next step, as one line."""
    print(f"error: {printable(str(error))}", file=sys.stderr, flush=True)


def tolerate_any_text() -> None:
    """Has characters that the terminal's encoding lacks replaced instead of ending the command."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def silence_stdout() -> None:
    """Sends what is still to be written to stdout nowhere, after its reader has gone."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
