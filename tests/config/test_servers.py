"""Model servers in the settings: what each may be told, and where Ollama's own variable says it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from atmo.config.settings import load_settings
from atmo.config.values import ServerSettings
from atmo.errors import UserError

LAB = {"name": "lab", "url": "http://h/v1"}


def servers(home: Path, *entries: dict[str, Any]) -> tuple[ServerSettings, ...]:
    (home / "config.json").write_text(json.dumps({"servers": list(entries)}))
    return load_settings(home, {}).servers


def test_what_a_server_may_be_told(tmp_path: Path) -> None:
    more = {
        "operations": ["chat", "embeddings"], "concurrency": 2, "priority": "high", "latency_class": "regional",
        "residency": "EU",
    }  # fmt: skip
    assert servers(tmp_path, LAB | more) == (
        ServerSettings(
            "lab", "http://h/v1", operations=("chat", "embeddings"), concurrency=2, priority="high",
            latency_class="regional", residency="EU",
        ),
    )  # fmt: skip
    assert servers(tmp_path, LAB) == (ServerSettings("lab", "http://h/v1"),)


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ({"operations": ["drawing"]}, "operations: 'drawing' is not known"),
        ({"operations": "chat"}, "operations: is a text where a list"),
        ({"operations": ["anomaly"]}, "'anomaly' is not known"),
        ({"concurrency": 0}, "concurrency"),
        ({"priority": "urgent"}, "priority: 'urgent' is not known"),
        ({"latency_class": "far"}, "latency_class: 'far' is not known"),
        ({"residency": "x" * 65}, "residency: has 65 characters"),
    ],
)
def test_what_it_may_not(tmp_path: Path, entry: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        servers(tmp_path, LAB | entry)


@pytest.mark.parametrize(
    ("said", "url"),
    [
        ("0.0.0.0", "http://127.0.0.1:11434"),
        ("0.0.0.0:5000", "http://127.0.0.1:5000"),
        (":5000", "http://127.0.0.1:5000"),
        ("[::]:5000", "http://[::1]:5000"),
        ("::1", "http://[::1]:11434"),
        ("gpu.example.org", "http://gpu.example.org:11434"),
        ("https://gpu.example.org/ollama", "https://gpu.example.org:443"),
        ('"http://10.0.0.5"', "http://10.0.0.5:80"),
    ],
)
def test_ollamas_own_variable(tmp_path: Path, said: str, url: str) -> None:
    assert load_settings(tmp_path, {"OLLAMA_HOST": said}).ollama_url == url
    other = {"OLLAMA_HOST": said, "ATMO_OLLAMA_URL": "http://h:1"}
    assert load_settings(tmp_path, other).ollama_url == "http://h:1"


def test_ollamas_variable_that_makes_no_sense(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="OLLAMA_HOST"):
        load_settings(tmp_path, {"OLLAMA_HOST": "a b"})
