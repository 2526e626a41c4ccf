"""The block `atmosphere:` of LlamaFarm's configuration, as seed 003 has it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from atmo.backends.exposure import Exposure, Hints, Listing
from atmo.config.settings import Examined, Settings, examine, load_settings
from atmo.errors import UserError

SEED = """
version: v1
atmosphere:
  discoverable: true
  mode: participant
  mesh:
    enabled: true
    join_code: null
    announce_interval: 30
  capabilities:
    models:
      expose_all: true
      expose_list: []
      hide_list: []
    projects:
      expose_all: true
      expose_list: []
      hide_list: ["private-rag"]
    categories:
      llm: true
      embeddings: true
      vision: true
      rag: true
      agents: true
      audio: false
  resources:
    max_concurrent_requests: 4
    max_queue_depth: 10
    priority: normal
    cost_per_token: 0
    latency_class: local
  privacy:
    local_only: false
    require_auth: false
    data_residency: null
  discovery:
    http_port: 14345
    grpc_port: null
    advertise_address: null
models:
  default_llm: llama3.2
projects:
  - id: rag-docs
"""


def write(home: Path, text: str) -> dict[str, str]:
    """Writes LlamaFarm's file for a user; returns the environment."""
    folder = home / "user" / ".llamafarm"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(text)
    return {"HOME": str(home / "user")}


def block(**said: Any) -> str:
    return yaml.safe_dump({"atmosphere": said})


def read(home: Path, **said: Any) -> Settings:
    return load_settings(home, write(home, block(**said)))


def checked(home: Path, **said: Any) -> Examined:
    return examine(home, write(home, block(**said)))


def test_the_block_of_the_seed(tmp_path: Path) -> None:
    examined = examine(tmp_path, write(tmp_path, SEED))
    assert examined.errors == ()
    settings = examined.settings
    assert settings is not None
    assert (settings.mode, settings.discoverable, settings.mesh.enabled) == ("participant", True, True)
    assert settings.mesh.join_code == ""
    sharing = settings.sharing
    assert (sharing.max_concurrent_requests, sharing.max_queue_depth, sharing.local_only) == (4, 10, False)
    assert sharing.hints == Hints(4, "", "local", "", 0.0)
    assert sharing.exposure == Exposure(Listing(), Listing(hide=("private-rag",)), frozenset({"audio"}))
    assert settings.llamafarm_url == "http://127.0.0.1:14345"
    assert settings.require_key is False
    assert examined.files == (tmp_path / "user" / ".llamafarm" / "config.yaml",)
    (note,) = examined.notes
    assert note.endswith(
        "config.yaml: atmosphere: mesh: announce_interval: has no effect: the mesh is told of every change at once."
    )


def test_everything_else_that_it_can_say(tmp_path: Path) -> None:
    settings = read(
        tmp_path,
        discoverable=False,
        mode="headless",
        mesh=False,
        capabilities={"projects": {"expose_list": ["rag-production"]}, "models": {"expose_all": False}},
        resources={"cost_per_token": 0.00002, "priority": "high", "latency_class": "global"},
        privacy={"local_only": True, "require_auth": True, "data_residency": "US"},
        discovery={"http_port": 8000, "advertise_address": "::1"},
    )
    assert (settings.mode, settings.discoverable, settings.mesh.enabled) == ("headless", False, False)
    sharing = settings.sharing
    assert sharing.exposure.projects == Listing(False, ("rag-production",))
    assert sharing.exposure.models == Listing(everything=False)
    assert sharing.hints == Hints(0, "high", "global", "US", 0.02)
    assert (sharing.local_only, settings.require_key) == (True, True)
    assert settings.llamafarm_url == "http://[::1]:8000"


def test_where_it_is_looked_for(tmp_path: Path) -> None:
    environ = write(tmp_path, block(mode="provider"))
    assert load_settings(tmp_path, environ).mode == "provider"
    assert load_settings(tmp_path, {}).mode == "participant", "nobody's home"
    assert load_settings(tmp_path, {"USERPROFILE": environ["HOME"]}).mode == "provider"
    farm = tmp_path / "farm"
    farm.mkdir()
    (farm / "config.yaml").write_text(block(mode="standalone"))
    moved = {**environ, "LLAMAFARM_HOME": str(farm)}
    assert load_settings(tmp_path, moved).mode == "standalone"
    assert load_settings(tmp_path, moved).bridge.llamafarm == farm / "models"
    (tmp_path / "other.yaml").write_text(block(mode="headless"))
    (tmp_path / "config.json").write_text(json.dumps({"llamafarm_config": "other.yaml"}))
    assert load_settings(tmp_path, moved).mode == "headless"
    assert load_settings(tmp_path, {**moved, "ATMO_LLAMAFARM_CONFIG": "false"}).mode == "participant"
    with pytest.raises(UserError, match=r"ATMO_LLAMAFARM_CONFIG: .*gone\.yaml does not exist"):
        load_settings(tmp_path, {**moved, "ATMO_LLAMAFARM_CONFIG": "gone.yaml"})


