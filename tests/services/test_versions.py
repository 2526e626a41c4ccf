"""Going back to an older version, going on to new ones, and staying up to date."""

from __future__ import annotations

import itertools
import math
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from atmo.errors import UserError
from atmo.gossip.records import MODELS
from atmo.gossip.sync import RecordChanged
from atmo.services import versions as module
from atmo.services.publishing import Publishing
from atmo.services.versions import Versions
from atmo.storage.decisions import Decisions, TrustPolicy
from tests.services.hub import Node
from tests.services.kit import mesh, model_file


def versions_of(node: Node, **auto: str) -> Versions:
    return Versions(node.service, node.storage.decisions, auto, wall=lambda: 1_750_000_000.0)


async def publish(folder: Path, node: Node, *versions: str, name: str = "m") -> None:
    for version in versions:
        source = model_file(folder, 1, seed=sum(version.encode()))
        await node.service.import_model(source, name=name, version=version)


def news(node: Node) -> RecordChanged:
    return RecordChanged(node.id, MODELS, "0", None)


@asynccontextmanager
async def three(folder: Path) -> AsyncIterator[tuple[Node, Node, Versions]]:
    """A publisher of 1.0, 2.0 and 3.0, and a node that has the first two."""
    async with mesh(folder, "a", "c") as (a, c):
        await publish(folder, a, "1.0", "2.0", "3.0")
        for version in ("1.0", "2.0"):
            await c.service.pull(f"m@{version}")
        yield a, c, versions_of(c)


async def test_back_and_forth(tmp_path: Path) -> None:
    async with three(tmp_path) as (_, c, versions):
        changes: list[list[str]] = []
        c.service.on_change(lambda: changes.append([model.version for model in c.service.offered_models()]))
        told = await versions.rollback("m")
        assert (told["active"], told["before"], told["newest"], told["rolled_back"]) == ("1.0", "2.0", "2.0", True)
        assert changes == [["1.0"]], "backends offer that one"
        assert (await c.service.pull("m")).version == "1.0", "the latest is what was gone back to"
        assert Decisions(c.database).active == {"m": "1.0"}
        with pytest.raises(UserError, match=r"There is no version of m before 1\.0"):
            await versions.rollback("m")
        told = await versions.update("m")
        assert (told["active"], told["before"], told["rolled_back"]) == ("3.0", "1.0", False)
        assert told["row"]["local"]
        assert [model.version for model in c.service.offered_models()] == ["3.0", "2.0", "1.0"]
        assert (await versions.rollback("m@<2.5"))["active"] == "2.0"
        assert versions.rows() == [
            {"name": "m", "active": "2.0", "newest": "3.0", "rolled_back": True, "auto": None},
        ]
        assert (await versions.rollback("m@3"))["rolled_back"] is False, "the newest needs no choice"


async def test_what_one_goes_back_to_may_have_to_be_pulled(tmp_path: Path) -> None:
    async with three(tmp_path) as (_, c, versions):
        await c.service.remove("m@1.0")
        assert (await versions.rollback("m"))["active"] == "1.0"
        assert {model.version for model in c.service.local_models()} == {"1.0", "2.0"}
        await c.service.remove("m@1.0")
        assert c.service.active("m") is None, "it is gone"
        with pytest.raises(UserError, match="No version of m is in the range >9"):
            await versions.rollback("m@>9")


async def test_who_pulls_a_newer_version_wants_that_one(tmp_path: Path) -> None:
    async with three(tmp_path) as (_, c, versions):
        await versions.rollback("m")
        await c.service.pull("m@3.0")
        assert c.service.active("m") is None


async def test_only_what_is_here_goes_back_or_on(tmp_path: Path) -> None:
    async with three(tmp_path) as (_, _, versions):
        for command in (versions.rollback, versions.update):
            with pytest.raises(UserError, match="nothing is not on this machine"):
                await command("nothing")


async def test_a_model_is_brought_up_to_date_and_the_former_one_is_kept(tmp_path: Path) -> None:
    async with three(tmp_path) as (a, c, versions):
        await versions.look()
        assert len(c.service.local_models()) == 2, "nobody asked for it"
        assert (await versions.keep("m@<4", on=True))["auto"] == "<4"
        await versions.look()
        assert [model.version for model in c.service.local_models()] == ["3.0", "2.0", "1.0"]
        await publish(tmp_path, a, "3.1", "4.0")
        await versions.look()
        assert c.service.local_models()[0].version == "3.1"
        assert (await versions.rollback("m"))["active"] == "3.0"
        await publish(tmp_path, a, "3.2")
        await versions.look()
        assert c.service.local_models()[0].version == "3.1", "who went back stays there"
        assert (await versions.update("m"))["active"] == "3.2"
        assert (await versions.keep("m", on=False))["auto"] is None
        await publish(tmp_path, a, "3.3")
        await versions.look()
        assert c.service.local_models()[0].version == "3.2"


