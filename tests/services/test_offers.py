"""Asking nodes with large catalogs: pages, limits, lies, and what is not asked twice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio

from atmo.errors import RemoteError, UserError, WireError
from atmo.gossip.catalog import digest
from atmo.gossip.records import ModelRecord
from atmo.services import offers as module
from atmo.services.offers import PAGE_MODELS, ModelAnswer, ModelRequest, Offers, ask
from atmo.wire import codec
from atmo.wire.schema import to_wire
from tests.services.hub import Node
from tests.services.kit import mesh, model_file


def record(number: int, name: str = "m", **said: Any) -> ModelRecord:
    fields: dict[str, Any] = {"capabilities": ("chat",), "size_bytes": number}
    plain = ModelRecord(name, f"{number}.0", "llm", "gguf", 1, b"h" * 32, number.to_bytes(32, "big"))
    return replace(plain, **(fields | said))


def offers(models: Sequence[ModelRecord]) -> Offers:
    made = Offers(lambda: None)
    made.tell(models)
    return made


def numbers(answer: ModelAnswer) -> list[int]:
    return [model.size_bytes for model in answer.models]


def test_what_is_asked_for_is_what_comes() -> None:
    catalog = [record(3), record(2, format="onnx"), record(1, capabilities=("chat", "code")), record(9, name="n")]
    mine = offers(catalog)
    for request, expected in (
        (ModelRequest(), [3, 2, 1, 9]),
        (ModelRequest("m"), [3, 2, 1]),
        (ModelRequest("m", "<3"), [2, 1]),
        (ModelRequest("nobody"), []),
        (ModelRequest(capabilities=("code", "chat")), [1]),
        (ModelRequest(capabilities=("vision",)), []),
        (ModelRequest("m", capabilities=("code",)), [1]),
        (ModelRequest(max_size_bytes=2), [2, 1]),
        (ModelRequest(format="onnx"), [2]),
        (ModelRequest("m", skip=2), [1]),
        (ModelRequest("m", skip=9), []),
    ):
        answer = mine.answer(request)
        assert numbers(answer) == expected, request
        assert answer.hash == digest(catalog).hash
    assert mine.answer(ModelRequest("m", skip=2)).total == 3


@pytest.mark.parametrize("request_", [ModelRequest("m", "nonsense"), ModelRequest(versions=">1")])
def test_a_question_that_is_none(request_: ModelRequest) -> None:
    with pytest.raises(WireError):
        offers([record(1)]).answer(request_)


def test_pages_have_a_bound_in_number_and_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    mine = offers([record(number) for number in range(PAGE_MODELS + 10)])
    first = mine.answer(ModelRequest())
    assert (len(first.models), first.total) == (PAGE_MODELS, PAGE_MODELS + 10)
    assert len(mine.answer(ModelRequest(skip=PAGE_MODELS)).models) == 10
    monkeypatch.setattr(module, "PAGE_BYTES", 1)
    assert len(mine.answer(ModelRequest()).models) == 1


async def test_a_model_of_a_node_that_tells_a_digest_is_found_and_pulled(tmp_path: Path) -> None:
    async with mesh(tmp_path, "a", "b", "c") as (a, b, c):
        await a.service.import_model(model_file(tmp_path, 1), name="one", capabilities=["x"])
        await b.service.import_model(model_file(tmp_path, 2), name="two", capabilities=["y"])
        a.secretive = b.secretive = True
        assert c.service.rows("mesh") == []
        assert (await c.service.pull("one")).nodes == ["c", "a"]
        assert [other for _, other, protocol in c.hub.requests if protocol == "atmo/models/1"] == ["a"]
        assert (await c.service.pull_capable(["y"])).name == "two"
        with pytest.raises(UserError, match="No node has a model named three"):
            await c.service.pull("three")
        registry = await c.service.mesh_models()
        assert {name: entry["versions"]["1.0.0"]["nodes"] for name, entry in registry.items()} == {
            "one": ["c", "a"],
            "two": ["c", "b"],
        }


async def test_what_was_answered_is_asked_again_only_when_the_catalog_changed(tmp_path: Path) -> None:
    async with mesh(tmp_path, "a", "c") as (a, c):
        await a.service.import_model(model_file(tmp_path, 1), name="one")
        a.secretive = True
        for _ in range(3):
            await c.service.offers.seek(ModelRequest("one"))
        assert len(c.hub.requests) == 1
        await a.service.import_model(model_file(tmp_path, 1, seed=2), name="two")
        await c.service.offers.seek(ModelRequest("one"))
        assert len(c.hub.requests) == 2


async def test_all_pages_are_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAGE_MODELS", 2)
    async with mesh(tmp_path, "a", "c") as (a, c):
        a.published = tuple(record(number) for number in range(5))
        a.service.offers.tell(a.published)
        a.secretive = True
        await c.service.offers.seek(ModelRequest("m"))
        assert sorted(model.size_bytes for model in c.learnt[a.id].values()) == [0, 1, 2, 3, 4]
        assert len(c.hub.requests) == 3


async def test_who_does_not_answer_costs_little_time_and_no_blame(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with mesh(tmp_path, "a", "b", "c") as (a, b, c):
        for node in (a, b):
            await node.service.import_model(model_file(tmp_path, 1), name="one")
            node.secretive = True

        async def hold(node: Node, protocol: str) -> None:
            if node is a:
                await trio.sleep_forever()

        c.hub.hold_answer = hold
        begun = trio.current_time()
        await c.service.offers.seek(ModelRequest("one"))
        assert trio.current_time() - begun == module.ASK_S
        assert set(c.learnt) == {b.id}
        assert c.misbehaved == []


async def test_busy_nodes_say_so_and_lies_are_blamed(tmp_path: Path) -> None:
    async with mesh(tmp_path, "a", "c") as (a, c):
        a.service.offers.tell([record(1)])
        a.published = (record(1),)
        a.secretive = True
        a.service.offers._answering = trio.CapacityLimiter(1)
        a.service.offers._answering.acquire_on_behalf_of_nowait("somebody")
        with pytest.raises(RemoteError, match="it refuses: busy"):
            await ask(c, a.id, ModelRequest())
        blamed: list[str] = []
        c.peer.accuse = lambda now, node, reason: blamed.append(reason)
        for answer in (b"\xff", codec.encode(to_wire(ModelAnswer(b"", 1, ())) | {"models": 7}), None):

            async def lie(stream: Any, answer: bytes | None = answer) -> None:
                if answer is not None:
                    await stream.send(answer)

            a.handlers["atmo/models/1"] = lie
            await c.service.offers.seek(ModelRequest("m"))
        assert len(blamed) == 2, "one that says nothing may have lost its way"


async def test_no_more_questions_are_remembered_than_there_is_room_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "REMEMBERED", 1)
    async with mesh(tmp_path, "a", "c") as (a, c):
        a.published = (record(1), record(1, name="n"))
        a.service.offers.tell(a.published)
        a.secretive = True
        for name in ("m", "n", "n", "m"):
            await c.service.offers.seek(ModelRequest(name))
        assert len(c.hub.requests) == 3


async def test_who_asks_too_fast_is_told_to_wait(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    async with mesh(tmp_path, "a", "c") as (a, c):
        a.service.offers.tell([record(1)])
        for _ in range(module.ANSWERS_AT_ONCE):
            await ask(c, a.id, ModelRequest())
        with pytest.raises(RemoteError, match="it refuses: busy"):
            await ask(c, a.id, ModelRequest())
        assert (await ask(a, a.id, ModelRequest())).total == 1, "others may"
        await trio.sleep(module.ANSWER_EVERY_S)
        assert (await ask(c, a.id, ModelRequest())).total == 1


async def test_nodes_that_answer_nothing_do_not_keep_others_from_being_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "NODES_MOST", 1)
    monkeypatch.setattr(module, "ASKERS_MOST", 1)
    async with mesh(tmp_path, "x", "a", "c") as (x, a, c):
        for node in (x, a):
            node.published = (record(1),)
            node.service.offers.tell(node.published)
            node.secretive = True

        async def nothing(stream: Any) -> None:
            pass

        x.handlers["atmo/models/1"] = nothing
        for _ in range(2):
            await c.service.offers.seek(ModelRequest("m"))
        assert [other for _, other, _ in c.hub.requests] == ["x", "a"]
        assert set(c.learnt) == {a.id}
