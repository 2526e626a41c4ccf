"""In a mesh too large for everyone to know everything: what only a node has that is no neighbour."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from atmo.backends.base import as_object
from atmo.errors import RequestError, UserError
from atmo.net.ports import RequestStream
from atmo.router.capability import CHAT, CLASSIFY, Capability
from atmo.services.progress import Progress
from atmo.services.serve import CHUNK_PROTOCOL
from tests.gateway.world import chat
from tests.services.kit import model_file
from tests.services.wide import WideNet, WideNode, wide_net

PARROT = Capability("echo:parrot", CHAT, "parrot", "1.2", general=True, backend="echo")
LLAMA = Capability("echo:llama", CHAT, "llama3.2:latest", general=True, backend="echo")


def far(net: WideNet, *others: WideNode) -> WideNode:
    """Returns a node to which what these have is unknown."""
    net.settle()
    strangers = net.strangers_of(*others)
    assert strangers, "not all are neighbours"
    assert all(node.peer.mesh_size.large for node in strangers)
    return strangers[0]


async def answer(node: WideNode, model: str) -> tuple[str, str]:
    """Asks for an answer; returns it and who gave it."""
    async with node.gateway.execute(CHAT, chat("abc", model=model)) as execution:
        (part,) = [as_object(part) async for part in execution]
    return part["choices"][0]["message"]["content"], execution.offer.node_name


@pytest.mark.parametrize("model", ["parrot", "auto", "llama3.2", "parrot@>=1"])
async def test_a_request_is_answered_by_a_node_that_nobody_here_knew_of(tmp_path: Path, model: str) -> None:
    async with wide_net(tmp_path) as net:
        owner = next(iter(net.nodes.values()))
        await owner.offers(LLAMA if model == "llama3.2" else PARROT)
        asking = far(net, owner)
        assert not list(asking.gateway.offers())
        assert await answer(asking, model) == ("cba", "n0")
        lookups = asking.scout.stats.lookups
        assert asking.scout.stats.met == 1
        assert await answer(asking, model) == ("cba", "n0")
        assert asking.scout.stats.lookups == lookups, "now it is known"


async def test_a_model_that_does_not_exist_costs_the_mesh_one_lookup(tmp_path: Path) -> None:
    async with wide_net(tmp_path) as net:
        asking = next(iter(net.nodes.values()))
        for _ in range(5):
            with pytest.raises(RequestError, match="does not exist"):
                await answer(asking, "unicorn")
        assert (asking.scout.stats.lookups, asking.scout.stats.met) == (2, 0)
        assert asking.peer.index._searches._queries == {}


async def test_what_somebody_known_offers_is_not_looked_for(tmp_path: Path) -> None:
    async with wide_net(tmp_path) as net:
        owner, other = list(net.nodes.values())[:2]
        await owner.offers(PARROT)
        await other.offers(LLAMA)
        net.settle()
        assert (await answer(other, "auto"))[0] == "cba"
        assert other.scout.stats.lookups == 0
        with pytest.raises(RequestError) as caught:
            await answer(other, "parrot@>=x")
        assert caught.value.status == 400
        decision = await other.gateway.route(CLASSIFY, {"model": "nothing", "atmosphere": {"local_only": True}})
        assert decision.failure is not None
        assert other.scout.stats.lookups == 0


async def test_a_pull_finds_a_holder_that_is_no_neighbour(tmp_path: Path) -> None:
    async with wide_net(tmp_path) as net:
        owner = next(iter(net.nodes.values()))
        await owner.models.import_model(model_file(tmp_path, 3), name="weights")
        asking = far(net, owner)
        assert asking.models.rows("mesh") == []
        reports: list[Progress] = []
        row = await asking.models.pull("weights", reports.append)
        assert row.local
        assert row.nodes == [asking.name, "n0"]
        phases = list(dict.fromkeys(report.phase for report in reports))
        assert phases[0] == "looking in the index"
        assert phases[-1] == "done"
        assert owner.models.server.stats.chunks >= 3


async def test_a_pull_finds_a_version_that_nobody_known_has(tmp_path: Path) -> None:
    async with wide_net(tmp_path) as net:
        one, two = list(net.nodes.values())[::7]
        await one.models.import_model(model_file(tmp_path, 1, seed=1), name="weights", version="1.0.0")
        await two.models.import_model(model_file(tmp_path, 1, seed=2), name="weights", version="2.0.0")
        net.settle()
        net.strangers_of(one, two)
        assert not one.knows(two)
        row = await one.models.pull("weights@>=2")
        assert (row.version, row.nodes) == ("2.0.0", ["n0", "n7"])


async def test_a_pull_of_what_does_not_exist_costs_the_mesh_one_lookup(tmp_path: Path) -> None:
    async with wide_net(tmp_path) as net:
        asking = next(iter(net.nodes.values()))
        for _ in range(3):
            with pytest.raises(UserError, match="No node has a model named unicorn"):
                await asking.models.pull("unicorn")
        assert (asking.scout.stats.lookups, asking.scout.stats.spared) == (1, 2)


async def test_holders_that_nobody_here_knew_of_join_a_download(tmp_path: Path) -> None:
    async with wide_net(tmp_path) as net:
        owner = next(iter(net.nodes.values()))
        await owner.models.import_model(model_file(tmp_path, 24), name="weights")
        net.settle()
        second = far(net, owner)
        await second.models.pull("weights")
        asking = far(net, owner, second)
        asking.peer.reach(asking.now(), owner.side.id)
        asking.kick()
        assert asking.knows(owner)
        assert not asking.knows(second)
        serve = owner.models.server.chunk

        async def slowly(stream: RequestStream) -> None:
            await trio.sleep(0.4)
            await serve(stream)

        owner.handle(CHUNK_PROTOCOL, slowly)
        before = second.models.server.stats.chunks
        row = await asking.models.pull("weights")
        assert row.nodes == [asking.name, *sorted(("n0", second.name))]
        assert second.models.server.stats.chunks > before
