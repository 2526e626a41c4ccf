"""Ten real `atmo node` processes on loopback: more than anyone is a neighbour of, so that nobody is linked with all.

They join at two admins, hear of a model, lose two of them to `kill -9` and take one of these back.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.processes import NodeProcess, write_gguf

pytestmark = pytest.mark.e2e

NODES = 10
LOOK_S = 0.25
KNOWN_S = 30.0
TOLD_S = 10.0
WHOLE_S = 15.0
PULLED_S = 30.0
GONE_S = 45.0
BACK_S = 20.0
SETTLED_S = 40.0
NEIGHBOURS_LEAST = 4
"""Of five: the last two with room may be neighbours already."""


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[list[NodeProcess]]:
    """Ten nodes that run and know nothing of each other."""
    nodes = [NodeProcess(tmp_path / f"n{number}", f"n{number}") for number in range(NODES)]
    try:
        for node in nodes:
            node.launch()
        for node in nodes:
            node.wait_until_ready()
        yield nodes
    finally:
        for node in nodes:
            node.kill()
        assert all(node.ended for node in nodes)


def test_ten_nodes_meet_hear_lose_two_and_take_one_back(nodes: list[NodeProcess], tmp_path: Path) -> None:
    clock = Clock()
    form(nodes)
    clock.tell("ten joined, one after the other")
    wait_for_all(nodes, lambda node: present(node) == names(nodes), KNOWN_S)
    wait_for_all(nodes, lambda node: len(neighbours(node)) >= NEIGHBOURS_LEAST, KNOWN_S)
    clock.tell("everyone knows everyone")

    write_gguf(tmp_path / "weights.gguf", 3 * 2**20)
    nodes[3].ask("models/import", {"path": str(tmp_path / "weights.gguf"), "name": "weights"})
    clock.restart()
    wait_for_all(nodes, lambda node: holders(node) == {"n3"}, TOLD_S)
    clock.tell("a model is seen on all")
    nodes[9].ask("models/pull", {"spec": "weights", "trust": True})
    clock.tell("another has it, too")
    wait_for_all(nodes, lambda node: holders(node) == {"n3", "n9"}, TOLD_S)

    dead, living = [nodes[8], nodes[9]], nodes[:8]
    for node in dead:
        node.kill()
    clock.restart()
    living[0].ask("models/pull", {"spec": "weights", "trust": True})
    assert clock.tell("a pull right after one of two holders was killed") < PULLED_S
    wait_for_all(living, lambda node: whole(node, names(living)), WHOLE_S - clock.seconds)
    clock.tell("every active view is whole again after two were killed")
    wait_for_all(living, lambda node: present(node) == names(living), GONE_S - clock.seconds)
    clock.tell("all hold the two for gone")
    assert all(holders(node) == {"n0", "n3"} for node in living)

    nodes[9].start()
    clock.restart()
    living = [*living, nodes[9]]
    wait_for_all(living, lambda node: present(node) >= names(living), BACK_S)
    wait_for_all(living, lambda node: holders(node) == {"n0", "n3", "n9"}, BACK_S)
    clock.tell("one of them is back everywhere, with its model")
    wait_for_all(living, lambda node: whole(node, names(living)), BACK_S)
    clock.tell("every active view is whole again")
    wait_for_all(living, lambda node: present(node) == names(living), SETTLED_S)
    clock.tell("the one that came back holds the other for gone")

    clock.restart()
    check_topology(living)
    clock.tell("`atmo mesh topology`")
    clock.tell_total()


class Clock:
    """Prints how long things took."""

    def __init__(self) -> None:
        self._first = self._began = time.monotonic()

    def restart(self) -> None:
        """The next thing begins now."""
        self._began = time.monotonic()

    @property
    def seconds(self) -> float:
        """Since the last restart."""
        return time.monotonic() - self._began

    def tell(self, what: str) -> float:
        """Prints and returns the seconds since the last restart."""
        print(f"{self.seconds:6.1f} s  {what}")
        return self.seconds

    def tell_total(self) -> None:
        """Prints the seconds since the first."""
        print(f"{time.monotonic() - self._first:6.1f} s  in all, without starting the processes")


def form(nodes: Sequence[NodeProcess]) -> None:
    """Founds the mesh at the first, which makes the second an admin; each lets half of the others in."""
    founder, admin, *others = nodes
    founder.ask("mesh/create", {"name": "ten"})
    admin.ask("mesh/join", {"code": founder.ask("mesh/invite", {"role": "admin"})["code"]})
    for number, node in enumerate(others):
        inviter = (founder, admin)[number % 2]
        node.ask("mesh/join", {"code": inviter.ask("mesh/invite", {})["code"]})


def wait_for_all(nodes: Sequence[NodeProcess], holds: Callable[[NodeProcess], bool], seconds: float) -> None:
    """Looks at the nodes until something holds for each; those for which it did are not looked at again."""
    deadline = time.monotonic() + seconds
    left = list(nodes)
    while left := [node for node in left if not holds(node)]:
        late = {node.name: (present(node), neighbours(node), holders(node)) for node in left[:2]}
        assert time.monotonic() < deadline, f"{[node.name for node in left]}: {late}\n{left[0].log()}"
        time.sleep(LOOK_S)


def rows_of(node: NodeProcess) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = node.ask("mesh/nodes")["nodes"]
    return rows


def names(nodes: Sequence[NodeProcess]) -> set[str]:
    return {node.name for node in nodes}


def present(node: NodeProcess) -> set[str]:
    """Returns the names of those who live, as `node` believes."""
    return {row["name"] for row in rows_of(node) if row["present"]}


def neighbours(node: NodeProcess) -> set[str]:
    return {row["name"] for row in rows_of(node) if row["neighbour"]}


def holders(node: NodeProcess) -> set[str]:
    """Returns who has the model, as `node` believes."""
    return {name for row in node.ask("models?scope=mesh")["models"] for name in row["nodes"]}


def whole(node: NodeProcess, living: set[str]) -> bool:
    near = neighbours(node)
    return near <= living and len(near) >= NEIGHBOURS_LEAST


def check_topology(living: Sequence[NodeProcess]) -> None:
    """Whoever is asked shows all who live, and links between them only, by which each can be reached."""
    ids = {node.info["node_id"] for node in living}
    picture = living[4].json("mesh", "topology")
    assert {row["id"] for row in picture["nodes"]} == ids
    assert picture["partial"] is False
    ends = [{link["a"], link["b"]} for link in picture["links"]]
    assert set().union(*ends) == ids
    reached = {living[4].info["node_id"]}
    while grown := set().union(*(pair for pair in ends if pair & reached)) - reached:
        reached |= grown
    assert reached == ids
