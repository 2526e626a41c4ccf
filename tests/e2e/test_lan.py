"""Two machines on one cable, in network namespaces: they find each other with no configuration."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.processes import COMMAND_S, START_S, NodeProcess, environment, join

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(os.geteuid() != 0 or shutil.which("ip") is None, reason="needs root and iproute2"),
]

SPACES = tuple(f"atmolan{os.getpid()}{side}" for side in "ab")
ALONE_S = 4.0


def ip(*arguments: str, check: bool = True) -> bool:
    return subprocess.run(["ip", *arguments], capture_output=True, check=check).returncode == 0


def give_addresses(network: str) -> None:
    for number, space in enumerate(SPACES, 1):
        ip("-n", space, "addr", "flush", "dev", "eth0")
        ip("-n", space, "addr", "add", f"{network}.{number}/24", "dev", "eth0")


@pytest.fixture
def cable() -> Iterator[None]:
    if not ip("netns", "add", SPACES[0], check=False):
        pytest.skip("no network namespaces here")
    try:
        ip("netns", "add", SPACES[1])
        ends = ("name", "eth0", "netns", SPACES[0]), ("name", "eth0", "netns", SPACES[1])
        ip("link", "add", *ends[0], "type", "veth", "peer", *ends[1])
        for space in SPACES:
            ip("-n", space, "link", "set", "lo", "up")
            ip("-n", space, "link", "set", "eth0", "up")
        give_addresses("10.99.4")
        yield
    finally:
        for space in SPACES:
            ip("netns", "del", space, check=False)


class Machine(NodeProcess):
    """A node, and the commands on its home, in one of the namespaces; its port is another one at each start."""

    def __init__(self, home: Path, name: str, space: str, options: Sequence[str] = ()) -> None:
        super().__init__(home, name)
        self._prefix = ["ip", "netns", "exec", space, sys.executable, "-m", "atmo", "--home", str(home)]
        self.options = options

    def launch(self) -> None:
        arguments = ["node", "--http", "127.0.0.1:0", "--listen", "0.0.0.0:0", "--name", self.name, *self.options]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen([*self._prefix, *arguments], stdout=log, stderr=log, env=environment())

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [*self._prefix, *arguments]
        return subprocess.run(
            command, capture_output=True, text=True, timeout=COMMAND_S, env=environment(), check=False
        )

    def linked(self) -> list[str]:
        return [row["name"] for row in self.json("mesh", "nodes") if row["path"] not in ("self", "", None)]


def until(look: Callable[[], Any], *machines: Machine) -> None:
    deadline = time.monotonic() + START_S
    while not look():
        assert time.monotonic() < deadline, "\n".join(machine.log() for machine in machines)
        time.sleep(0.2)


def test_two_machines_on_one_lan(cable: None, tmp_path: Path) -> None:
    anna, ben = (Machine(tmp_path / name, name, space) for name, space in zip(("anna", "ben"), SPACES, strict=True))
    with anna, ben:
        mesh = anna.json("mesh", "create", "home")
        found = ben.json("mesh", "discover")
        (row,) = found["meshes"]
        assert (row["id"], row["name"], row["yours"]) == (mesh["id"], "home", False)
        assert [(node["name"], node["self"]) for node in row["nodes"]] == [("anna", False)]
        assert [(node["name"], node["self"]) for node in found["nodes_without_mesh"]] == [("ben", True)]
        assert row["nodes"][0]["addresses"][0].startswith("10.99.4.1:")
        said = ben.run("mesh", "discover")
        assert "atmo mesh invite" in said.stderr
        join(anna, ben)
        until(lambda: ben.linked() == ["anna"], anna, ben)
        assert len(anna.json("mesh", "discover")["meshes"][0]["nodes"]) == 2
        assert [machine.stop()[0] for machine in (anna, ben)] == [0, 0]
    assert ben.run("mesh", "discover", "--seconds", "1").returncode == 1, "everybody said goodbye"

    give_addresses("10.99.5")  # and ports are others, too: whatever is in their stores is stale
    for machine in (anna, ben):
        machine.options = ["--no-lan"]
    with anna, ben:
        time.sleep(ALONE_S)
        assert (anna.linked(), ben.linked()) == ([], [])
        assert [machine.stop()[0] for machine in (anna, ben)] == [0, 0]
    for machine in (anna, ben):
        machine.options = []
    with anna, ben:
        until(lambda: ben.linked() == ["anna"] and anna.linked() == ["ben"], anna, ben)
        assert ben.json("mesh", "discover")["meshes"][0]["yours"]
