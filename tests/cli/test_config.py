"""`atmo config show` and `check`, on a home without a node and on one where it runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from atmo.config.report import config_rows
from atmo.config.settings import KEYS, load_settings
from atmo.storage.home import Home
from tests.cli.conftest import Atmo
from tests.config.codes import join_code
from tests.shell.serving import ServedNode, running_home, served


@pytest.fixture(autouse=True)
def alone(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user without LlamaFarm; the home is there."""
    monkeypatch.setenv("HOME", str(home.parent))
    monkeypatch.delenv("LLAMAFARM_HOME", raising=False)
    home.mkdir()


def test_show_without_a_node(atmo: Atmo, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "config.toml").write_text('mode = "provider"\n')
    monkeypatch.setenv("ATMO_NAME", "kitchen\x1b[2J"[:7])
    shown = atmo("config", "show")
    assert (shown.code, shown.err) == (0, "")
    lines = {line.split()[0]: line.split()[1:] for line in shown.out.splitlines()}
    assert lines["KEY"] == ["FROM", "VALUE"]
    assert lines["mode"] == [str(home / "config.toml"), "provider"]
    assert lines["name"] == ["ATMO_NAME", "kitchen"]
    assert lines["lan"] == ["default", "true"]
    said = json.loads(atmo("config", "show", "--json").out)
    assert (said["running"], said["home"]) == (False, str(home))
    assert [row["key"] for row in said["config"]] == [key.name for key in KEYS]


def test_show_never_tells_a_join_code(atmo: Atmo, home: Path) -> None:
    code = join_code()
    (home / "config.json").write_text(json.dumps({"mesh": {"join_code": code}}))
    for words in (("config", "show"), ("config", "show", "--json"), ("config", "check")):
        shown = atmo(*words)
        assert shown.code == 0
        assert code not in shown.out + shown.err
    (home / "config.json").write_text(json.dumps({"mesh": {"join_code": code + "x"}}))
    for words in (("config", "show"), ("config", "check")):
        shown = atmo(*words)
        assert shown.code == 1
        assert code not in shown.out + shown.err


def test_show_of_a_running_node(atmo: Atmo, home: Path) -> None:
    settings = load_settings(home, {}, {"mode": "headless"})
    with served(ServedNode(config=config_rows(settings.settled))) as node, running_home(home, node):
        said = json.loads(atmo("config", "show", "--json").out)
        assert said["running"] is True
        row = next(row for row in said["config"] if row["key"] == "mode")
        assert row == {"key": "mode", "value": "headless", "source": "flag", "place": "--mode"}
        assert atmo("config", "check").code == 0


def test_show_of_what_is_wrong(atmo: Atmo, home: Path) -> None:
    (home / "config.json").write_text('{"mode": "x", "http": 5}')
    shown = atmo("config", "show")
    assert (shown.code, shown.out) == (1, "")
    assert shown.err.startswith(f"error: {home / 'config.json'}: mode: 'x' is not known.")
    assert "`atmo config check` tells 1 more" in shown.err


def test_check(atmo: Atmo, home: Path) -> None:
    checked = atmo("config", "check")
    assert (checked.code, checked.out) == (0, "There is no configuration file: the defaults hold.\n")
    path = home / "config.json"
    path.write_text('{"mesh": {"gossip_interval": 30}, "node_name": "hall"}')
    checked = atmo("config", "check")
    assert (checked.code, checked.out) == (0, f"{path}: right.\n")
    assert checked.err.startswith(f"note: {path}: mesh: gossip_interval: has no effect")


def test_check_tells_all_that_is_wrong(atmo: Atmo, home: Path) -> None:
    path = home / "config.json"
    path.write_text('{"nmae": "hall", "http": "x", "lan": "perhaps"}')
    checked = atmo("config", "check")
    assert (checked.code, checked.out) == (1, "")
    assert [line.removeprefix(f"error: {path}: ") for line in checked.err.splitlines()] == [
        'nmae: there is no such key. Did you mean "name"?',
        "http: 'x' has no port. Write it as 127.0.0.1:11451.",
        "lan: 'perhaps' is neither true nor false.",
    ]
    said = json.loads(atmo("config", "check", "--json").out)
    assert len(said["problems"]) == 3
    assert said["problems"][0] == {"message": f"{path}: nmae: there is no such key.", "hint": 'Did you mean "name"?'}
    path.write_text(json.dumps({f"key{number}": 1 for number in range(250)}))
    checked = atmo("config", "check")
    assert len(checked.err.splitlines()) == 201
    assert checked.err.endswith("and 50 more problems\n")


def test_check_of_one_file(atmo: Atmo, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "config.json").write_text('{"http": "x"}')
    monkeypatch.setenv("ATMO_LISTEN", "wrong, too")
    farm = tmp_path / "farm.yaml"
    farm.write_text("version: v1\natmosphere: {mode: provider, mesh: {announce_interval: 30}}\n")
    checked = atmo("config", "check", "--file", farm)
    assert (checked.code, checked.out) == (0, f"{farm}: right.\n")
    assert "announce_interval: has no effect" in checked.err
    farm.write_text("atmosphere: {mode: everything}\n")
    assert atmo("config", "check", "--file", farm).code == 1
    assert "cannot be read" in atmo("config", "check", "--file", tmp_path / "gone.yaml").err


def test_check_of_the_node_s_id(atmo: Atmo, home: Path) -> None:
    path = home / "config.json"
    path.write_text('{"node_id": "abc123..."}')
    assert atmo("config", "check").code == 0, "there is no key yet"
    place = Home(home)
    place.prepare()
    own = str(place.load_signer().node_id)
    checked = atmo("config", "check")
    assert checked.code == 1
    wanted = f"error: {path}: node_id: 'abc123...' is not this node: its id is its key, {own}. Leave it out.\n"
    assert checked.err == wanted
    path.write_text(json.dumps({"node_id": own}))
    assert atmo("config", "check").code == 0
