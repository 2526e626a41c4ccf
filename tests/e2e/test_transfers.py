"""Transfers of real processes: paused, killed, resumed; at a limited rate, so that there is time for all of it."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from random import Random

import pytest

from tests.e2e.processes import NodeProcess, environment, join, wait_for
from tests.storage import samples

pytestmark = pytest.mark.e2e
MIB = 1024 * 1024
WAIT_S = 60.0


def state(node: NodeProcess) -> tuple[str, float]:
    (row,) = node.ask("transfers?over=1")["transfers"]
    return str(row["state"]), float(row["percent"])


def test_a_transfer_that_is_paused_killed_and_resumed(tmp_path: Path) -> None:
    source = tmp_path / "big.safetensors"
    head = samples.safetensors(12 * MIB, fill=b"\0")[: -12 * MIB]
    source.write_bytes(head + Random(1).randbytes(12 * MIB))
    (tmp_path / "beta").mkdir()
    (tmp_path / "beta" / "config.yaml").write_text("transfer: {download_mbps: 8}\n")
    with NodeProcess(tmp_path / "alpha", "alpha") as alpha, NodeProcess(tmp_path / "beta", "beta") as beta:
        alpha.atmo("mesh", "create", "home")
        alpha.atmo("model", "import", str(source), "--yes")
        join(alpha, beta)
        wait_for(lambda: len(beta.ask("models?scope=available")["models"]) == 1, WAIT_S)
        assert beta.ask("models/pull-later", {"spec": "big"})["transfer"]["id"] == 1
        wait_for(lambda: state(beta)[0] == "running" and state(beta)[1] > 0, WAIT_S)
        pull = subprocess.Popen(
            [sys.executable, "-m", "atmo", "--home", str(beta.home), "model", "pull", "big"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment(),
            text=True,
        )
        wait_for(lambda: beta.ask("transfers/pause", {"which": "1"}) is not None and pull.poll() is not None, WAIT_S)
        assert "was paused by another command" in pull.communicate()[1]
        assert pull.returncode == 3
        paused = state(beta)
        assert paused[0] == "paused"
        beta.kill()
        beta.start()
        time.sleep(1)
        assert state(beta) == paused, "what is paused stays so over a restart"
        beta.ask("transfers/resume", {"which": "big"})
        wait_for(lambda: state(beta)[0] == "running", WAIT_S)
        beta.kill()
        beta.start()
        wait_for(lambda: state(beta)[0] == "done", WAIT_S)  # what was under way goes on by itself
        (model,) = beta.json("model", "list")
        assert Path(beta.json("model", "info", model["name"])["path"]).read_bytes() == source.read_bytes()
