"""What is fetched in advance: the policy by itself, and the loop on a mesh in memory."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
import trio

from atmo.gossip.records import ModelRecord
from atmo.identity import NodeId
from atmo.services import prefetch
from atmo.services.catalog import Deprecation, Version
from atmo.services.prefetch import ASKED_MOST, FADE_S, Asked, Prefetch, choose_prefetch
from atmo.storage.eviction import Limits
from tests.services.kit import mesh, model_file


def version(name: str, holders: int, *, number: str = "1.0", **more: Any) -> Version:
    record = ModelRecord(
        name=name,
        version=number,
        sha256=bytes(32),
        size_bytes=more.pop("size", 100),
        format=more.pop("format", "onnx"),
        manifest=Random(name + number).randbytes(32),
        type="classifier",
        capabilities=more.pop("capabilities", ()),
    )
    held = {NodeId(Random(index).randbytes(32)): (f"n{index}", record) for index in range(holders)}
    return Version(record, holders=held, **more)


def chosen(*versions: Version, asked: dict[str, float] | None = None, room: int = 1_000, **more: Any) -> str | None:
    interests = more.pop("interests", ())
    found = choose_prefetch(versions, asked or {}, interests, room, more.pop("may_come", lambda _: True))
    return f"{found.record.name} {found.record.version}" if found else None


def test_what_most_nodes_hold_comes_first() -> None:
    assert chosen(version("a", 3), version("b", 5)) == "b 1.0"
    assert chosen(version("a", 2)) is None
    assert chosen() is None
    assert chosen(version("large", 9, size=99), version("small", 9, size=9)) == "small 1.0"


def test_what_was_asked_for_counts_more_than_what_others_hold() -> None:
    assert chosen(version("a", 5), version("b", 1), asked={"b": 2.0}) == "b 1.0"
    assert chosen(version("b", 1), asked={"b": 0.4}) is None
    assert chosen(version("b", 0), asked={"b": 9.0}) is None  # nobody could send it


def test_the_newest_version_of_what_is_not_here() -> None:
    assert chosen(version("a", 9, number="2.0"), version("a", 9, number="1.0")) == "a 2.0"
    here = version("a", 9, number="1.0", local=object())
    assert chosen(version("a", 9, number="2.0"), here) is None
    old = Deprecation("x", "", "", 0)
    assert chosen(version("a", 9, number="2.0", deprecation=old), version("a", 9)) == "a 1.0"


def test_what_does_not_fit_stays_away() -> None:
    assert chosen(version("a", 9, size=1_001)) is None
    assert chosen(version("a", 9, format="pytorch")) is None
    assert chosen(version("a", 9), version("b", 8), may_come=lambda v: v.record.name == "b") == "b 1.0"


def test_interests_of_the_owner() -> None:
    anomaly = version("a", 4, capabilities=("anomaly_detection",))
    assert chosen(version("b", 7), anomaly, interests=("anomaly_detection",)) == "a 1.0"
    assert chosen(version("b", 7), interests=("anomaly_detection",)) is None
    assert chosen(version("b", 7), interests=("anomaly_detection",), asked={"b": 1.0}) == "b 1.0"


def test_what_is_long_ago_fades_and_names_are_bounded() -> None:
    now = 0.0
    asked = Asked(lambda: now)
    asked.note("iris")
    asked.note("iris")
    assert asked.counts() == {"iris": 2.0}
    now = FADE_S
    assert asked.counts() == {"iris": 1.0}
    for number in range(ASKED_MOST + 5):
        asked.note(f"m{number}")
    assert len(asked.counts()) == ASKED_MOST
    assert "iris" not in asked.counts()


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefetch, "LOOK_S", 0.001)
    monkeypatch.setattr(prefetch, "IDLE_S", 0.001)
    monkeypatch.setattr(prefetch, "IDLE_LOOK_S", 0.001)


async def test_an_idle_node_fetches_what_was_asked_for_within_its_limit(tmp_path: Path) -> None:
    async with mesh(tmp_path, "a", "b") as (a, b):
        await a.service.import_model(model_file(tmp_path, 2), name="big")
        await a.service.import_model(model_file(tmp_path, 1), name="small")
        busy = True
        look = Prefetch(b.service, b.storage, lambda: busy, wall=lambda: 0.0)
        look.asked.note("big")
        look.asked.note("small")
        assert not await look.look()  # nothing may come
        await look.run()  # and so it does not even look
        b.storage.limits = replace(Limits(), prefetch_bytes=1_500_000)
        assert not await look.look()
        busy = False
        assert await look.look()
        assert [model.name for model in b.service.local_models()] == ["small"]
        assert not await look.look()  # the other is too large for what is left
        assert b.storage.transfers.prefetched() == {("small", "1")}
        (row,) = await b.service.transfers.rows(over=True)
        assert (row.purpose, row.state) == ("prefetch", "done")


async def test_a_fetch_gives_way_and_goes_on_later(tmp_path: Path) -> None:
    async with mesh(tmp_path, "a", "b") as (a, b):
        await a.service.import_model(model_file(tmp_path, 20), name="big")
        b.storage.limits = replace(Limits(), prefetch_bytes=10**9)
        busy, held = False, trio.Event()
        look = Prefetch(b.service, b.storage, lambda: busy)
        look.asked.note("big")
        answers = 0

        async def hold(node: object, protocol: str) -> None:
            nonlocal answers, busy
            answers += 1
            if answers == 5:
                busy = True
                await held.wait()

        b.hub.hold_answer = hold
        assert not await look.look()
        (row,) = await b.service.transfers.rows()
        assert (row.state, row.reason) == ("paused", "Its pull was interrupted.")
        busy = False
        held.set()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(look.run)
            with trio.fail_after(20):
                while not b.service.local_models():
                    await trio.sleep(0.01)
            nursery.cancel_scope.cancel()


async def test_what_a_person_stopped_or_what_failed_is_left_alone(tmp_path: Path) -> None:
    async with mesh(tmp_path, "a", "b") as (a, b):
        await a.service.import_model(model_file(tmp_path, 1), name="big")
        b.storage.limits = replace(Limits(), prefetch_bytes=10**9)
        wall = 0.0
        look = Prefetch(b.service, b.storage, lambda: False, wall=lambda: wall)
        look.asked.note("big")
        (record,) = a.published
        row = b.storage.transfers.open("big", record.version, record.manifest, "prefetch", 9, "paused", 0.0)
        for state, age_s, comes in (
            ("paused", 10.0, False),
            ("failed", 10.0, False),
            ("cancelled", 86_401.0, False),
        ):
            b.storage.transfers.note(row.id, state, "", 0, 0.0, 0.0)  # type: ignore[arg-type]
            wall = age_s
            assert await look.look() is comes
        wall = 31 * 86_400.0
        a.up = False
        a.believed = True
        assert not await look.look()  # it was tried, and it failed
        assert [row.state for row in await b.service.transfers.rows()] == ["failed"]
        a.up = True
        wall = trio.current_time() + 4e9
        assert await look.look()
