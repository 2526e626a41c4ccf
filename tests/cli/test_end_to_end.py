"""A real node in a process of its own, and the commands that talk to it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.e2e

READY_S = 60


def command(home: Path, *words: str) -> list[str]:
    return [sys.executable, "-m", "atmo", "--home", str(home), *words]


def run(home: Path, *words: str, text: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(home, *words), input=text, capture_output=True, text=True, timeout=READY_S, check=False
    )


@pytest.fixture
def node(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A node that is ready, in a process group of its own."""
    words = command(tmp_path, "node", "--http", "127.0.0.1:0", "--listen", "127.0.0.1:0", "--name", "kitchen")
    environment = {**os.environ, "ATMO_OLLAMA_URL": "false"}
    with subprocess.Popen(
        words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        yield process
        process.kill()


def test_a_node_from_its_start_to_its_end(node: subprocess.Popen[str], tmp_path: Path) -> None:
    assert node.stdout is not None
    line = node.stdout.readline()
    info = json.loads((tmp_path / "run" / "node.json").read_text())
    assert line == f"kitchen is ready: {info['http']}/v1\n"
    assert info["pid"] == node.pid
    assert (tmp_path / "run" / "node.json").stat().st_mode & 0o777 == 0o600

    assert "a node runs here already" in run(tmp_path, "node").stderr
    assert run(tmp_path, "mesh", "create", "home").returncode == 0
    code = run(tmp_path, "mesh", "invite").stdout.strip()
    assert code.startswith("atmo1")
    status = json.loads(run(tmp_path, "status", "--json").stdout)
    assert (status["running"], status["name"], status["mesh"]["name"]) == (True, "kitchen", "home")

    shell = run(
        tmp_path,
        "shell",
        text="nodes\nmodels\nroute How do I invite a machine?\nask What is a join code?\nuse nope\nwhy?\n",
    )
    assert "kitchen*" in shell.stdout
    assert "atmosphere-docs on kitchen" in shell.stdout
    assert "join code" in shell.stdout
    assert "-- atmosphere-docs on kitchen (local)" in shell.stderr
    assert "error: " in shell.stderr
    assert shell.returncode == 1

    node.send_signal(signal.SIGINT)
    out, err = node.communicate(timeout=READY_S)
    assert (node.returncode, out) == (0, "")
    assert "Traceback" not in err
    assert not (tmp_path / "run" / "node.json").exists()
    assert json.loads(run(tmp_path, "status", "--json").stdout)["running"] is False
