"""How both ends of a link tell each other of paths, and what a liar gets out of it."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from atmo.errors import RemoteError
from atmo.net.connection import Connection
from atmo.net.pathfinder import PATHS, Pathfinder
from atmo.net.requests import open_request, serve_requests
from atmo.reach.config import PathsConfig
from atmo.wire import codec
from atmo.wire.address import Address
from tests.net.loopback import DEADLINE_S, until
from tests.net.pair import BOB
from tests.net.test_steering import Both, both

GOOD = {"session": b"s" * 8, "secret": b"k" * 32, "addresses": []}


class Ends:
    """A connection over a virtual path, with a pathfinder at each end."""

    def __init__(self, world: Both, near: Connection, far: Connection) -> None:
        self.world, self.near, self.far = world, near, far
        self.one = Pathfinder(world.one, lambda: (world.one.local_address,))
        self.two = Pathfinder(world.two, lambda: (world.two.local_address,))
        self.bad: list[str] = []
        self.ending = False
        self.needed = True

    @property
    def connection(self) -> Connection:
        return self.near

    async def serve(self, answer: Any = None) -> None:
        async def respond(stream: Any) -> None:
            if answer is None:
                await self.two.serve(self.far, stream)
            elif answer:
                await stream.send(answer)

        await serve_requests(self.far, lambda protocol: respond if protocol == PATHS else None, self.bad.append)


async def ask(connection: Connection, header: dict[str, Any]) -> None:
    """Asks with a header, and fails where that is answered."""
    async with open_request(connection, PATHS, header, DEADLINE_S) as stream:
        assert await stream.receive() is None


async def connect(world: Both) -> Ends:
    near = await world.one.dial(world.wire.ends[0], BOB.node_id, DEADLINE_S)
    return Ends(world, near, await world.two.accept())


async def test_two_ends_find_the_better_path_by_asking_once() -> None:
    async with both() as world, trio.open_nursery() as nursery:
        ends = await connect(world)
        nursery.start_soon(ends.serve)
        nursery.start_soon(ends.one.keep, ends)
        await until(lambda: (ends.near.path, ends.far.path) == ("lan", "lan"))
        assert ends.bad == []
        nursery.cancel_scope.cancel()


async def test_they_punch_for_as_long_as_the_path_is_indirect(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("atmo.net.pathfinder.PUNCH_S", (0.05,))
    async with both() as world, trio.open_nursery() as nursery:
        world.cut()
        ends = await connect(world)
        nursery.start_soon(ends.serve)
        nursery.start_soon(ends.one.keep, ends)
        await trio.sleep(0.3)
        assert (ends.near.path, ends.far.path) == ("forward", "forward")
        world.cut(False)
        await until(lambda: (ends.near.path, ends.far.path) == ("lan", "lan"))
        nursery.cancel_scope.cancel()


async def test_it_ends_with_the_link() -> None:
    async with both() as world, trio.open_nursery() as nursery:
        ends = await connect(world)
        nursery.start_soon(ends.serve)
        with trio.fail_after(DEADLINE_S):
            async with trio.open_nursery() as inner:
                inner.start_soon(ends.one.keep, ends)
                await until(lambda: ends.near.steering)
                ends.ending = True
                await ends.near.aclose("done")
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    "answer", [b"", b"\xff", codec.encode({}), codec.encode({**GOOD, "secret": b"short"})], ids=lambda each: each.hex()
)
async def test_an_end_that_answers_nonsense_gets_no_paths_and_the_link_stays(answer: bytes) -> None:
    async with both() as world, trio.open_nursery() as nursery:
        ends = await connect(world)
        nursery.start_soon(ends.serve, answer)
        with trio.fail_after(DEADLINE_S):
            await ends.one.keep(ends)
        assert ends.near.steering is None
        assert not ends.near.closed.is_set()
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    "header",
    [
        {},
        {**GOOD, "session": b"short"},
        {**GOOD, "session": b"s" * 9},
        {**GOOD, "addresses": [{"host": "nowhere", "port": 1}]},
        {**GOOD, "addresses": [{"host": "192.0.2.1", "port": port} for port in range(1, 10)]},
    ],
)
async def test_a_header_that_is_none_is_told_and_counts(header: dict[str, Any]) -> None:
    async with both() as world, trio.open_nursery() as nursery:
        ends = await connect(world)
        nursery.start_soon(ends.serve)
        with pytest.raises(RemoteError):
            await ask(ends.near, header)
        await until(lambda: len(ends.bad) == 1)
        assert ends.far.steering is None
        nursery.cancel_scope.cancel()


async def test_who_tells_of_ever_new_addresses_has_few_probes_sent() -> None:
    async with both() as world, trio.open_nursery() as nursery:
        ends = await connect(world)
        nursery.start_soon(ends.serve)
        began = trio.current_time()
        for number in range(20):
            told = [{"host": "127.0.0.1", "port": 1_000 + 8 * number + each} for each in range(8)]
            header = {**GOOD, "addresses": told, "punch": True}
            async with open_request(ends.near, PATHS, header, DEADLINE_S) as stream:
                await stream.receive()
        steering = ends.far.steering
        assert steering is not None
        config = PathsConfig()
        took = trio.current_time() - began
        bursts = config.learns + took / config.learn_s + (1 + took / config.punch_s) * config.places
        assert world.two.stats.datagrams_out <= bursts * (1 + len(config.burst_s))
        assert len(steering.paths.all()) <= config.places
        nursery.cancel_scope.cancel()


async def test_nobody_has_probes_sent_to_a_broadcast_address() -> None:
    async with both() as world:
        near, far = await world.connect()
        addresses = [Address(host, 9) for host in ("255.255.255.255", "224.0.0.1", "0.0.0.0")]
        steering = world.one.probing.begin(near, world.two.probing.offer(far), addresses)
        assert len(steering.paths.all()) == 1
