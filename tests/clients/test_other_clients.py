"""Clients that need an environment of their own, unchanged, against a real peer: each runs its cases as a program."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.clients.peer import CHAT, EMBEDDER, ENDLESS, FULL, ROOT
from tests.e2e.processes import NodeProcess

pytestmark = pytest.mark.e2e

HERE = Path(__file__).parent
PYTHON = ROOT / "build/clients-environment/bin/python"
NODE = ROOT / "build/clients-node"
MAKE = "make it with `python tools/lib/make_clients.py`"
CASES_S = 300.0

with_python = pytest.mark.skipif(not PYTHON.exists(), reason=f"{PYTHON.relative_to(ROOT)} is missing: {MAKE}")
with_node = pytest.mark.skipif(
    shutil.which("node") is None or not (NODE / "node_modules").exists(),
    reason=f"Node.js or {NODE.relative_to(ROOT)} is missing: {MAKE}",
)


def run(peer: NodeProcess, command: list[str], folder: Path) -> None:
    """Runs the cases of a client; fails with what they printed."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("OPENAI_", "PYTEST_"))}
    about = {
        "PEER_URL": peer.url,
        "PEER_CHAT": CHAT,
        "PEER_EMBEDDER": EMBEDDER,
        "PEER_FULL": str(FULL),
        "PEER_ENDLESS": str(ENDLESS["grammar"]),
        "NO_PROXY": "127.0.0.1",
    }
    done = subprocess.run(
        command, cwd=folder, env=kept | about, capture_output=True, text=True, timeout=CASES_S, check=False
    )
    assert done.returncode == 0, f"{done.stdout[-12_000:]}\n{done.stderr[-4_000:]}"


@with_python
@pytest.mark.parametrize("client", ["litellm", "langchain"])
def test_python_clients(peer: NodeProcess, tmp_path: Path, client: str) -> None:
    cases = str(shutil.copy(HERE / "python" / f"{client}_cases.py", tmp_path))
    run(peer, [str(PYTHON), "-m", "pytest", "-q", "-p", "no:cacheprovider", cases], tmp_path)


@with_node
@pytest.mark.parametrize("client", ["openai", "ai-sdk"])
def test_node_clients(peer: NodeProcess, client: str) -> None:
    for module in (HERE / "node").glob("*.mjs"):  # their imports are looked up from where they lie
        shutil.copy(module, NODE)
    run(peer, ["node", "--test", f"{client}.test.mjs"], NODE)
