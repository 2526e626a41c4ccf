"""Holders serve as their limits and slots say: real services and engines on a mesh in memory."""

from __future__ import annotations

from pathlib import Path

from atmo.clock import Now
from atmo.identity import NodeId
from tests.services.kit import chunk_requests, mesh, model_file


async def test_a_holder_without_a_slot_refuses_and_another_one_sends(tmp_path: Path) -> None:
    source = model_file(tmp_path, 12)
    async with mesh(tmp_path, "a", "b", "c") as (a, b, c):
        await a.service.import_model(source, name="big")
        await b.service.pull("big")
        a.peer.may_serve = lambda now, node, size: None
        await c.service.pull("big")
        assert c.service.local_models()[0].path.read_bytes() == source.read_bytes()
        assert a.service.server.stats.busy == chunk_requests(c.hub, "c").get("a", 0)
        assert c.misbehaved == []


async def test_a_limit_delays_what_is_sent_and_is_told_the_right_sizes(tmp_path: Path) -> None:
    source = model_file(tmp_path, 6)
    asked: list[tuple[NodeId, int]] = []
    async with mesh(tmp_path, "a", "b") as (a, b):
        await a.service.import_model(source, name="big")

        def wait(now: Now, node: NodeId, size: int) -> float:
            asked.append((node, size))
            return 0.01

        a.peer.may_serve = wait
        await b.service.pull("big")
        assert {node for node, _ in asked} == {b.id}
        assert sum(size for _, size in asked) >= source.stat().st_size
        assert b.service.local_models()[0].path.read_bytes() == source.read_bytes()


async def test_what_is_here_is_shared_and_what_left_is_not(tmp_path: Path) -> None:
    async with mesh(tmp_path, "a") as (a,):
        told: list[tuple[str, str]] = []
        a.peer.share = lambda now, transfer, count: told.append(("share", transfer))
        a.peer.unshare = lambda now, transfer: told.append(("unshare", transfer))
        await a.service.import_model(model_file(tmp_path, 1), name="public")
        await a.service.import_model(model_file(tmp_path, 1, seed=2), name="secret", private=True)
        public, secret = (model.manifest_id.hex() for model in a.service.local_models())
        assert ("share", public) in told
        assert ("share", secret) not in told
        await a.service.remove("public")
        assert told[-1] == ("unshare", public)
