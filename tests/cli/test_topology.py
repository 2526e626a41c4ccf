"""`atmo mesh topology`, with a node that runs and without."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.cli.conftest import Atmo
from tests.shell.serving import ServedNode

HERE, THERE, FAR = ("a" * 52, "b" * 52, "c" * 52)


def node_row(name: str, node_id: str, answered: bool = True) -> dict[str, Any]:
    return {"id": node_id, "name": name, "answered": answered}


def link(one: str, two: str, path: str, rtt_ms: float | None) -> dict[str, Any]:
    return {"a": one, "b": two, "path": path, "rtt_ms": rtt_ms, "age_s": 61}


PICTURE = {
    "nodes": [node_row("kitchen", HERE), node_row("at\x1b[2Jtic", THERE), node_row("", FAR, answered=False)],
    "links": [link(HERE, THERE, "lan", 1.25), link(THERE, FAR, "forward", None)],
    "partial": True,
}
ALONE = {"nodes": [node_row("kitchen", HERE)], "links": [], "partial": False}


@pytest.mark.parametrize("picture", [PICTURE, ALONE])
def test_json_is_what_the_node_says(atmo: Atmo, node: ServedNode, picture: dict[str, Any]) -> None:
    node.shows("/v1/mesh/topology", picture)
    shown = atmo("mesh", "topology", "--json")
    assert json.loads(shown.out) == picture
    assert shown.err == ""


def test_people_see_a_table(atmo: Atmo, node: ServedNode) -> None:
    node.shows("/v1/mesh/topology", PICTURE)
    shown = atmo("mesh", "topology")
    header, first, second = shown.out.splitlines()
    assert header.split() == ["FROM", "TO", "PATH", "RTT", "AGE"]
    assert first.split()[0] == "kitchen"
    assert "\x1b" not in shown.out
    assert "1.2 ms" in first
    assert second.split()[1:4] == ["cccccccccc", "forward", "-"]
    assert shown.err == "The picture is partial: 1 of 3 machines did not answer.\n"


def test_who_is_alone_is_told_so(atmo: Atmo, node: ServedNode) -> None:
    node.shows("/v1/mesh/topology", ALONE)
    shown = atmo("mesh", "topology")
    assert (shown.code, shown.out) == (0, "")
    assert shown.err == "This machine is connected to no other.\n"


def test_a_home_at_rest_is_connected_to_nobody(atmo: Atmo) -> None:
    shown = atmo("mesh", "topology")
    assert shown.code == 1
    assert shown.err.startswith("error: No node runs here")
    assert "atmo node" in shown.err
