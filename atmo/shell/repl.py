"""`atmo shell`: the prompt on a terminal, line by line from a pipe."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING

from atmo.errors import UserError
from atmo.shell.client import Connector, FindNode
from atmo.shell.commands import Leave, Shell
from atmo.shell.text import printable
from atmo.version import __version__

if TYPE_CHECKING:
    from prompt_toolkit.history import History

HISTORY_BYTES = 1 << 20
"""The history file is cut to its newer half when it has outgrown this (guess)."""


def run_shell(find: FindNode, home: Path, start_command: str) -> int:
    """Runs the shell until its input ends.

    Returns:
        The exit code: 1 when a line from a pipe failed.

    Raises:
        UserError: No node runs.
    """
    connect = Connector(find, start_command)
    try:
        connect()
        if not sys.stdin.isatty():
            return run_lines(Shell(connect, sys.stdout, sys.stderr), sys.stdin, sys.stderr)
        run_prompt(find, connect, home, start_command)
        return 0
    finally:
        connect.close()


def run_lines(shell: Shell, lines: Iterable[str], err: IO[str]) -> int:
    """Runs lines one after the other; one that fails does not keep the next from being tried."""
    code = 0
    for line in lines:
        try:
            shell.run(line)
        except Leave:
            break
        except UserError as error:
            code = 1
            _print_error(error, err)
    return code


def run_interruptible(shell: Shell, line: str, err: IO[str]) -> bool:
    """Runs one line, which Ctrl-C ends without ending the shell.

    Returns:
        Whether the shell goes on.
    """
    try:
        shell.run(line)
    except Leave:
        return False
    except KeyboardInterrupt:
        print("interrupted", file=err, flush=True)
    except UserError as error:
        _print_error(error, err)
    return True


def _print_error(error: UserError, err: IO[str]) -> None:
    print(f"error: {printable(str(error))}", file=err, flush=True)


def run_prompt(find: FindNode, connect: Connector, home: Path, start_command: str) -> None:
    """Runs the prompt on a terminal until Ctrl-D or `quit`."""
    from prompt_toolkit import PromptSession
    from prompt_toolkit.auto_suggest import AutoSuggestFromHistory

    from atmo.shell.glance import Glance, ShellCompleter

    shell = Shell(connect, sys.stdout, sys.stderr, lambda: shutil.get_terminal_size().columns)
    behind = Connector(find, start_command)
    glance = Glance(behind, lambda: session.app.invalidate())
    session: PromptSession[str] = PromptSession(
        "atmo> ",
        history=open_history(home / "shell_history"),
        completer=ShellCompleter(shell, lambda: glance.state),
        complete_while_typing=False,
        auto_suggest=AutoSuggestFromHistory(),
        bottom_toolbar=lambda: glance.toolbar(shell.model),
    )
    print(f"Atmosphere {__version__}. Ask anything, or type help.")
    with glance:
        while True:
            try:
                line = session.prompt()
            except KeyboardInterrupt:
                continue
            except EOFError:
                return
            if not run_interruptible(shell, line, sys.stderr):
                return


def open_history(path: Path) -> History:
    """Opens the history file, readable by its owner only; where it cannot be written, history ends with the shell."""
    from prompt_toolkit.history import FileHistory, InMemoryHistory

    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600))
        path.chmod(0o600)
        _cut_history(path)
    except OSError:
        return InMemoryHistory()
    return FileHistory(str(path))


def _cut_history(path: Path) -> None:
    from atmo.storage.files import write_atomically

    if path.stat().st_size <= HISTORY_BYTES:
        return
    newer = path.read_bytes()[-HISTORY_BYTES // 2 :]
    with suppress(ValueError):
        newer = newer[newer.index(b"\n# ") :]
    write_atomically(path, newer, 0o600)
