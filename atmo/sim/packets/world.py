"""Nodes as a machine runs them, without an HTTP face, on virtual UDP."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

import trio
from blake3 import blake3
from trio.testing import MockClock

from atmo.config.settings import Settings
from atmo.errors import leaf_error
from atmo.identity import NodeId, Signer
from atmo.net.driver import PeerDriver
from atmo.net.quic import Endpoint, open_endpoint
from atmo.node.offline import OpenHome, Services, build_host, open_home, open_services
from atmo.services.host import MeshHost
from atmo.sim.network import Network
from atmo.sim.packets.clock import move_time
from atmo.sim.packets.network import PacketNetwork
from atmo.sim.world import WALL_S
from atmo.storage.decisions import TrustPolicy

T = TypeVar("T")

PORT = 11_450
NODES_MOST = 50
"""More take more than a process has time for. Source: measured, docs/SIMULATION.md."""


@dataclass(eq=False)
class PacketNode:
    """One machine; its parts are there from when it was started until it stops.

    Attributes:
        name: For people.
        signer: Its key.
        host_name: Its IP address.
        stopping: Set when it shall say goodbye and end.
        scope: Its end is the node's, without goodbyes.
        ended: Set when it runs no more.
    """

    name: str
    signer: Signer
    host_name: str
    stopping: trio.Event = field(default_factory=trio.Event)
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    ended: trio.Event = field(default_factory=trio.Event)
    _parts: tuple[Services, MeshHost, Endpoint] | None = None

    def __repr__(self) -> str:
        return f"<PacketNode {self.name}>"

    @property
    def id(self) -> NodeId:
        """Its node id."""
        return self.signer.node_id

    @property
    def services(self) -> Services:
        """What a person can ask of it."""
        return self._running()[0]

    @property
    def driver(self) -> PeerDriver:
        """Its peer's shell; it must belong to a mesh."""
        port = self._running()[1].port
        assert isinstance(port, PeerDriver), f"{self.name} belongs to no mesh"
        return port

    @property
    def endpoint(self) -> Endpoint:
        """Its QUIC endpoint."""
        return self._running()[2]

    def knows(self) -> set[str]:
        """Returns the names of the members that it knows, its own among them."""
        return {row["name"] for row in self.services.mesh.nodes()}

    def faults(self) -> int:
        """Returns how often it found that another node broke the protocol, and how often aioquic failed inside."""
        _, host, endpoint = self._running()
        blamed = host.port.stats.misbehaved if isinstance(host.port, PeerDriver) else 0
        return blamed + endpoint.stats.internal_errors

    def begin(self, services: Services, host: MeshHost, endpoint: Endpoint) -> None:
        """It runs now."""
        self._parts = (services, host, endpoint)

    def _running(self) -> tuple[Services, MeshHost, Endpoint]:
        assert self._parts is not None, f"{self.name} does not run"
        return self._parts


class PacketWorld:
    """Machines, their network, their time.

    Args:
        seed: Of the machines' keys.
        rules: Of the network.
        folder: Where their homes are.
        nursery: In which they run.

    Attributes:
        nodes: Those that were started last under each name, running or not.
        network: Carries datagrams.
        limiters: Of the threads of all machines.
    """

    def __init__(self, seed: str, rules: Network, folder: Path, nursery: trio.Nursery) -> None:
        self.seed = seed
        self.nodes: dict[str, PacketNode] = {}
        self.network = PacketNetwork(rules)
        self.limiters: list[trio.CapacityLimiter] = []
        self._folder = folder
        self._nursery = nursery
        self._addresses: dict[str, str] = {}

    def wall(self) -> float:
        """Reads the wall clock of all machines."""
        return WALL_S + trio.current_time()

    def node_id(self, name: str) -> NodeId:
        """Returns the id that a machine of this name has or will have, for rules that tell machines apart."""
        return self._signer(name).node_id

    async def start(self, name: str) -> PacketNode:
        """Turns a machine on; one that was on before has its home still."""
        count = len(self._addresses) + 1
        address = self._addresses.setdefault(name, f"10.0.{count >> 8}.{count & 255}")
        node = PacketNode(name, self._signer(name), address)
        await self._nursery.start(self._run, node)
        self.nodes[name] = node
        return node

    async def stop(self, node: PacketNode) -> None:
        """Turns a machine off after its goodbyes."""
        node.stopping.set()
        await node.ended.wait()

    async def kill(self, node: PacketNode) -> None:
        """Turns a machine off without a word to anybody."""
        self.network.unplug(node.id)
        node.scope.cancel()
        await node.ended.wait()

    async def until(self, condition: Callable[[], object], most_s: float, what: str, step_s: float = 0.02) -> float:
        """Lets virtual time pass until a condition holds, looking every `step_s`; returns how long it took.

        Raises:
            TimeoutError: It does not hold after `most_s`.
        """
        began = trio.current_time()
        while not condition():
            if trio.current_time() - began > most_s:
                raise TimeoutError(f"not within {most_s:g} virtual seconds: {what}")
            await trio.sleep(step_s)
        return trio.current_time() - began

    def _signer(self, name: str) -> Signer:
        return Signer(blake3(f"{self.seed}/{name}/key".encode()).digest())

    async def _run(  # noqa: ASYNC128 - `_serve` tells the status
        self, node: PacketNode, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        try:
            with node.scope, ExitStack() as stack:
                opened = replace(open_home(stack, self._folder / node.name, 0.0), signer=node.signer)
                await self._serve(node, opened, task_status)
        finally:
            node.ended.set()

    async def _serve(self, node: PacketNode, opened: OpenHome, task_status: trio.TaskStatus[None]) -> None:
        settings = Settings(node.name, trust=TrustPolicy(first_time="allow"))
        plug = partial(self.network.open, node.id)
        async with (
            open_endpoint(opened.signer, node.host_name, PORT, open_socket=plug) as endpoint,
            trio.open_nursery() as nursery,
        ):
            host = build_host(opened, settings, endpoint, nursery, wall=self.wall)
            async with open_services(opened, settings, host) as services:
                node.begin(services, host, endpoint)
                self.limiters += services.models.threads
                task_status.started()
                await node.stopping.wait()
            nursery.cancel_scope.cancel()


def run_packets(
    body: Callable[[PacketWorld], Awaitable[T]], rules: Network | None = None, seed: str = "1", most_s: float = 3_600.0
) -> T:
    """Builds a packet world, plays `body` in it, and turns everything off. Not from within another trio run.

    Args:
        body: What happens.
        rules: Of the network; without any, datagrams arrive at once.
        seed: Of the machines' keys.
        most_s: Virtual seconds after which a run is given up.

    Raises:
        TooSlowError: It took longer.
    """
    clock = MockClock()

    async def main() -> T:
        async with trio.open_nursery() as outer:  # time passes until everything has ended
            with TemporaryDirectory(prefix="atmo-packets-") as folder, trio.fail_after(most_s):
                async with trio.open_nursery() as nursery:
                    world = PacketWorld(seed, rules or Network(), Path(folder), nursery)
                    outer.start_soon(move_time, clock, world.network, world.limiters)
                    result = await body(world)
                    for node in world.nodes.values():
                        node.scope.cancel()
            outer.cancel_scope.cancel()
        return result

    try:
        return trio.run(main, clock=clock)
    except BaseExceptionGroup as group:
        raise leaf_error(group) from group
