"""Imports: what is shown and asked on a terminal, and whole folders; and commands on the home of a node at rest."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Atmo
from tests.shell.serving import ServedNode
from tests.storage import samples


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "iris.pkl"
    path.write_bytes(b"x")
    return path


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A terminal on which a person answers."""
    answers: dict[str, Any] = {"capabilities": "classify", "yes": True, "asked": 0}

    def prompt(*words: Any, **more: Any) -> str:
        answers["asked"] += 1
        return str(answers["capabilities"])

    monkeypatch.setattr("atmo.cli.model_import._is_terminal", lambda: True)
    monkeypatch.setattr("typer.prompt", prompt)
    monkeypatch.setattr("typer.confirm", lambda *words, **more: answers["yes"])
    return answers


def test_what_a_file_would_become_is_shown_and_asked(
    atmo: Atmo, node: ServedNode, file: Path, terminal: dict[str, Any]
) -> None:
    result = atmo("model", "import", file)
    assert result.out.startswith("Imported iris 1.0.0")
    shown = dict(line.strip().split("  ", 1) for line in result.err.splitlines() if line.startswith("  "))
    assert {key: value.strip() for key, value in shown.items()} == {
        "name": "iris",
        "version": "1.0.0",
        "type": "classifier",
        "format": "onnx, 1.5 MB",
        "capabilities": "classify",
        "in the file": "opset: 17",
    }
    assert "converted to ONNX" in result.err
    assert node.models.imported["capabilities"] == ()
    terminal["capabilities"] = "a, b"
    atmo("model", "import", file)
    assert node.models.imported["capabilities"] == ("a", "b")
    terminal["yes"] = False
    node.models.imported = {}
    refused = atmo("model", "import", file)
    assert (refused.code, node.models.imported) == (1, {})
    assert "Nothing was imported." in refused.err


@pytest.mark.parametrize("more", [("--yes",), ("--json",), ("--capabilities", "x")])
def test_nobody_is_asked_who_need_not_be(
    atmo: Atmo, node: ServedNode, file: Path, terminal: dict[str, Any], more: tuple[str, ...]
) -> None:
    assert atmo("model", "import", file, *more, "--private").code == 0
    assert terminal["asked"] == 0
    assert node.models.imported["private"]


def test_a_folder_on_a_home_at_rest(atmo: Atmo, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    root = tmp_path / ".llamafarm" / "models" / "anomaly"
    root.mkdir(parents=True)
    (root / "net.safetensors").write_bytes(samples.safetensors())
    (root / "bad.onnx").write_bytes(b"no model")
    (root / "notes.txt").write_text("notes")
    first = atmo("model", "import", "--llamafarm")
    assert first.code == 0
    assert first.out.splitlines()[-1] == "Imported 1, already here 0, skipped 1; 1 other file."
    assert "net" in first.out
    assert "bad.onnx" in first.out
    again = json.loads(atmo("model", "import", "--from", root, "--json").out)
    assert ([row["name"] for row in again["here"]], again["imported"]) == (["net"], [])
    (root / "net.safetensors").unlink()
    assert atmo("model", "import", "--llamafarm", "--type", "anomaly").code == 1
    assert "There is no folder" in atmo("model", "import", "--from", tmp_path / "gone").err
    (model,) = json.loads(atmo("model", "list", "--json").out)
    assert (model["name"], model["type"]) == ("net", "anomaly_detector")


def test_transfers_and_care_on_a_home_at_rest(atmo: Atmo, home: Path, tmp_path: Path) -> None:
    file = tmp_path / "iris.onnx"
    file.write_bytes(samples.onnx_plain())
    atmo("model", "import", file, "--yes")
    assert "There are no transfers" in atmo("model", "transfers").err
    assert atmo("model", "pause", "1").code == 1
    assert "No node runs here" in atmo("model", "pull", "x", "--background").err
    assert json.loads(atmo("model", "status", "--json").out)["total_models"] == 1
    assert "all is right" in atmo("model", "verify").out
    assert atmo("model", "gc").out == "Freed 0 B.\n"
    assert "0 B of" in atmo("model", "diff", "iris", "iris").out
    assert atmo("model", "publish", "iris").out == "Was public already: iris 1.0.0.\n"
    assert atmo("model", "publishers").err == "There are none.\n"
    assert atmo("model", "update", "--list").err == "There are none.\n"


def test_a_transfer_is_resumed_when_the_node_starts(atmo: Atmo, home: Path) -> None:
    from atmo.storage.database import Database
    from atmo.storage.home import Home
    from atmo.storage.transfers import TransferTable

    place = Home(home)
    place.prepare()
    database = Database(place.database_path)
    row = TransferTable(database).open("iris", "1.0", bytes(32), "pull", 100, "queued", 0.0)
    TransferTable(database).note(row.id, "paused", "", 50, 0.0, 0.0)
    database.close()
    resumed = atmo("model", "resume", "iris")
    assert resumed.out == "Resumed transfer 1: iris 1.0, 50 % are here.\n"
    assert "they go on once it does" in resumed.err
    assert [row["state"] for row in json.loads(atmo("model", "transfers", "--json").out)] == ["queued"]
    assert atmo("model", "cancel", "1").out == "Cancelled transfer 1: iris 1.0.\n"
