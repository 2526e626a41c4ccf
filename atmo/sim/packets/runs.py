"""What the packet world proves: join, download, relay, path change. Each run returns what it saw, or raises."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import trio

from atmo.net.link import Link
from atmo.sim.packets.world import PacketNode, PacketWorld

MIB = 2**20
MODEL = "weights"


@dataclass(frozen=True, slots=True)
class Joined:
    """A mesh was built.

    Attributes:
        nodes: The founder first.
        known_s: Virtual seconds from the first code until everyone knew everyone.
    """

    nodes: tuple[PacketNode, ...]
    known_s: float


@dataclass(frozen=True, slots=True)
class Fetched:
    """A model was downloaded.

    Attributes:
        right: Whether the file is the very file, byte for byte.
        took_s: Virtual seconds.
        chunks: That each node sent, by name.
    """

    right: bool
    took_s: float
    chunks: dict[str, int]


@dataclass(frozen=True, slots=True)
class Relayed:
    """Two nodes talked through others.

    Attributes:
        fetched: What one of them took from the other.
        path: The kind of path between them.
        datagrams: That the node in between carried, of which it could read none.
    """

    fetched: Fetched
    path: str
    datagrams: int


@dataclass(frozen=True, slots=True)
class Moved:
    """An address changed in the middle of a download.

    Attributes:
        fetched: The download.
        same_connection: Whether the link outlived the change; otherwise it was dialled anew.
        follows: Whether the other end sends to the new address now.
    """

    fetched: Fetched
    same_connection: bool
    follows: bool


async def join(world: PacketWorld, count: int, most_s: float = 60.0) -> Joined:
    """Founds a mesh; everyone else redeems a join code at once, over the network, until everyone knows everyone."""
    nodes = [await world.start(f"n{number}") for number in range(count)]
    began = trio.current_time()
    await found_and_join(nodes)
    names = {node.name for node in nodes}
    await world.until(lambda: all(node.knows() == names for node in nodes), most_s, "everyone knows everyone", 0.1)
    return Joined(tuple(nodes), trio.current_time() - began)


async def found_and_join(nodes: Sequence[PacketNode]) -> None:
    """Lets the first node found a mesh and all others redeem codes of it at once."""
    founder = nodes[0].services.mesh
    await founder.create("packets")
    codes = [(node, (await founder.invite())["code"]) for node in nodes[1:]]
    async with trio.open_nursery() as nursery:
        for node, code in codes:
            nursery.start_soon(node.services.mesh.join, code)


BOTH_MIB = 16
"""The least model of which both of two holders send something: the first one may be asked for all of a smaller one."""


async def download(world: PacketWorld, mib: int = BOTH_MIB, most_s: float = 120.0) -> Fetched:
    """Pulls a model from two holders, of which one dies after its first chunks."""
    anna, bert, cleo = [await world.start(name) for name in ("anna", "bert", "cleo")]
    await found_and_join([anna, bert, cleo])
    digest = await give_model(world, mib, anna, bert)
    async with trio.open_nursery() as nursery:

        async def die() -> None:
            await world.until(lambda: sent(bert) >= 1, most_s, "bert sends a chunk")
            await world.kill(bert)

        nursery.start_soon(die)
        fetched = await _pull(world, cleo, digest, (anna, bert), most_s)
    return fetched  # noqa: RET504 - not from within the nursery


async def relay(world: PacketWorld, mib: int = 1, most_s: float = 120.0) -> Relayed:
    """Pulls a model from a node that can only be reached through a third; the rules must keep `anna` from `bert`."""
    cleo, anna, bert = [await world.start(name) for name in ("cleo", "anna", "bert")]
    await found_and_join([cleo, anna, bert])
    digest = await give_model(world, mib, anna)
    await world.until(lambda: bert.services.models.rows("mesh"), most_s, "bert hears of the model")
    fetched = await _pull(world, bert, digest, (anna, cleo), most_s)
    link = bert.driver.links.get(anna.id)
    return Relayed(fetched, link.path if link else "", cleo.driver.forwarder.carried.carried)


async def path_change(world: PacketWorld, moves: str, mib: int = 4, most_s: float = 120.0) -> Moved:
    """Pulls a model of `anna` to `bert`; one of them gets a new external port in the middle of it.

    Args:
        world: Empty.
        moves: `reader` for the node that pulls, which dialled the other; `holder` for the other one.
        mib: The size of the model.
        most_s: Virtual seconds.
    """
    anna, bert = [await world.start(name) for name in ("anna", "bert")]
    await found_and_join([anna, bert])
    await world.until(lambda: _ready(bert, anna) and _ready(anna, bert), most_s, "anna and bert are linked")
    digest = await give_model(world, mib, anna)
    before = _ready(bert, anna)
    assert before is not None
    assert before.connection.outbound, "who joins dials"
    mover, other = (bert, anna) if moves == "reader" else (anna, bert)
    async with trio.open_nursery() as nursery:

        async def move() -> None:
            await world.until(lambda: sent(anna) >= 1, most_s, "anna sends a chunk")
            world.network.rebind(mover.id)

        nursery.start_soon(move)
        fetched = await _pull(world, bert, digest, (anna,), most_s)
    here, there = _ready(bert, anna), _ready(other, mover)
    same = here is not None and here.connection is before.connection
    new = world.network.address(mover.id)
    return Moved(
        fetched, same, there is not None and (there.connection.remote.host, there.connection.remote.port) == new
    )


async def give_model(world: PacketWorld, mib: int, *holders: PacketNode) -> str:
    """Imports a file of random numbers at some nodes, until all of the mesh know; returns its SHA-256."""
    size = mib * MIB
    header = json.dumps({"w": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
    content = len(header).to_bytes(8, "little") + header + random.Random(world.seed).randbytes(size)
    with TemporaryDirectory(prefix="atmo-packets-") as folder:
        path = Path(folder) / f"{MODEL}.safetensors"
        path.write_bytes(content)
        for holder in holders:
            await holder.services.models.import_model(path, name=MODEL, version="1.0")
    wanted = {holder.name for holder in holders}

    def all_know() -> bool:
        alive = [node for node in world.nodes.values() if not node.ended.is_set()]
        return all(
            {name for row in node.services.models.rows("mesh") for name in row.nodes} == wanted for node in alive
        )

    await world.until(all_know, 60.0, "everyone knows who has the model")
    return hashlib.sha256(content).hexdigest()


def sent(node: PacketNode) -> int:
    """Returns how many chunks a node has sent."""
    return node.services.models.server.stats.chunks


async def _pull(
    world: PacketWorld, reader: PacketNode, digest: str, holders: Sequence[PacketNode], most_s: float
) -> Fetched:
    began = trio.current_time()
    with trio.fail_after(most_s):
        await reader.services.models.pull(MODEL)
    took_s = trio.current_time() - began
    (model,) = reader.services.models.local_models()
    right = hashlib.sha256(model.path.read_bytes()).hexdigest() == digest
    return Fetched(right, took_s, {holder.name: sent(holder) for holder in holders})


def _ready(node: PacketNode, other: PacketNode) -> Link | None:
    link = node.driver.links.get(other.id)
    return link if link and link.ready.is_set() and not link.ending else None
