"""Commands while a node runs: they ask its control API."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from atmo.version import __version__
from tests.api.faces import Row
from tests.cli.conftest import Atmo
from tests.shell.serving import NODE_ID, ServedNode


def test_a_mesh_from_its_creation_to_a_revocation(
    atmo: Atmo, node: ServedNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    created = atmo("mesh", "create", "home")
    assert created.out == f"Created the mesh home, id {'m' * 52}.\n"
    assert "atmo mesh invite" in created.err

    invited = atmo("mesh", "invite", "--role", "gateway", "--expires", "30m")
    assert invited.out == "atmo1-gateway\n"
    assert "role gateway" in invited.err
    assert "must be running" not in invited.err
    made = json.loads(atmo("mesh", "invite", "--expires", "30m", "--json").out)
    assert made == {"code": "atmo1-edge", "role": "edge", "expires_at": 2_800.0}

    assert atmo("mesh", "join", "atmo1-x").out == "Joined the mesh home.\n"
    monkeypatch.setattr("sys.stdin", io.StringIO("atmo1-y\n"))
    assert atmo("mesh", "join", "-").out == "Joined the mesh home.\n"
    assert json.loads(atmo("mesh", "join", "atmo1-x", "--json").out)["name"] == "home"

    shown = atmo("mesh", "nodes")
    header, row = shown.out.splitlines()
    assert header.split() == ["NAME", "ROLES", "PATH", "SINCE", "RTT", "SEEN", "ID"]
    assert row.split() == ["kitchen*", "admin", "local", "-", "0.0", "ms", "now", "aaaaaaaaaa"]
    assert shown.err == ""
    (member,) = json.loads(atmo("mesh", "nodes", "--json").out)
    assert {"id", "name", "roles", "path", "rtt_ms", "last_seen_s"} <= member.keys()

    heir = atmo("mesh", "hand-over", "kitchen")
    assert heir.out == f"Handed over to kitchen, id {NODE_ID}.\n"
    assert heir.err == ""
    assert json.loads(atmo("mesh", "hand-over", "kitchen", "--json").out) == {"id": NODE_ID, "name": "kitchen"}
    assert atmo("mesh", "hand-over", "attic").code == 1

    revoked = atmo("mesh", "revoke", "kitchen")
    assert revoked.out == f"Revoked kitchen, id {NODE_ID}.\n"
    assert atmo("mesh", "revoke", "kitchen").code == 1
    node.mesh.members.append({"id": NODE_ID, "name": "kitchen"})
    assert json.loads(atmo("mesh", "revoke", "kitchen", "--json").out) == {"id": NODE_ID, "name": "kitchen"}
    assert "in no mesh" in atmo("mesh", "nodes").err


def test_models_from_import_to_removal(
    atmo: Atmo, node: ServedNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "iris.onnx").write_bytes(b"x")
    monkeypatch.chdir(tmp_path)
    imported = atmo("model", "import", "iris.onnx", "--version", "2.0", "--type", "t", "--capabilities", "a, b,")
    assert imported.out == f"Imported iris 2.0: onnx, 1.5 MB, sha256 {'ab' * 32}\n"
    assert imported.err == ""
    assert node.models.imported["path"] == tmp_path / "iris.onnx"
    assert node.models.imported["capabilities"] == ("a", "b")

    header, row = atmo("model", "list").out.splitlines()
    assert header.split() == ["NAME", "VERSION", "TYPE", "FORMAT", "SIZE", "HERE", "NODES", "NOTE"]
    assert row.split() == ["iris", "2.0", "classifier", "onnx", "1.5", "MB", "yes", "kitchen"]
    names = [m["name"] for m in json.loads(atmo("model", "list", "--mesh", "--json").out)]
    assert names == ["iris", "far"]
    (available,) = json.loads(atmo("model", "list", "--available", "--json").out)
    fields = {"name", "version", "sha256", "size_bytes", "format", "nodes", "local"}
    assert fields <= available.keys()
    assert available["local"] is False

    assert atmo("model", "remove", "iris").out == "Removed iris 2.0, 1.5 MB.\n"
    assert "no models on this machine" in atmo("model", "list").err
    assert json.loads(atmo("model", "list", "--json").out) == []
    quiet = atmo("model", "import", "iris.onnx", "--json")
    assert (json.loads(quiet.out)["name"], quiet.err) == ("iris", "")
    assert json.loads(atmo("model", "remove", "iris", "--json").out)[0]["name"] == "iris"


def test_info(atmo: Atmo, node: ServedNode) -> None:
    first, *fields, empty, header, newest, older = atmo("model", "info", "far").out.splitlines()
    assert first == "far 1.0.0, not on this machine"
    assert [line.split(maxsplit=1)[0] for line in fields] == [
        "sha256",
        "size",
        "format",
        "nodes",
        "type",
        "capabilities",
        "trained",
        "config",
        "runs",
    ]
    assert fields[1].endswith("1.5 MB (1500000 bytes)")
    assert fields[-2].endswith("depth: 3")
    assert fields[-1].split() == ["runs", "here", "yes"]
    assert (empty, header.split()[0], newest.split()[1], older.split()[1]) == ("", "NAME", "1.0.0", "0.9.0")
    assert atmo("model", "info", "far", "--nodes").out.splitlines()[1].split() == ["kitchen", "1.0.0,", "0.9.0"]
    assert len(atmo("model", "info", "far", "--versions").out.splitlines()) == 3
    assert json.loads(atmo("model", "info", "far", "--json").out)["manifest"]["name"] == "far"
    assert json.loads(atmo("model", "info", "far", "--nodes", "--json").out) == [
        {"name": "kitchen", "versions": ["1.0.0", "0.9.0"]}
    ]
    assert len(json.loads(atmo("model", "info", "far", "--versions", "--json").out)) == 2
    assert atmo("model", "info", "gone").err == (
        "error: Nobody in the mesh has the model gone. See `atmo model list --mesh`.\n"
    )


def test_pull(atmo: Atmo, node: ServedNode) -> None:
    pulled = atmo("model", "pull", "far@>=1")
    assert pulled.out.startswith("Pulled far 1.0.0: onnx, 1.5 MB, sha256 abab")
    quiet = atmo("model", "pull", "far", "--json")
    assert (json.loads(quiet.out)["name"], quiet.err) == ("far", "")
    broken = atmo("model", "pull", "far@broken")
    assert (broken.code, broken.out) == (1, "")
    assert broken.err.splitlines()[-1] == "error: kitchen vanished"


def test_names_from_elsewhere_cannot_drive_the_terminal(atmo: Atmo, node: ServedNode) -> None:
    node.models.local["x"] = Row("x\x1b]0;owned\x07\u202e", "1\n2")
    out = atmo("model", "list").out
    assert "\x1b" not in out
    assert "\u202e" not in out
    assert len(out.splitlines()) == 2
    assert "\x1b" not in atmo("model", "list", "--json").out
    assert atmo("model", "list", "--json").out.isascii()


def test_status(atmo: Atmo, node: ServedNode) -> None:
    shown = atmo("status").out.splitlines()
    assert shown[0] == "kitchen is running: atmo 0.1.0, process 7"
    assert shown[1].split() == ["endpoint", f"{node.url}/v1"]
    assert shown[2].split() == ["mesh", "none", "yet"]
    atmo("mesh", "create", "home")
    assert "mesh      home (mmmmmmmmmm)" in atmo("status").out
    body = json.loads(atmo("status", "--json").out)
    assert body["running"] is True
    assert body["node_id"] == NODE_ID


def test_home_is_taken_before_and_after_the_command(
    atmo: Atmo, node: ServedNode, home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("ATMO_HOME", str(tmp_path / "other"))
    assert json.loads(atmo("status", "--json").out)["running"] is False
    for words in (("--home", home, "status", "--json"), ("status", "--home", home, "--json")):
        assert json.loads(atmo(*words).out)["running"] is True
    assert json.loads(atmo("--home", "/gone", "status", "--home", home, "--json").out)["running"] is True
    assert not (tmp_path / "other").exists()


def test_a_node_that_has_gone_is_an_error(atmo: Atmo, node: ServedNode, home: Path) -> None:
    info = node.info()
    info["http"] = "http://127.0.0.1:1"
    (home / "run" / "node.json").write_text(json.dumps(info))
    result = atmo("mesh", "nodes")
    assert (result.code, result.err) == (
        1,
        "error: The node at http://127.0.0.1:1 does not answer. Start it with `atmo node`.\n",
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("mesh", "invit"), "Did you mean 'invite'"),
        (("mesh", "invite", "--expires", "24"), "24h or 7d"),
        (("mesh", "invite", "--expires", "0s"), "24h or 7d"),
        (("model", "list", "--mesh", "--available"), "exclude each other"),
        (("model", "info", "x", "--versions", "--nodes"), "exclude each other"),
        (("model", "pull"), "Name a model, or what it can do"),
        (("node", "--nope"), "No such option"),
    ],
)
def test_wrong_usage(atmo: Atmo, words: tuple[str, ...], message: str) -> None:
    result = atmo(*words)
    assert result.code == 2
    assert message in result.err


def test_help_and_version(atmo: Atmo) -> None:
    assert atmo("--version").out == f"atmo {__version__}\n"
    assert "atmo mesh join CODE" in atmo("--help").out
    for words in (("node",), ("status",), ("shell",), ("mesh", "invite"), ("model", "pull")):
        shown = atmo(*words, "--help")
        assert shown.code == 0
        assert "Example" in shown.out


def test_a_file_that_is_not_there(atmo: Atmo) -> None:
    assert atmo("model", "import", "gone.onnx").err == "error: gone.onnx: there is no such file.\n"


def test_one_node_for_one_home(atmo: Atmo, node: ServedNode, home: Path) -> None:
    result = atmo("node")
    assert result.code == 1
    assert result.err.startswith(f"error: {home}: a node runs here already, process 7: {node.url}/v1.")


def test_settings_are_checked_before_a_node_starts(atmo: Atmo) -> None:
    result = atmo("node", "--http", "here")
    assert (result.code, result.err) == (1, "error: --http: 'here' has no port. Write it as 127.0.0.1:11451.\n")
