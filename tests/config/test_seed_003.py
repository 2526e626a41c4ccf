"""Atmosphere's own file as seed 003 writes it, and what of it has no effect."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from atmo.config.settings import Examined, examine

SEED: dict[str, Any] = {
    "node_id": "abc123...",
    "node_name": "mac-studio",
    "backends": {
        "llamafarm": {
            "type": "llamafarm",
            "enabled": True,
            "discovery": {"auto": True, "urls": ["http://localhost:14345", "http://127.0.0.1:14345"]},
            "prefer_local": True,
            "priority": 100,
        },
        "ollama": {
            "type": "ollama",
            "enabled": True,
            "discovery": {"auto": True, "urls": ["http://localhost:11434"]},
            "priority": 80,
        },
    },
    "mesh": {"mesh_id": "home-mesh-uuid", "mesh_name": "home-mesh", "role": "member", "gossip_interval": 30},
}


def read(home: Path, value: Any) -> Examined:
    (home / "config.json").write_text(json.dumps(value))
    return examine(home, {})


def test_the_file_of_the_seed(tmp_path: Path) -> None:
    examined = read(tmp_path, SEED)
    assert examined.errors == ()
    settings = examined.settings
    assert settings is not None
    assert (settings.name, settings.node_id) == ("mac-studio", "abc123...")
    assert settings.llamafarm_url == "http://localhost:14345"
    assert settings.ollama_url == "http://localhost:11434"
    where = f"{tmp_path / 'config.json'}: "
    assert [note.removeprefix(where) for note in examined.notes] == [
        "backends: llamafarm: prefer_local: has no effect: requests go where they are answered soonest.",
        "backends: llamafarm: priority: has no effect: requests go where they are answered soonest.",
        "backends: ollama: priority: has no effect: requests go where they are answered soonest.",
        "mesh: mesh_id: has no effect: a node belongs to the mesh that it has joined.",
        "mesh: mesh_name: has no effect: a node belongs to the mesh that it has joined.",
        "mesh: role: has no effect: a node's roles are those of its certificate.",
        "mesh: gossip_interval: has no effect: the mesh is told of every change at once.",
    ]


@pytest.mark.parametrize(
    ("change", "url"),
    [
        ({"enabled": False}, None),
        ({"discovery": {"auto": False}}, None),
        ({"discovery": {"auto": False, "urls": ["http://box:1"]}}, "http://box:1"),
        ({"discovery": {}}, "http://127.0.0.1:11434"),
        ({"discovery": {"urls": ["http://box:1", "http://other:1"]}}, "http://box:1"),
    ],
)
def test_what_a_backend_says(tmp_path: Path, change: dict[str, Any], url: str | None) -> None:
    value = copy.deepcopy(SEED)
    value["backends"]["ollama"] |= change
    settings = read(tmp_path, value).settings
    assert settings is not None
    assert settings.ollama_url == url


def test_a_backend_may_have_any_name(tmp_path: Path) -> None:
    examined = read(tmp_path, {"backends": {"kitchen": {"type": "ollama", "discovery": {"urls": ["http://k:1"]}}}})
    assert examined.settings is not None
    assert examined.settings.ollama_url == "http://k:1"


def test_further_urls_are_told_of(tmp_path: Path) -> None:
    (note,) = read(tmp_path, {"backends": {"ollama": {"discovery": {"urls": ["http://a:1", "http://b:1"]}}}}).notes
    assert note.endswith("backends: ollama: discovery: urls: only the first one is used.")


@pytest.mark.parametrize(
    ("backends", "problem"),
    [
        ([], "backends: is a list where a mapping belongs"),
        ({"ollama": 1}, "backends: ollama: is a number where a mapping belongs"),
        ({"x": {}}, "backends: x: 'x' is not known"),
        ({"ollama": {"type": "olama"}}, "backends: ollama: type: 'olama' is not known. Did you mean \"ollama\"?"),
        ({"ollama": {"enable": True}}, 'backends: ollama: enable: there is no such key. Did you mean "enabled"?'),
        ({"ollama": {"enabled": 3}}, "backends: ollama: enabled: is a number"),
        ({"ollama": {"discovery": {"urls": "x"}}}, "backends: ollama: discovery: urls: is not a list of URLs"),
        ({"ollama": {"discovery": {"urls": ["x"]}}}, "backends: ollama: discovery: 'x' is not an http or https URL"),
        ({"ollama": {"discovery": {"port": 1}}}, "backends: ollama: discovery: port: there is no such key"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, backends: Any, problem: str) -> None:
    (error,) = read(tmp_path, {"backends": backends}).errors
    assert str(error).startswith(f"{tmp_path / 'config.json'}: {problem}")


def test_one_wrong_backend_does_not_hide_another(tmp_path: Path) -> None:
    examined = read(tmp_path, {"backends": {"ollama": 1, "x": {}}, "mesh": {"mesh": 1}, "nmae": "x"})
    assert len(examined.errors) == 4
