"""Whole nodes on loopback in a mesh above its census: a request and a pull find what no neighbour has."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

from atmo.config.settings import Settings
from atmo.config.values import HostPort
from atmo.gossip.hyparview_config import HyParViewConfig
from atmo.node.running import NodeInfo, run_node
from atmo.peer import PeerConfig
from atmo.peer.scale import ScaleConfig
from tests.backends import graphs

pytestmark = pytest.mark.e2e

CONFIG = PeerConfig(
    scale=ScaleConfig(census=2, hysteresis=0.1, look_s=0.5), hyparview=HyParViewConfig(active=2, active_least=1)
)
ANY_PORT = HostPort("127.0.0.1", 0)
NODES = 6
PATIENCE_S = 60.0


class Node:
    """A running node and its HTTP faces."""

    def __init__(self, info: NodeInfo, http: httpx.AsyncClient) -> None:
        self.name = info.name
        self._url = info.http
        self._http = http
        self._token = {"authorization": f"Bearer {info.token}"}

    async def control(self, path: str, body: dict[str, Any] | None = None) -> Any:
        """Asks the control API; returns the last line of its answer."""
        method = "GET" if body is None else "POST"
        answer = await self._http.request(method, f"{self._url}/atmo/v1/{path}", json=body, headers=self._token)
        assert answer.status_code == 200, answer.text
        return json.loads(answer.text.strip().splitlines()[-1])

    async def classify(self, model: str) -> httpx.Response:
        """Has a model judge one row."""
        body = {"action": "predict", "model": model, "data": [[6.0, 1.0]]}
        return await self._http.post(f"{self._url}/v1/ml/classify", json=body)

    async def counters(self) -> dict[str, int]:
        """Returns what the node has counted."""
        return dict((await self.control("status"))["counters"])

    async def models(self) -> list[str]:
        """Returns the names of the models that it knows of."""
        return [row["name"] for row in (await self.control("models?scope=mesh"))["models"]]


async def start(home: Path, name: str, *, task_status: trio.TaskStatus[Node] = trio.TASK_STATUS_IGNORED) -> None:
    """Runs a node until cancelled."""
    settings = Settings(name, http=ANY_PORT, listen=ANY_PORT, ollama_url=None)
    async with httpx.AsyncClient(trust_env=False, timeout=PATIENCE_S) as http:
        await run_node(home, settings, on_ready=lambda info: task_status.started(Node(info, http)))


async def until(holds: Callable[[], Any]) -> None:
    """Waits until an asynchronous condition holds."""
    with trio.fail_after(PATIENCE_S):
        while not await holds():
            await trio.sleep(0.25)


async def test_a_request_and_a_pull_find_what_no_neighbour_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("atmo.services.host.PeerConfig", lambda: CONFIG)
    async with trio.open_nursery() as nursery:
        nodes = [await nursery.start(start, tmp_path / f"n{number}", f"n{number}") for number in range(NODES)]
        await nodes[0].control("mesh/create", {"name": "wide"})
        for guest in nodes[1:]:
            await guest.control("mesh/join", {"code": (await nodes[0].control("mesh/invite", {}))["code"]})
        await trio.sleep(5)  # the index gets to know its nodes
        owner = nodes[-1]
        path = graphs.save(graphs.linear(), tmp_path / "levels.onnx")
        await owner.control("models/import", {"path": str(path), "name": "levels", "type": "classifier"})
        await until(lambda: answers(owner, "levels"))
        await trio.sleep(2)
        far = [node for node in nodes if "levels" not in await node.models()]
        assert len(far) >= 2
        await until(lambda: answers(far[0], "levels"))
        assert (await far[0].classify("levels")).headers["x-atmosphere-node"] == owner.name
        assert (await far[0].counters())["scout.reached"] >= 1
        await until(lambda: pulls(far[1], "levels"))
        assert (await far[1].counters())["scout.reached"] >= 1
        assert [row["name"] for row in (await far[1].control("models?scope=local"))["models"]] == ["levels"]
        nursery.cancel_scope.cancel()


async def answers(node: Node, model: str) -> bool:
    """Says whether a node gets an answer of a model."""
    return (await node.classify(model)).status_code == 200


async def pulls(node: Node, model: str) -> bool:
    """Says whether a node gets a model; on a busy machine the first lookup may take too long."""
    return "done" in await node.control("models/pull", {"spec": model, "trust": True})
