"""Every value keeps its source; everything that is wrong is told, not only the first of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from atmo.config.keys import DEFAULT, FILE, FLAG, VARIABLE
from atmo.config.report import HIDDEN, config_rows, text_of
from atmo.config.settings import KEYS, Settings, examine, load_settings
from atmo.errors import UserError
from tests.config.codes import join_code
from tests.config.test_llamafarm import block
from tests.config.test_llamafarm import write as write_farm


def write(home: Path, value: Any) -> Path:
    path = home / "config.json"
    path.write_text(json.dumps(value))
    return path


def source_of(settings: Settings, key: str) -> tuple[str, str]:
    origin = settings.settled[key].origin
    return origin.kind, origin.place


def test_each_value_has_its_source(tmp_path: Path) -> None:
    path = write(tmp_path, {"http": ":1", "listen": ":1", "bridge": {"http_port": 5, "http_host": "::1"}, "lan": False})
    environ = {"ATMO_LISTEN": ":2", "MODEL_BRIDGE_HTTP_PORT": "6", "HF_HOME": "/hf"}
    settings = load_settings(tmp_path, environ, {"lan": True, "mode": "provider"})
    assert {key: source_of(settings, key) for key in settings.settled if source_of(settings, key)[0] != DEFAULT} == {
        "http": (FILE, str(path)),
        "listen": (VARIABLE, "ATMO_LISTEN"),
        "lan": (FLAG, "--lan"),
        "mode": (FLAG, "--mode"),
        "bridge.http_port": (VARIABLE, "MODEL_BRIDGE_HTTP_PORT"),
        "bridge.http_host": (FILE, str(path)),
        "bridge.huggingface": (VARIABLE, "HF_HOME"),
    }
    assert str(settings.bridge.http) == "[::1]:6"


def test_a_variable_that_is_less_than_another_does_not_count(tmp_path: Path) -> None:
    environ = {"ATMO_NAME": "a", "ATMOSPHERE_NODE_NAME": "b", "LLAMAFARM_URL": "http://x:1"}
    settings = load_settings(tmp_path, environ)
    assert (settings.name, source_of(settings, "name")) == ("a", (VARIABLE, "ATMO_NAME"))
    assert source_of(settings, "llamafarm") == (VARIABLE, "LLAMAFARM_URL")


def test_all_problems_of_all_sources(tmp_path: Path) -> None:
    farm = write_farm(tmp_path, block(mode="x", resources={"priority": "urgent"}))
    servers = [{"name": "a"}, {"name": "b", "url": "http://b", "prise": 1, "keyenv": 2}, 5]
    path = write(tmp_path, {"http": "x", "nmae": 1, "servers": servers, "storage": {"max_gb": 0, "max_models": 0.5}})
    environ = {**farm, "ATMO_LISTEN": "y", "ATMO_MAX_QUEUE_DEPTH": "-1"}
    examined = examine(tmp_path, environ, {"stun": ["z"]})
    assert examined.settings is None
    file, below = f"{path}: ", f"{tmp_path / 'user' / '.llamafarm' / 'config.yaml'}: atmosphere: "
    assert [error.message for error in examined.errors] == [
        f"{file}nmae: there is no such key.",
        f"{below}mode: 'x' is not known.",
        f"{below}resources: priority: 'urgent' is not known.",
        f"{file}http: 'x' has no port.",
        f"{file}servers[0]: url: is missing.",
        f"{file}servers[1]: prise: there is no such key.",
        f"{file}servers[1]: keyenv: there is no such key.",
        f"{file}servers[2]: is a number where a mapping belongs.",
        f"{file}storage: max_gb: 0 is not a number above 0, such as 50.",
        f"{file}storage: max_models: 0.5 is not a whole number.",
        "ATMO_LISTEN: 'y' has no port.",
        "ATMO_MAX_QUEUE_DEPTH: '-1' is not a number of requests, 0 to 4096.",
        "--stun: 'z' has no port.",
    ]
    with pytest.raises(UserError, match=r"nmae.*`atmo config check` tells 12 more"):
        load_settings(tmp_path, environ, {"stun": ["z"]})


def test_a_file_may_be_examined_alone(tmp_path: Path) -> None:
    write(tmp_path, {"http": "wrong"})
    other = tmp_path / "other.toml"
    other.write_text('mode = "provider"')
    examined = examine(tmp_path, {}, None, other)
    assert examined.settings is not None
    assert (examined.settings.mode, examined.files) == ("provider", (other,))
    farm = tmp_path / "farm.yaml"
    farm.write_text("version: v1\natmosphere: {mode: headless}\n")
    examined = examine(tmp_path, {}, None, farm)
    assert examined.settings is not None
    assert examined.settings.settled["mode"].origin.kind == "llamafarm"
    for name, problem in (("a.ini", "must end in .json, .yaml, .yml or .toml"), ("gone.json", "cannot be read")):
        (error,) = examine(tmp_path, {}, None, tmp_path / name).errors
        assert problem in str(error)


def test_yaml_does_not_keep_the_last_of_two(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("bridge:\n  enabled: true\n  enabled: false\n")
    (error,) = examine(tmp_path, {}).errors
    assert str(error).startswith(f"{tmp_path / 'config.yaml'}:3:3: enabled: is there twice.")


@pytest.mark.parametrize(
    ("said", "problem"),
    [
        ({"hosts": ["a.lan:80"]}, "hosts: 'a.lan:80' is not a host name"),
        ({"hosts": ["http://a"]}, "hosts: 'http://a' is not a host name"),
        ({"hosts": [""]}, "hosts"),
        ({"hosts": [f"a{number}" for number in range(65)]}, "hosts: has 65 names; at most 64"),
        ({"cors": ["*"]}, "cors: '*' is not an origin"),
        ({"cors": ["https://a.example/x"]}, "cors: 'https://a.example/x' is not an origin"),
        ({"cors": ["a.example"]}, "cors[0]: 'a.example' is not an http or https URL"),
        ({"cors": [f"https://a{number}.example" for number in range(65)]}, "cors: has 65 origins; at most 64"),
        ({"otel_endpoint": "collector"}, "otel_endpoint: 'collector' is not an http"),
        ({"otel_endpoint": "ftp://me:pw@collector"}, "otel_endpoint: it is not an http or https URL"),
        ({"access_log": 5}, "access_log: is a number where true, false or a file belongs"),
        ({"discover": ["olama"]}, "discover: 'olama' is not known"),
        ({"llamafarm": 5}, "llamafarm: is a number where a text belongs"),
        ({"max_concurrent_requests": True}, "max_concurrent_requests: 'True' is not a number of requests"),
        ({"max_concurrent_requests": 4_097}, "max_concurrent_requests: '4097' is not a number of requests"),
        ({"cost_per_1k": "dear"}, "cost_per_1k: 'dear' is not a price"),
        ({"latency_class": "far"}, "latency_class: 'far' is not known"),
        ({"residency": "x" * 65}, "residency: has 65 characters"),
        ({"llamafarm_config": 5}, "llamafarm_config: is a number where a file or false belongs"),
        ({"bridge": {"ollama": 5}}, "bridge: ollama: is not a folder"),
        ({"bridge": {"llamafarm": " "}}, "bridge: llamafarm: is not a folder"),
        ({"capabilities": {"models": {"hide_list": [5]}}}, "hide_list[0]: is a number where a text belongs"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, said: dict[str, Any], problem: str) -> None:
    path = write(tmp_path, said)
    (error,) = examine(tmp_path, {}).errors
    assert error.message.startswith(f"{path}: ")
    assert problem in str(error)


def test_the_endpoint_s_settings(tmp_path: Path) -> None:
    write(
        tmp_path, {"cors": ["https://Chat.example:8443/"], "access_log": "logs/access", "otel_endpoint": "http://c:1/"}
    )
    settings = load_settings(tmp_path, {})
    assert settings.cors == ("https://chat.example:8443",)
    assert settings.access_log == tmp_path / "logs" / "access"
    assert settings.otel_endpoint == "http://c:1"
    environ = {
        "ATMO_CORS": "http://a http://b",
        "ATMO_ACCESS_LOG": "off",
        "ATMO_REQUIRE_KEY": "1",
        "ATMO_HOSTS": "B.lan",
    }
    settings = load_settings(tmp_path, environ)
    assert settings.hosts == ("b.lan",)
    assert (settings.cors, settings.access_log, settings.require_key) == (("http://a", "http://b"), False, True)


@pytest.mark.parametrize(
    ("said", "urls"),
    [
        ({}, ("http://127.0.0.1:11434", "http://127.0.0.1:14345", "http://127.0.0.1:11540")),
        ({"discover": False}, (None, None, None)),
        ({"discover": ["ollama"]}, ("http://127.0.0.1:11434", None, None)),
        ({"discover": False, "llamafarm": True}, (None, "http://127.0.0.1:14345", "http://127.0.0.1:11540")),
        ({"llamafarm": False}, ("http://127.0.0.1:11434", None, None)),
        ({"llamafarm": False, "llamafarm_runtime": "http://r:1"}, ("http://127.0.0.1:11434", None, "http://r:1")),
    ],
)
def test_which_servers_are_looked_for(tmp_path: Path, said: dict[str, Any], urls: tuple[str | None, ...]) -> None:
    write(tmp_path, said)
    settings = load_settings(tmp_path, {})
    assert (settings.ollama_url, settings.llamafarm_url, settings.llamafarm_runtime_url) == urls
    assert [settings.settled[key].value for key in ("ollama", "llamafarm", "llamafarm_runtime")] == list(urls)


def test_a_headless_node_logs_little_unless_it_is_told_to(tmp_path: Path) -> None:
    write(tmp_path, {"mode": "headless"})
    settings = load_settings(tmp_path, {})
    assert (settings.log_level, settings.access_log) == ("warning", False)
    settings = load_settings(tmp_path, {"ATMO_LOG_LEVEL": "debug", "ATMO_ACCESS_LOG": "1"})
    assert (settings.log_level, settings.access_log) == ("debug", True)


def test_rows_for_people_hold_no_secret(tmp_path: Path) -> None:
    code = join_code()
    said = {
        "mesh": {"join_code": code},
        "relays": ["wss://relay.example.org/"],
        "servers": [{"name": "cloud", "url": "https://c/v1", "key_env": "KEY"}],
        "auto_update": ["iris@<2"],
        "transfer": {"schedule": [{"from": "08:00", "to": "18:00"}]},
    }
    path = write(tmp_path, said)
    rows = {row["key"]: row for row in config_rows(load_settings(tmp_path, {}).settled)}
    assert list(rows) == [key.name for key in KEYS]
    assert code not in json.dumps(list(rows.values()))
    assert rows["mesh.join_code"] == {
        "key": "mesh.join_code",
        "value": HIDDEN,
        "source": FILE,
        "place": str(path),
    }
    assert rows["relays"]["value"] == ["wss://relay.example.org/"]
    assert rows["servers"]["value"][0]["key_env"] == "KEY"
    assert rows["http"]["value"] == "127.0.0.1:11451"
    assert text_of(rows["auto_update"]["value"]) == "iris=<2"
    assert text_of(rows["mesh.enabled"]["value"]) == "true"
    assert text_of(rows["interests"]["value"]) == "-"
    assert "480" in text_of(rows["transfer.schedule"]["value"])
