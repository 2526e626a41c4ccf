"""A whole node asks another one where it sees it, and says so in its status."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest
import trio

from atmo.config.settings import Settings
from atmo.config.values import HostPort, parse_host_port
from atmo.node.running import NodeInfo, run_node

pytestmark = pytest.mark.e2e

ANY_PORT = HostPort("127.0.0.1", 0)


async def start(
    home: Path, stun: tuple[HostPort, ...], *, task_status: trio.TaskStatus[NodeInfo] = trio.TASK_STATUS_IGNORED
) -> None:
    settings = Settings(home.name, http=ANY_PORT, listen=ANY_PORT, ollama_url=None, stun=stun)
    await run_node(home, settings, on_ready=lambda info: task_status.started(info))


async def test_a_node_says_what_it_knows_of_its_nat(tmp_path: Path) -> None:
    async with trio.open_nursery() as nursery, httpx.AsyncClient(trust_env=False) as http:

        async def status(info: NodeInfo) -> httpx.Response:
            return await http.get(
                f"{info.http}/atmo/v1/status", headers={"authorization": f"Bearer {info.token}"}, timeout=30
            )

        server: NodeInfo = await nursery.start(start, tmp_path / "server", ())
        client: NodeInfo = await nursery.start(start, tmp_path / "client", (parse_host_port(server.listen[0]),))
        with trio.fail_after(30):
            while (found := (await status(client)).json())["nat"]["mapping"] == "unknown":
                await trio.sleep(0.05)
        assert found["nat"]["mapping"] == "none"
        assert found["nat"]["public"] == client.listen
        assert found["counters"]["stun.answers_in"] == 1
        found = (await status(server)).json()
        assert found["nat"] == {"mapping": "unknown", "filtering": "unknown", "public": [], "age_s": None}
        assert found["counters"]["stun.served"] == 1
        nursery.cancel_scope.cancel()
