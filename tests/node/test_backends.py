"""Each model server of this machine is asked once, as whoever configured it wants it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from atmo.backends.base import Backend
from atmo.backends.found import FoundBackend
from atmo.config.settings import Settings, load_settings
from atmo.config.values import HostPort, ServerSettings
from atmo.errors import UserError
from atmo.node.backends import server_backends


def settings(**fields: Any) -> Settings:
    return Settings(name="n", **fields)


def names(found: list[Backend]) -> list[str]:
    return [backend.name for backend in found]


def ports(found: list[Backend]) -> set[int]:
    (backend,) = (backend for backend in found if isinstance(backend, FoundBackend))
    return {place.port for place in backend._places}


def test_without_configuration() -> None:
    found = server_backends(settings())
    assert names(found) == ["ollama", "llamafarm", "found"]
    assert {1234, 8000, 8080} <= ports(found)


def test_what_is_switched_off_is_not_looked_for(tmp_path: Path) -> None:
    assert names(server_backends(load_settings(tmp_path, {"ATMO_DISCOVER": "false"}))) == []
    found = server_backends(load_settings(tmp_path, {"ATMO_DISCOVER": "ollama vllm"}))
    assert names(found) == ["ollama", "found"]
    assert ports(found) == {8000}
    assert names(server_backends(settings(discover=("ollama",), llamafarm_url=None))) == ["ollama", "llamafarm"]


def test_a_server_is_offered_once() -> None:
    lab = ServerSettings("lab", "http://localhost:8000/v1", price=0.5, concurrency=3, operations=("chat",))
    found = server_backends(settings(servers=(lab,)))
    assert names(found) == ["openai:lab", "ollama", "llamafarm", "found"]
    assert 8000 not in ports(found)
    ollama = ServerSettings("mine", "http://127.0.0.1:11434/v1")
    assert names(server_backends(settings(servers=(ollama,)))) == ["openai:mine", "llamafarm", "found"]
    elsewhere = ServerSettings("far", "http://example.org:11434/v1")
    assert "ollama" in names(server_backends(settings(servers=(elsewhere,))))
    runtime = ServerSettings("runtime", "http://[::1]:11540/v1")
    assert names(server_backends(settings(servers=(runtime,), llamafarm_url=None, discover=()))) == [
        "openai:runtime",
        "ollama",
    ]


def test_a_node_is_no_server_of_its_own() -> None:
    itself = ServerSettings("me", "http://localhost:8765/v1")
    with pytest.raises(UserError, match="is this node itself"):
        server_backends(settings(http=HostPort("127.0.0.1", 8765), servers=(itself,)))
    assert server_backends(settings(http=HostPort("127.0.0.1", 8766), servers=(itself,)))


def test_the_nodes_own_ports_are_left_alone() -> None:
    found = server_backends(settings(http=HostPort("0.0.0.0", 8080), ollama_url="http://localhost:1234"))
    assert not {8080, 1234} & ports(found)
