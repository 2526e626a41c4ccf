"""Whole nodes in one process on loopback, in each mode: which sockets they open and what they say of themselves."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

from atmo.config.mode import MODES
from atmo.config.settings import HostPort, Settings, load_settings
from atmo.errors import UserError
from atmo.node.offline import build_host, open_home, open_offline, open_services
from atmo.node.running import NodeInfo, run_node
from atmo.node.terms import open_transport
from tests.config.codes import join_code

QUIET = {
    "http": "127.0.0.1:0",
    "listen": "127.0.0.1:0",
    "lan": False,
    "port_mapping": False,
    "bridge": False,
    "discover": False,
}


@dataclass
class Running:
    """A node that runs."""

    info: NodeInfo
    http: httpx.AsyncClient

    async def control(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        headers = {"authorization": f"Bearer {self.info.token}"}
        answer = await self.http.request(method, f"/atmo/v1/{path}", json=body, headers=headers)
        assert answer.status_code == 200, answer.text
        return answer.json()


@asynccontextmanager
async def node(home: Path, **said: Any) -> AsyncIterator[Running]:
    """Runs a node until the block ends."""
    home.mkdir(exist_ok=True)
    (home / "config.json").write_text(json.dumps({**QUIET, "name": home.name, **said}))
    settings = load_settings(home, {})
    sender, receiver = trio.open_memory_channel[NodeInfo](1)
    async with trio.open_nursery() as nursery:

        async def run() -> None:
            await run_node(home, settings, on_ready=sender.send_nowait)

        nursery.start_soon(run)
        info = await receiver.receive()
        async with httpx.AsyncClient(base_url=info.http, trust_env=False, timeout=30) as client:
            yield Running(info, client)
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("mode", MODES)
async def test_a_node_in_each_mode(tmp_path: Path, mode: str) -> None:
    async with node(tmp_path / "n", mode=mode) as running:
        status = await running.control("GET", "status")
        health = (await running.http.get("/health")).json()
        assert (status["mode"], health["mode"]) == (mode, mode)
        assert bool(running.info.listen) == bool(status["listen"]) == (mode != "standalone")
        models = await running.http.get("/v1/models")
        assert models.status_code == (403 if mode == "headless" else 200)
        config = {row["key"]: row for row in (await running.control("GET", "config"))["config"]}
        assert config["mode"]["value"] == mode
        assert config["mode"]["place"] == str(tmp_path / "n" / "config.json")


async def test_a_standalone_member_talks_to_nobody(tmp_path: Path) -> None:
    home = tmp_path / "alone"
    async with node(home, mode="standalone") as running:
        headers = {"authorization": f"Bearer {running.info.token}"}
        answer = await running.http.post("/atmo/v1/mesh/join", json={"code": join_code()}, headers=headers)
        assert "This node is standalone: it talks to no other one." in answer.text
        assert (await running.control("POST", "mesh/create", {"name": "own"}))["name"] == "own"
        status = await running.control("GET", "status")
        assert (status["mesh"]["name"], status["peers"]) == ("own", [])
        (check,) = (await running.control("POST", "mesh/doctor"))["checks"]
        assert (check["name"], check["verdict"]) == ("mode", "unknown")
        body = {"model": "all-minilm-l6-v2", "input": "hello"}
        assert (await running.http.post("/v1/embeddings", json=body)).status_code == 200
    async with open_offline(home) as services:
        assert (services.mesh.mesh() or {})["name"] == "own", "it is still a member"
    with pytest.raises(UserError, match=r"standalone: it talks to no other one\. `atmo config show` tells"):
        async with open_offline(home, network=True):
            pass


async def test_a_code_of_the_configuration_is_redeemed_at_the_start(tmp_path: Path) -> None:
    async with node(tmp_path / "founder") as founder:
        await founder.control("POST", "mesh/create", {"name": "home"})
        code = (await founder.control("POST", "mesh/invite", {"role": "edge"}))["code"]
        async with node(tmp_path / "guest", mesh={"join_code": code}) as guest:
            with trio.fail_after(30):
                while (await guest.control("GET", "status"))["mesh"] is None:
                    await trio.sleep(0.05)
            assert code not in json.dumps(await guest.control("GET", "config"))
        async with node(tmp_path / "guest", mesh={"join_code": code}) as guest:
            assert (await guest.control("GET", "status"))["mesh"]["name"] == "home", "it is a member, and stays one"


@pytest.mark.parametrize("discoverable", [True, False])
async def test_the_mesh_hears_of_hardware_only_where_the_node_is_to_be_discovered(
    tmp_path: Path, discoverable: bool
) -> None:
    settings = Settings("n", http=HostPort("127.0.0.1", 0), listen=HostPort("127.0.0.1", 0), discoverable=discoverable)
    with ExitStack() as stack:
        opened = open_home(stack, tmp_path, 1)
        async with open_transport(opened, settings) as (endpoint, tcp), trio.open_nursery() as nursery:
            host = build_host(opened, settings, endpoint, nursery, tcp=tcp)
            async with open_services(opened, settings, host) as services:
                await services.mesh.create("home")
                port = host.port
                assert port is not None
                told = port.peer.profile(opened.signer.node_id)
                assert (bool(told.cpu_cores), bool(told.packages)) == (discoverable, discoverable)
                assert [view.name for view in port.peer.nodes(port.now())] == ["n"]
            nursery.cancel_scope.cancel()
