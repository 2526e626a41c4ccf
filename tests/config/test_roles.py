from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from atmo.api.http.limits import HttpLimits
from atmo.config.settings import load_settings
from atmo.errors import UserError
from atmo.gateway.askers import BY_ROLE, NodeLimits
from atmo.gateway.serving import ServerConfig
from atmo.node.terms import server_config


def loaded(home: Path, limits: Any) -> ServerConfig:
    """Returns what a node with these limits in its file does."""
    (home / "config.json").write_text(json.dumps({"role_limits": limits}))
    return server_config(load_settings(home, {}).role_limits)


def test_the_rate_of_addresses(tmp_path: Path) -> None:
    settings = load_settings(tmp_path, {})
    assert settings.address_rate == HttpLimits().address_rate
    assert not settings.limit_loopback
    settings = load_settings(tmp_path, {"ATMO_ADDRESS_RATE": "2.5", "ATMO_LIMIT_LOOPBACK": "1"})
    assert (settings.address_rate, settings.limit_loopback) == (2.5, True)


def test_nothing_said(tmp_path: Path) -> None:
    assert server_config(load_settings(tmp_path, {}).role_limits) == ServerConfig()


def test_roles_may_ask_more_or_less(tmp_path: Path) -> None:
    config = loaded(
        tmp_path,
        {
            "edge": {"at_once": 2, "per_second": 5},
            "gateway": {"at_once": 200},
            "lab": {"per_second": 1, "burst": 10},
            "others": {"at_once": 1, "per_second": 0.5},
        },
    )
    assert config.by_role["edge"] == NodeLimits(2, 5.0, 10.0)
    assert config.by_role["gateway"] == NodeLimits(200, 5_000.0, 10_000.0)
    assert config.by_role["lab"] == NodeLimits(32, 1.0, 10.0)
    assert config.by_role["admin"] == BY_ROLE["admin"]
    assert config.everybody == NodeLimits(1, 0.5, 1.0)
    assert config.max_calls == 200


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        ([], "a list where roles"),
        ({"Edge": {}}, "Edge: is not a role"),
        ({"edge": 5}, "edge: is a number where limits"),
        ({"edge": {"atonce": 5}}, "atonce"),
        ({"edge": {"at_once": 0}}, "at_once: '0' is not a number of requests"),
        ({"edge": {"per_second": -1}}, "per_second: '-1' is not"),
        ({f"r{number}": {} for number in range(33)}, "33 roles"),
    ],
)
def test_what_cannot_be(tmp_path: Path, limits: Any, said: str) -> None:
    with pytest.raises(UserError, match=said) as caught:
        loaded(tmp_path, limits)
    assert "role_limits" in str(caught.value)
