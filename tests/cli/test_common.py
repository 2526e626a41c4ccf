"""Durations, exit codes and what ends a command."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from atmo.cli import common
from atmo.cli.common import parse_duration, run_guarded
from atmo.errors import RemoteError, UserError


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("30m", 1_800), ("24h", 86_400), ("7d", 604_800), ("2w", 1_209_600), ("1.5H", 5_400), (" 1s ", 1)],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "5", "h", "-1h", "1y", "1h30m", "0s", "999999d", "1e3s", "١s"])
def test_durations_that_are_none(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="24h"):
        parse_duration(text)


def raising(error: BaseException) -> int:
    def command() -> None:
        raise error

    return run_guarded(command)


def test_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_guarded(lambda: None) == 0
    assert raising(SystemExit(2)) == 2
    assert raising(SystemExit()) == 0
    assert raising(SystemExit("text")) == 1
    assert raising(KeyboardInterrupt()) == 130
    assert raising(BaseExceptionGroup("nursery", [KeyboardInterrupt(), ValueError()])) == 130
    assert capsys.readouterr().err == ""
    assert raising(UserError("No mesh.", "Create one.")) == 1
    assert capsys.readouterr().err == "error: No mesh. Create one.\n"
    assert raising(ExceptionGroup("nursery", [UserError("two\nlines")])) == 1
    assert capsys.readouterr().err == "error: two\ufffdlines\n"
    assert raising(RemoteError("kitchen vanished")) == 1
    assert capsys.readouterr().err == "error: kitchen vanished.\n"


def test_bugs_keep_their_traceback() -> None:
    with pytest.raises(ZeroDivisionError):
        raising(ZeroDivisionError())
    with pytest.RaisesGroup(ValueError, TypeError):
        raising(ExceptionGroup("nursery", [ValueError(), TypeError()]))


@pytest.mark.parametrize("lines", [1, 100_000])
def test_a_reader_that_leaves_ends_the_command_quietly(lines: int) -> None:
    script = (
        "import sys\n"
        "from atmo.cli import main, root\n"
        "from atmo.cli.common import run_guarded\n"
        "sys.stdin.read()\n"
        f"@root.app.command()\ndef flood():\n    for _ in range({lines}): print('x' * 80)\n"
        "main.main(['flood'])\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    process.stdout.close()
    process.stdout = None
    _, err = process.communicate(b"")
    assert (process.returncode, err) == (common.EXIT_BROKEN_PIPE, b"")


def test_help_imports_nothing_heavy() -> None:
    heavy = ("trio", "httpx", "starlette", "numpy", "onnxruntime", "prompt_toolkit", "rich", "cryptography", "yaml")
    script = f"import sys, atmo.cli.main, atmo.cli.root; print([name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


EARLY = """
import os, signal, sys
from atmo.cli.main import main

class Interrupting:
    def find_spec(self, name, *rest):
        if name == sys.argv[1]:
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupting())
main(["mesh", "nodes"])
"""


@pytest.mark.parametrize("name", ["atmo.cli.root", "typer", "atmo.cli.status", "atmo.services.mesh"])
def test_an_interrupt_is_quiet_however_early(name: str, tmp_path: Path) -> None:
    settings = {**os.environ, "ATMO_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", EARLY, name], capture_output=True, check=False, env=settings)
    assert (done.returncode, done.stdout, done.stderr) == (common.EXIT_INTERRUPTED, b"", b"")
