"""A node behind a real router (`miniupnpd`) has itself let in, is joined from outside by that, and tidies up."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import trio

from atmo.net.upnp import is_installed
from tests.e2e.processes import START_S, NodeProcess, environment
from tests.e2e.router import WAN, Router, missing, router

pytestmark = [pytest.mark.e2e, pytest.mark.skipif(bool(missing()), reason=missing())]

PORT = 11_450


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Router]:
    with router(tmp_path) as built:
        built.start()
        yield built


class Machine(NodeProcess):
    """A node in one of the namespaces."""

    def __init__(self, home: Path, name: str, space: str) -> None:
        super().__init__(home, name)
        self._prefix = ["ip", "netns", "exec", space, sys.executable, "-m", "atmo", "--home", str(home)]

    def launch(self) -> None:
        arguments = ["node", "--http", "127.0.0.1:0", "--listen", f"[::]:{PORT}", "--name", self.name]
        arguments += ["--port-mapping"]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen([*self._prefix, *arguments], stdout=log, stderr=log, env=environment())

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [*self._prefix, *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment(), check=False)


def until(look: Callable[[], object], *machines: Machine) -> None:
    deadline = time.monotonic() + START_S
    while not look():
        assert time.monotonic() < deadline, "\n".join(machine.log() for machine in machines)
        time.sleep(0.2)


def test_a_node_behind_a_router_is_let_in(box: Router, tmp_path: Path) -> None:
    anna = Machine(tmp_path / "anna", "anna", box.home)
    ben = Machine(tmp_path / "ben", "ben", box.web)
    assert not box.reaches(WAN, PORT)
    with anna:
        until(lambda: anna.json("status")["port_mapping"]["tcp"], anna)
        assert box.reaches(WAN, PORT, tcp=True)
        assert box.reaches("2600:99:7::2", PORT, tcp=True), "the firewall has a pinhole"
        checks = {check["name"]: check for check in anna.json("mesh", "doctor")["checks"]}
        assert checks["NAT"]["verdict"] == "good"
        assert f"{WAN}:{PORT}" in checks["NAT"]["found"]
        anna.json("mesh", "create", "home")
        code = anna.json("mesh", "invite")["code"]
        with ben:
            ben.atmo("mesh", "join", code)
            (row,) = [row for row in ben.json("mesh", "nodes") if row["name"] == "anna"]
            assert f"{WAN}:{PORT}" in row["addresses"]
            assert ben.stop()[0] == 0
        assert anna.stop()[0] == 0
    assert "dnat" not in box.rules()
    assert "accept" not in box.rules()


@pytest.mark.skipif(not is_installed(), reason="needs miniupnpc: pip install 'atmosphere-mesh[upnp]'")
async def test_a_router_that_speaks_upnp_alone(box: Router) -> None:
    box.stop()
    box.start(natpmp=False, upnp=True, ipv6=False)
    command = ["ip", "netns", "exec", box.home, sys.executable, "-m", "tests.e2e.upnp_client", "10.99.7.2", "10.99.7.1"]
    async with trio.open_nursery() as nursery:
        client: trio.Process = await nursery.start(partial(trio.run_process, command, stdin=subprocess.PIPE))
        assert client.stdin is not None
        with trio.fail_after(START_S):
            while box.rules().count("dnat") < 2:
                await trio.sleep(0.1)
        assert "10.99.7.2:11450" in box.rules()
        await client.stdin.aclose()
    assert "dnat" not in box.rules()


def test_a_node_that_was_killed_takes_its_mapping_over(box: Router, tmp_path: Path) -> None:
    anna = Machine(tmp_path / "anna", "anna", box.home)
    with anna:
        until(lambda: anna.json("status")["port_mapping"]["tcp"], anna)
        anna.kill()
    assert "dnat" in box.rules()
    with anna:
        until(lambda: anna.json("status")["port_mapping"]["tcp"], anna)
        assert anna.json("status")["counters"].get("port_mapping.refusals_in", 0) == 0, "it knows its nonces still"
        assert anna.stop()[0] == 0
    assert "dnat" not in box.rules()  # the daemon does not remove pinholes of IPv6 that were renewed: they run out
