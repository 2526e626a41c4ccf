"""The table of `docs/MODES.md`, cell by cell: real peers, gateways, model services and the API's application."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio

from atmo.config.mode import MODES, ModeRules, rules_of
from atmo.config.settings import Settings
from atmo.config.sharing import MeshSettings
from atmo.errors import RemoteError, RequestError
from atmo.gateway.asking import ANYBODY
from atmo.gateway.jsontext import write_object
from atmo.gateway.remote import Outgoing, open_remote
from atmo.router.capability import CHAT, Capability
from atmo.router.offer import Offer
from tests.api.face import in_process, make_app
from tests.gateway.world import Node, chat
from tests.services.kit import model_file
from tests.services.wide import WideNode, wide_net

OWN, OTHER = (Capability(f"echo:{name}", CHAT, name, general=True, backend="echo") for name in ("own", "other"))

TABLE = {
    "standalone": ModeRules("standalone", False, False, False, False, True),
    "provider": ModeRules("provider", True, True, True, False, True),
    "participant": ModeRules("participant", True, True, True, True, True),
    "headless": ModeRules("headless", True, True, True, False, False),
}
"""Of `docs/MODES.md`."""

everywhere = pytest.mark.parametrize("mode", MODES)


@dataclass
class Pair:
    """A node in some mode, and a participant."""

    node: WideNode
    participant: WideNode


@asynccontextmanager
async def pair(folder: Path, settings: Settings) -> AsyncIterator[Pair]:
    async with wide_net(folder, 2, [settings]) as net:
        node, participant = net.nodes.values()
        await node.offers(OWN)
        await participant.offers(OTHER)
        net.settle()
        yield Pair(node, participant)


async def models_told(two: Pair, folder: Path) -> list[str]:
    await two.node.models.import_model(model_file(folder, 1), name="weights", version="1.0")
    two.node.net.settle()
    return [row.name for row in two.participant.models.rows("mesh")]


async def asked(two: Pair, capability: Capability = OWN) -> str:
    """Has the participant ask the node, whether or not it was told of the capability."""
    offer = Offer(two.node.side.id, "n0", capability, False, 0.001, 0, "lan")
    body = await write_object(chat("abc", model=capability.model))
    outgoing = Outgoing(offer, CHAT, body, False, 10, "r", math.inf, "", lambda head: None)
    try:
        async with open_remote(two.participant, outgoing) as parts:
            return "answered" if [part async for part in parts] else "nothing"
    except RequestError as error:
        return str(error.code)
    except RemoteError:
        return "unreached"


@everywhere
def test_the_rules(mode: str) -> None:
    assert rules_of(mode) == TABLE[mode]


@everywhere
async def test_what_is_announced(tmp_path: Path, mode: str) -> None:
    async with pair(tmp_path, Settings("n0", mode=mode)) as two:
        told = [offer.capability.id for offer in two.participant.gateway.offers() if not offer.local]
        assert told == ([OWN.id] if TABLE[mode].announces else [])
        assert await models_told(two, tmp_path) == (["weights"] if TABLE[mode].announces else [])


@everywhere
async def test_what_is_routed(tmp_path: Path, mode: str) -> None:
    async with pair(tmp_path, Settings("n0", mode=mode)) as two:
        async with two.node.gateway.execute(CHAT, chat("abc", model="own"), ANYBODY) as execution:
            assert execution.offer.local
        if TABLE[mode].routes_away:
            async with two.node.gateway.execute(CHAT, chat("abc", model="other"), ANYBODY) as execution:
                assert execution.offer.node == two.participant.side.id
        else:
            with pytest.raises(RequestError) as caught:
                async with two.node.gateway.execute(CHAT, chat("abc", model="other"), ANYBODY):
                    pass
            assert (caught.value.status, caught.value.code) == (404, "model_not_found")
            assert [row["id"] for row in two.node.gateway.models()] == ["own"]


@everywhere
async def test_what_is_accepted(tmp_path: Path, mode: str) -> None:
    async with pair(tmp_path, Settings("n0", mode=mode)) as two:
        assert await asked(two) == ("answered" if TABLE[mode].accepts else "unreached")


@everywhere
async def test_what_is_served(tmp_path: Path, mode: str) -> None:
    async with pair(tmp_path, Settings("n0", mode=mode)) as two:
        node = Node(two.node.side.id, "n0", two.node.pool, two.node.gateway, None)  # type: ignore[arg-type]
        app = make_app(node, mode=mode, serves=two.node.settings.rules.serves, token="t")
        async with in_process(app) as client:
            answer = await client.post("/v1/chat/completions", json=chat("abc", model="own"))
            models = await client.get("/v1/models")
            unknown = await client.get("/v1/nothing")
            health = await client.get("/health")
            metrics = await client.get("/metrics")
        assert (health.status_code, health.json()["mode"], metrics.status_code) == (200, mode, 200)
        if TABLE[mode].serves:
            assert answer.json()["choices"][0]["message"]["content"] == "cba"
            assert (models.status_code, unknown.status_code) == (200, 404)
        else:
            for refused in (answer, models, unknown):
                error = refused.json()["error"]
                assert refused.status_code == 403
                assert (error["type"], error["code"], error["param"]) == ("permission_error", "headless", None)


async def test_who_is_not_to_be_discovered_is_told_of_to_nobody(tmp_path: Path) -> None:
    async with pair(tmp_path, Settings("n0", discoverable=False)) as two:
        assert not [offer for offer in two.participant.gateway.offers() if not offer.local]
        assert await models_told(two, tmp_path) == []
        assert await asked(two) == "unreached"
        async with two.node.gateway.execute(CHAT, chat("abc", model="other"), ANYBODY) as execution:
            assert execution.offer.node == two.participant.side.id


async def test_without_a_mesh_every_mode_is_alone(tmp_path: Path) -> None:
    for mode in MODES:
        rules = rules_of(mode, mesh=False)
        assert rules == ModeRules(mode, False, False, False, False, TABLE[mode].serves)
    async with pair(tmp_path, Settings("n0", mesh=MeshSettings(enabled=False))) as two:
        assert await asked(two) == "unreached"


async def test_a_headless_node_answers_the_commands_of_its_machine(tmp_path: Path) -> None:
    async with pair(tmp_path, Settings("n0", mode="headless")) as two:
        node = Node(two.node.side.id, "n0", two.node.pool, two.node.gateway, None)  # type: ignore[arg-type]
        async with in_process(make_app(node, serves=False, token="secret")) as client:
            path = "/v1/mesh/topology"
            assert (await client.get(path)).status_code == 403
            assert (await client.get(path, headers={"authorization": "Bearer wrong"})).status_code == 403
            owner = await client.get(path, headers={"authorization": "Bearer secret"})
            assert owner.json().get("error", {}).get("code") != "headless"
            chat_of_owner = await client.post("/v1/chat/completions", headers={"authorization": "Bearer secret"})
            assert chat_of_owner.status_code == 403
        async with in_process(make_app(node, serves=False)) as client:
            assert (await client.get(path, headers={"authorization": "Bearer "})).status_code == 403
        await trio.lowlevel.checkpoint()
