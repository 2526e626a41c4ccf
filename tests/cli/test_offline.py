"""Commands on the home of a node that does not run."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest

from tests.cli.conftest import Atmo


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A small safetensors file."""
    header = json.dumps({"w": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}).encode()
    path = tmp_path / "tiny.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(16))
    return path


def test_a_status_makes_no_home(atmo: Atmo, home: Path) -> None:
    result = atmo("status")
    assert result.out.splitlines()[0] == f"No node is running on {home}."
    assert "atmo node" in result.err
    assert json.loads(atmo("status", "--json").out) == {"running": False, "home": str(home)}
    assert not home.exists()


def test_a_mesh(atmo: Atmo, home: Path) -> None:
    assert "in no mesh" in atmo("mesh", "nodes").err
    assert atmo("mesh", "create", "home").out.startswith("Created the mesh home, id ")
    invited = atmo("mesh", "invite", "--expires", "30m")
    assert invited.out.startswith("atmo1")
    assert len(invited.out.splitlines()) == 1
    assert "must be running" in invited.err
    strange = atmo("mesh", "invite", "--role", "admn")
    assert strange.out.startswith("atmo1")
    assert "knows no role admn" in strange.err
    assert "Did you mean admin?" in strange.err
    assert "Did you mean" not in atmo("mesh", "invite", "--role", "king").err
    (me,) = json.loads(atmo("mesh", "nodes", "--json").out)
    assert {"id", "name", "roles", "path", "rtt_ms", "last_seen_s"} <= me.keys()
    assert me["roles"] == ["admin"]
    shown = atmo("mesh", "nodes")
    assert "founder, admin" in shown.out
    assert "what it last knew" in shown.err
    status = json.loads(atmo("status", "--json").out)
    assert (status["running"], status["mesh"]["name"]) == (False, "home")
    assert atmo("mesh", "create", "other").code == 1
    assert atmo("mesh", "join", invited.out.strip()).code == 1
    assert atmo("mesh", "revoke", "nobody").code == 1
    assert atmo("mesh", "hand-over", "nobody").code == 1


def test_models(atmo: Atmo, home: Path, weights: Path) -> None:
    imported = atmo("model", "import", weights, "--version", "2.0", "--description", "Tiny")
    assert imported.out.startswith("Imported tiny 2.0")
    assert "cannot" not in imported.out
    assert "can run models of the format safetensors" in imported.err
    (row,) = json.loads(atmo("model", "list", "--json").out)
    fields = {"name", "version", "sha256", "size_bytes", "format", "nodes", "local"}
    assert fields <= row.keys()
    assert (row["name"], row["format"], row["local"]) == ("tiny", "safetensors", True)
    assert "Tiny" in atmo("model", "info", "tiny").out
    assert json.loads(atmo("model", "info", "tiny", "--json").out)["manifest"]["name"] == "tiny"
    assert json.loads(atmo("model", "list", "--available", "--json").out) == []
    assert atmo("model", "pull", "tiny").out.startswith("Already here: tiny")
    assert atmo("model", "remove", "tiny").out.startswith("Removed tiny 2.0")
    assert atmo("model", "info", "tiny").code == 1


def test_models_that_cannot_be_had(atmo: Atmo, home: Path, weights: Path) -> None:
    weights.write_bytes(weights.read_bytes()[:-1])
    assert atmo("model", "import", weights).code == 1
    pulled = atmo("model", "pull", "tiny")
    assert pulled.code == 1
    assert "atmo mesh join" in pulled.err
    assert atmo("model", "remove", "tiny").code == 1


def test_a_shell_wants_a_node(atmo: Atmo, home: Path) -> None:
    result = atmo("shell")
    assert (result.code, result.err) == (1, "error: No node is running here. Start it with `atmo node`.\n")


def test_the_command_that_starts_a_node_names_its_home(atmo: Atmo, home: Path, tmp_path: Path) -> None:
    other = tmp_path / "a b"
    assert f"atmo node --home '{other}'" in atmo("shell", "--home", other).err
