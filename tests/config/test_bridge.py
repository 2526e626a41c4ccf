"""What files and the environment say of the bridge."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from atmo.config.bridge import BridgeSettings
from atmo.config.settings import HostPort, load_settings
from atmo.errors import UserError


def settings_of(home: Path, value: Any = None, environ: dict[str, str] | None = None) -> BridgeSettings:
    (home / "config.json").write_text(json.dumps({} if value is None else {"bridge": value}))
    return load_settings(home, environ or {}).bridge


def test_defaults(tmp_path: Path) -> None:
    assert settings_of(tmp_path) == BridgeSettings(True, (), None, 300.0, None, None)


def test_every_key(tmp_path: Path) -> None:
    value = {
        "enabled": True,
        "folders": ["weights", "/srv/models", "weights"],
        "http_port": 14345,
        "http_host": "::",
        "interval_s": 60,
    }
    assert settings_of(tmp_path, value) == BridgeSettings(
        True, (tmp_path / "weights", Path("/srv/models")), HostPort("::", 14345), 60.0
    )
    assert settings_of(tmp_path, {"http_port": 0}).http == HostPort("127.0.0.1", 0)
    assert settings_of(tmp_path, False) == BridgeSettings(enabled=False)
    assert settings_of(tmp_path, {"enabled": "no"}).enabled is False


def test_the_environment_goes_over_the_file(tmp_path: Path) -> None:
    environ = {
        "ATMO_BRIDGE": "0",
        "MODEL_BRIDGE_HTTP_PORT": "14345",
        "MODEL_BRIDGE_GOSSIP_INTERVAL": "30",
        "OLLAMA_MODELS": "/srv/ollama",
        "HF_HOME": "/srv/hf",
    }
    assert settings_of(tmp_path, {"http_port": 1, "http_host": "0.0.0.0", "interval_s": 9}, environ) == BridgeSettings(
        False, (), HostPort("0.0.0.0", 14345), 30.0, Path("/srv/hf/hub"), Path("/srv/ollama")
    )
    assert settings_of(tmp_path, None, environ).http == HostPort("127.0.0.1", 14345)


@pytest.mark.parametrize(
    ("environ", "folder"),
    [
        ({"XDG_CACHE_HOME": "/x"}, "/x/huggingface/hub"),
        ({"XDG_CACHE_HOME": "/x", "HF_HOME": "/h"}, "/h/hub"),
        ({"HF_HUB_CACHE": "/c", "XDG_CACHE_HOME": "/x", "HF_HOME": "/h"}, "/c"),
        ({"HF_HOME": "~/h"}, str(Path.home() / "h/hub")),
    ],
)
def test_where_huggingface_s_cache_is(tmp_path: Path, environ: dict[str, str], folder: str) -> None:
    assert settings_of(tmp_path, None, environ).huggingface == Path(folder)


def test_what_the_seed_calls_a_node(tmp_path: Path) -> None:
    environ = {"ATMOSPHERE_NODE_NAME": "kitchen", "ATMOSPHERE_NODE_ID": " abc "}
    settings = load_settings(tmp_path, environ)
    assert (settings.name, settings.node_id) == ("kitchen", "abc")
    assert load_settings(tmp_path, environ | {"ATMO_NAME": "hall"}).name == "hall"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (5, "bridge: is a number where a mapping belongs"),
        ({"folder": []}, "bridge: folder: there is no such key"),
        ({"enabled": 1}, "bridge: enabled: is a number where a text belongs"),
        ({"folders": "models"}, "bridge: folders: is not a list of folders"),
        ({"folders": [""]}, "bridge: folders: is not a list of folders"),
        ({"folders": [str(number) for number in range(17)]}, "bridge: folders: has 17 folders; at most 16"),
        ({"folders": ["~nobody-here/x"]}, "bridge: folders: ~nobody-here/x: there is no such user"),
        ({"http_port": 65_536}, "bridge: http_port: '65536' is not a port"),
        ({"http_port": True}, "bridge: http_port: 'True' is not a port"),
        ({"http_port": "x"}, "bridge: http_port: 'x' is not a port"),
        ({"http_host": "::"}, "bridge: http_host: there is no http_port"),
        ({"http_port": 1, "http_host": "a b"}, "bridge: http_host: 'a b' is neither"),
        ({"interval_s": 1}, "bridge: interval_s: 1 is not a number of seconds between 5 and 86400"),
        ({"interval_s": "nan"}, "bridge: interval_s: 'nan' is not a number"),
        ({"interval_s": 10**400}, "00 is not a number of seconds between"),
        ({"interval_s": True}, "bridge: interval_s: True is not a number"),
        ({"interval_s": []}, "bridge: interval_s: [] is not a number"),
    ],
)
def test_errors_name_file_key_and_reason(tmp_path: Path, value: Any, message: str) -> None:
    with pytest.raises(UserError) as caught:
        settings_of(tmp_path, value)
    assert message in str(caught.value)
    assert str(caught.value).startswith(str(tmp_path / "config.json"))


@pytest.mark.parametrize("variable", ["MODEL_BRIDGE_HTTP_PORT", "MODEL_BRIDGE_GOSSIP_INTERVAL", "ATMO_BRIDGE"])
def test_errors_name_the_variable(tmp_path: Path, variable: str) -> None:
    with pytest.raises(UserError, match=variable):
        settings_of(tmp_path, None, {variable: "x"})