async def test_only_the_same_publisher_and_what_nobody_advises_against(tmp_path: Path) -> None:
    async with mesh(tmp_path, "a", "b", "c") as (a, b, c):
        await publish(tmp_path, a, "1.0")
        await c.service.pull("m")
        versions = versions_of(c, m="")
        await publish(tmp_path, b, "2.0")
        await versions.look()
        assert len(c.service.local_models()) == 1
        await publish(tmp_path, a, "1.1")
        publishing = Publishing(a.service, a.storage, a.signer, lambda: a)
        await publishing.deprecate("m@1.1")
        await versions.look()
        assert len(c.service.local_models()) == 1
        await publishing.undeprecate("m@1.1")
        await versions.look()
        assert c.service.local_models()[0].version == "1.1"
        assert (await versions.keep("m", on=False))["auto"] is None, "a person's word beats the settings"
        assert versions.rows() == []
        assert (await versions.keep("m@latest", on=True))["auto"] == "latest"


@asynccontextmanager
async def three_then_jumping(folder: Path, clock: trio.testing.MockClock) -> AsyncIterator[Any]:
    """The mesh is made in real time: the clock knows nothing of threads, and would jump while one works."""
    clock.autojump_threshold, clock.rate = math.inf, 1.0
    async with three(folder) as made:
        clock.rate, clock.autojump_threshold = 0.0, 0.0
        yield made


async def test_in_the_background_news_are_looked_at_and_failures_repeated(
    tmp_path: Path, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with three_then_jumping(tmp_path, autojump_clock) as (a, c, versions):
        tries: list[float] = []

        async def fail(spec: str, *, purpose: str) -> None:
            await trio.lowlevel.checkpoint()
            assert purpose == "update"
            tries.append(trio.current_time())
            if len(tries) < 4:
                raise UserError("It rains.", "Wait.")

        async def at_once(job: Callable[..., Any], *args: Any, **_: Any) -> Any:
            await trio.lowlevel.checkpoint()
            return job(*args)

        monkeypatch.setattr(c.service, "pull", fail)
        monkeypatch.setattr(trio.to_thread, "run_sync", at_once)  # the clock would jump while a thread works
        begun = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(versions.run)
            await trio.sleep(1)
            versions.on_event("something else")
            await trio.sleep(10)
            assert tries == []
            await versions.keep("m", on=True)
            versions.on_event(news(a))
            await trio.sleep(1_000)
            nursery.cancel_scope.cancel()
        pauses = [round(later - earlier) for earlier, later in itertools.pairwise(tries)]
        assert pauses[:3] == [62, 122, 242], "a minute, twice as long each time, and the time to gather news"
        assert tries[0] - begun < 20
        assert set(c.storage.decisions.first_seen.values()) == {1_750_000_000.0}


async def test_a_database_that_fails_does_not_end_the_watch(
    tmp_path: Path, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with three_then_jumping(tmp_path, autojump_clock) as (a, _, versions):

        async def full() -> None:
            await trio.lowlevel.checkpoint()
            looked.append(1)
            raise UserError("The disk is full.")

        looked: list[int] = []
        monkeypatch.setattr(versions, "look", full)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(versions.run)
            for _ in range(2):
                versions.on_event(news(a))
                await trio.sleep(10 * module.GATHER_S)
            nursery.cancel_scope.cancel()
        assert len(looked) == 2


async def test_the_registry_of_the_mesh_knows_since_when(tmp_path: Path) -> None:
    async with three(tmp_path) as (_, c, versions):
        assert c.service.info("m")["first_seen"] is None
        await versions.look()
        registry = await c.service.mesh_models()
        assert registry["m"]["versions"]["2.0"]["nodes"] == ["c", "a"]
        assert {entry["first_seen"] for entry in registry["m"]["versions"].values()} == {"2025-06-15T15:06:40Z"}
        assert list(registry["m"]["versions"]) == ["3.0", "2.0", "1.0"]
        assert c.service.info("m")["first_seen"] == "2025-06-15T15:06:40Z"


async def test_nobody_else_brings_a_model_up_to_date_by_the_same_number(tmp_path: Path) -> None:
    async with mesh(tmp_path, "a", "b", "d", "c", policy=TrustPolicy(first_time="allow")) as (a, b, d, c):
        await publish(tmp_path, a, "1.0")
        await c.service.pull("m")
        await publish(tmp_path, a, "2.0")
        other = model_file(tmp_path, 1, seed=99)
        await b.service.import_model(other, name="m", version="2.0")
        await d.service.pull("m@2.0")
        d.published = b.published
        await versions_of(c, m="").look()
        model = c.service.local_models()[0]
        assert (model.version, model.publisher) == ("2.0", a.id)
        await c.service.remove("m@2.0")
        a.published = ()
        await versions_of(c, m="").look()
        assert len(c.service.local_models()) == 1
