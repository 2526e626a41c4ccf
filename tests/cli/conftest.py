"""A command line that runs in this process, against a served node or against a home without one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from atmo.cli.main import main
from tests.shell.serving import ServedNode, running_home, served


class Result(NamedTuple):
    """How a command ended and what it printed."""

    code: int
    out: str
    err: str


Atmo = Callable[..., Result]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The home that commands use, through `ATMO_HOME`."""
    path = tmp_path / "home"
    monkeypatch.setenv("ATMO_HOME", str(path))
    return path


@pytest.fixture
def node(home: Path) -> Iterator[ServedNode]:
    """A node that runs on the home."""
    with served(ServedNode()) as serving, running_home(home, serving):
        yield serving


@pytest.fixture
def atmo(home: Path, capsys: pytest.CaptureFixture[str]) -> Atmo:
    """Runs a command line."""

    def run(*argv: str | Path) -> Result:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([str(word) for word in argv])
        assert isinstance(ended.value.code, int)
        return Result(ended.value.code, *capsys.readouterr())

    return run