def test_it_is_the_weakest_source(tmp_path: Path) -> None:
    environ = write(tmp_path, block(mode="provider", resources={"priority": "high"}))
    (tmp_path / "config.yaml").write_text("mode: headless")
    settings = load_settings(tmp_path, environ)
    assert settings.mode == "headless"
    origin = settings.settled["priority"].origin
    assert (origin.kind, origin.place) == ("llamafarm", str(tmp_path / "user" / ".llamafarm" / "config.yaml"))
    assert load_settings(tmp_path, {**environ, "ATMO_MODE": "provider"}).mode == "provider"
    assert load_settings(tmp_path, {**environ, "ATMO_MODE": "provider"}, {"mode": "standalone"}).mode == "standalone"


@pytest.mark.parametrize(
    ("said", "problem"),
    [
        ({"discoverabel": False}, 'atmosphere: discoverabel: there is no such key. Did you mean "discoverable"?'),
        ({"mode": "everything"}, "atmosphere: mode: 'everything' is not known"),
        ({"mesh": 5}, "atmosphere: mesh: is a number where a mapping belongs"),
        ({"resources": {"cost_per_token": -1}}, "resources: cost_per_token: '-1' is not a price"),
        ({"resources": {"max_queue_depth": "many"}}, "resources: max_queue_depth: 'many' is not a number of requests"),
        ({"capabilities": {"models": {"hide_list": "x y"}}}, ""),
        ({"capabilities": {"models": {"hide_list": {}}}}, "hide_list: is a mapping where a list of names belongs"),
        ({"capabilities": {"models": {"hide_list": ["x"] * 257}}}, "hide_list: has 257 entries; at most 256"),
        ({"capabilities": {"categories": {"ml": True}}}, "categories: ml: there is no such key"),
        ({"mesh": {"join_code": "atmo1secret"}}, "mesh: join_code: is not a join code"),
        ({"mesh": {"join_code": 5}}, "mesh: join_code: is not a join code"),
        ({"discovery": {"http_port": 0}}, "discovery: http_port: '0' is not a port"),
        ({"discovery": {"advertise_address": "a b"}}, "advertise_address: 'a b' is neither an IP address"),
        ({"discovery": {}}, ""),
        ({"discovery": {"grpc_port": 50051}}, ""),
        ({"discovery": {"grpc_port": 99999}}, "discovery: grpc_port: '99999' is not a port"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, said: dict[str, Any], problem: str) -> None:
    errors = checked(tmp_path, **said).errors
    assert bool(errors) == bool(problem)
    for error in errors:
        assert problem in str(error)
        assert "secret" not in str(error)
        assert error.message.startswith(str(tmp_path / "user" / ".llamafarm" / "config.yaml"))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("atmosphere: [", "is not valid YAML"),
        ("atmosphere: 5", "atmosphere: is a number where a mapping belongs"),
        ("[1]", "is not a mapping of keys to values"),
    ],
)
def test_a_file_that_is_no_configuration(tmp_path: Path, text: str, problem: str) -> None:
    (error,) = examine(tmp_path, write(tmp_path, text)).errors
    assert problem in str(error)


def test_a_folder_of_nobody_is_told_of_once(tmp_path: Path) -> None:
    (error,) = examine(tmp_path, {"LLAMAFARM_HOME": "~nobody-here/x"}).errors
    assert str(error).startswith("LLAMAFARM_HOME: ~nobody-here/x: there is no such user")


def test_a_file_that_nobody_may_look_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    environ = write(tmp_path, block(mode="provider"))

    def denied(_path: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "lstat", denied)
    errors = examine(tmp_path, environ).errors
    assert len(errors) == 2
    assert all("cannot be read: Permission denied" in str(error) for error in errors)


def test_a_broken_file_can_be_left_alone(tmp_path: Path) -> None:
    environ = write(tmp_path, "a: [")
    with pytest.raises(UserError, match='Set "llamafarm_config": false to leave it alone'):
        load_settings(tmp_path, environ)
    assert load_settings(tmp_path, {**environ, "ATMO_LLAMAFARM_CONFIG": "0"}).mode == "participant"


@pytest.mark.parametrize("text", ["", "version: v1", "atmosphere:"])
def test_without_the_block_nothing_is_said(tmp_path: Path, text: str) -> None:
    examined = examine(tmp_path, write(tmp_path, text))
    assert (examined.errors, examined.notes) == ((), ())
    assert examined.settings == load_settings(tmp_path, {})
