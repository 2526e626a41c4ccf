"""The topology over real links: complete, bounded, partial where nodes are silent or lie."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

from atmo.errors import RemoteError
from atmo.identity import NodeId
from atmo.net.driver import PeerDriver
from atmo.net.ports import RequestStream
from atmo.peer import LinkView
from atmo.services.topology import (
    LINKS_MOST,
    PROTOCOL,
    LinkReport,
    TopologyAnswer,
    TopologyConfig,
    TopologyService,
)
from atmo.wire import limits
from atmo.wire.schema import pack, unpack_untrusted
from tests.net.test_driver import introduce, linked, until
from tests.net.test_reaching import nodes

QUICK = TopologyConfig(node_s=0.3, walk_s=2.0, keep_s=0.0)


def serve(driver: PeerDriver, name: str, config: TopologyConfig = QUICK) -> TopologyService:
    service = TopologyService(driver.peer.node_id, name, lambda: driver, config)
    driver.handle(PROTOCOL, service.serve)
    return service


def pairs(picture: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    names = {node["id"]: node["name"] for node in picture["nodes"]}
    return [(names[link["a"]], names[link["b"]], link["path"]) for link in picture["links"]]


async def test_everybody_tells_the_same_picture() -> None:
    async with nodes("anna", "bert", "cora", hidden="anna cora") as drivers:
        anna, bert, cora = drivers
        slow = TopologyConfig(keep_s=0.0)
        names = ("anna", "bert", "cora")
        services = [serve(driver, name, slow) for driver, name in zip(drivers, names, strict=True)]
        introduce(anna, bert)
        introduce(cora, bert)
        await until(lambda: linked(anna, bert) and linked(bert, cora))
        for service, first in zip(services, names, strict=True):
            picture = await service.topology()
            assert not picture["partial"]
            assert picture["nodes"][0]["name"] == first
            assert all(node["answered"] for node in picture["nodes"])
            if first == "anna":
                assert pairs(picture) == [("anna", "bert", "lan"), ("bert", "cora", "lan")]
                assert all(link["age_s"] >= 0 for link in picture["links"])


async def test_who_does_not_answer_makes_it_partial() -> None:
    async with nodes("anna", "bert") as (anna, bert):
        service = serve(anna, "anna")

        async def silent(stream: RequestStream) -> None:
            await trio.sleep_forever()

        bert.handle(PROTOCOL, silent)
        introduce(anna, bert)
        await until(lambda: linked(anna, bert) and anna.peer.name(bert.peer.node_id) == "bert")
        picture = await service.topology()
        assert picture["partial"]
        assert [node["answered"] for node in picture["nodes"]] == [True, False]
        assert pairs(picture) == [("anna", "bert", "lan")]


async def test_a_node_without_a_mesh_is_alone() -> None:
    own = NodeId(b"a" * 32)
    picture = await TopologyService(own, "anna", lambda: None).topology()
    assert picture == {
        "nodes": [{"id": str(own), "name": "anna", "answered": True}],
        "links": [],
        "partial": False,
    }


def node(number: int) -> NodeId:
    return NodeId(number.to_bytes(32, "big"))


class FakeStream:
    def __init__(self, answer: bytes | None) -> None:
        self.answer = answer
        self.sent: list[bytes] = []

    async def receive(self) -> bytes | None:
        await trio.lowlevel.checkpoint()
        return self.answer

    async def send(self, body: bytes) -> None:
        await trio.lowlevel.checkpoint()
        self.sent.append(body)


class FakePeer:
    def links(self, now: object) -> list[LinkView]:
        return [LinkView(node(2), "lan", 0.002, 7.5, True)]

    def name(self, of: NodeId) -> str:
        return f"n{of[-1]}"


class FakePort:
    """Answers as told; an answer that is missing is a node that cannot be reached."""

    def __init__(self, answers: dict[NodeId, bytes | None]) -> None:
        self.peer = FakePeer()
        self.answers = answers
        self.asked: list[NodeId] = []
        self.running = self.most = 0

    def now(self) -> None:
        return None

    @asynccontextmanager
    async def request(
        self, to: NodeId, protocol: str, header: Mapping[str, Any], deadline_s: float
    ) -> AsyncIterator[FakeStream]:
        assert (protocol, header) == (PROTOCOL, {})
        self.asked.append(to)
        self.running += 1
        self.most = max(self.most, self.running)
        await trio.sleep(0.001)
        self.running -= 1
        if to not in self.answers:
            raise RemoteError("there is no way")
        yield FakeStream(self.answers[to])


def walker(answers: dict[NodeId, bytes | None], config: TopologyConfig = QUICK) -> tuple[TopologyService, FakePort]:
    port = FakePort(answers)
    return TopologyService(node(1), "n1", lambda: port, config), port  # type: ignore[arg-type,return-value]


def says(name: str, *links: int, path: str = "lan", rtt_us: int | None = None, age_s: int = 1) -> bytes:
    return pack(TopologyAnswer(name, tuple(LinkReport(node(each), path, age_s, rtt_us) for each in links)))


async def test_both_ends_of_a_link_are_merged() -> None:
    service, _ = walker({node(2): says("two", 1, rtt_us=1_500, age_s=9)})
    (link,) = (await service.topology())["links"]
    assert link == {"a": str(node(1)), "b": str(node(2)), "path": "lan", "rtt_ms": 1.5, "age_s": 9}
    service, _ = walker({node(2): says("n2", 1, 3), node(3): says("n3", 2, rtt_us=8_000)})
    rows = {(link["a"], link["b"]): link["rtt_ms"] for link in (await service.topology())["links"]}
    assert rows == {(str(node(1)), str(node(2))): 2.0, (str(node(2)), str(node(3))): 8.0}


async def test_links_that_the_walk_itself_made_are_left_out() -> None:
    service, _ = walker({node(2): says("two", 1, 3), node(3): says("three", 2, 1)})
    assert pairs(await service.topology()) == [("n1", "two", "lan"), ("three", "two", "lan")]


async def test_lies_are_bounded_and_odd_words_are_not_shown() -> None:
    config = TopologyConfig(nodes=5, at_once=2, keep_s=0.0)
    crowd = says("liar", *range(2, 400), path="\x1b[2J")
    service, port = walker({node(each): crowd for each in range(2, 400)}, config)
    picture = await service.topology()
    assert len(port.asked) == 5
    assert port.most <= 2
    assert len(picture["nodes"]) <= 20
    assert len(picture["links"]) <= 80
    assert picture["partial"]
    assert {link["path"] for link in picture["links"]} <= {"lan", "direct"}
    assert not any(link["a"] == link["b"] for link in picture["links"])


@pytest.mark.parametrize("answer", [None, b"", b"\xff", pack(LinkReport(node(1), "lan", 1))])
async def test_nonsense_is_no_answer(answer: bytes | None) -> None:
    service, _ = walker({node(2): answer})
    picture = await service.topology()
    assert picture["partial"]
    assert [row["name"] for row in picture["nodes"]] == ["n1", "n2"]


async def test_the_walk_ends_in_time() -> None:
    service, port = walker({node(2): says("two", 3)}, TopologyConfig(walk_s=0.0, keep_s=0.0))
    assert (await service.topology())["partial"]
    assert len(port.asked) <= 1


async def test_asking_often_walks_once_in_a_while() -> None:
    service, port = walker({node(2): says("two", 1)}, TopologyConfig(keep_s=60.0))
    first = await service.topology()
    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(service.topology)
    assert await service.topology() == first
    assert len(port.asked) == 1


async def test_an_answer_is_one_frame_that_others_can_read() -> None:
    service, _ = walker({})
    stream = FakeStream(None)
    await service.serve(stream)  # type: ignore[arg-type]
    assert unpack_untrusted(TopologyAnswer, stream.sent[0]) == TopologyAnswer(
        "n1", (LinkReport(node(2), "lan", 7, 2_000),)
    )
    largest = says("n" * limits.NAME_CHARS, *range(LINKS_MOST), rtt_us=2**40, age_s=2**40)
    assert len(largest) < limits.MESSAGE_BYTES
    assert len(unpack_untrusted(TopologyAnswer, largest).links) == LINKS_MOST
