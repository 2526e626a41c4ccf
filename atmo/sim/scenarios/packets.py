"""The node itself, aioquic included, over virtual UDP (`sim.packets`)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, TypeVar

import trio

from atmo.errors import AtmoError, UserError
from atmo.sim.nat import SYMMETRIC
from atmo.sim.scenario import Promise, Scenario, Stage

if TYPE_CHECKING:
    from atmo.sim.packets import runs
    from atmo.sim.packets.world import PacketWorld

T = TypeVar("T")

NODES_MOST = 50
"""Source: measured, a minute of processor time for the join of so many, most of it handshakes."""


@dataclass(frozen=True, kw_only=True)
class Packets(Scenario):
    """Machines join by codes; a download outlives a holder; two talk through a third; an address changes.

    Each act has a world of its own. What happens is not the same twice to the bit, so that the digest says nothing:
    the checks do.

    Attributes:
        nodes: Machines that join; the other acts have two or three.
        mib: The size of models.
        most_s: Virtual seconds that an act may take.
    """

    nodes: int = 8
    mib: int = 4
    most_s: float = 300.0

    name: ClassVar = "packets"
    summary: ClassVar = "real nodes over virtual UDP: join, download, relay, change of address"
    node_kib: ClassVar[int] = 16 * 1024
    promise: ClassVar = Promise(
        safety={"nobody_is_blamed": "no machine finds that another broke the protocol, and aioquic never fails inside"},
        liveness={
            "joined": "every machine redeemed a join code, and everyone knows everyone",
            "downloaded": "a model came whole although one of its two holders died in the middle",
            "relayed": "a model came whole from a machine that could only be reached through another",
            "reader_moved": "a download outlived a new port of the machine that dialled, on the same connection",
            "holder_moved": "a download outlived a new port of the machine that was dialled, on the same connection",
        },
        figures={
            "known_s": "from the codes until everyone knew everyone",
            "download_s": "for a model of which one of two holders died",
            "relay_s": "for a model that came through another machine",
            "reader_moved_s": "for a model whose reader got another port",
            "holder_moved_s": "for a model whose holder got another port",
        },
    )

    def __post_init__(self) -> None:
        if self.nodes > NODES_MOST:
            raise UserError(f"The scenario packets runs whole nodes: {NODES_MOST} at most.")

    def length_s(self) -> float:
        return 30.0

    def play(self, stage: Stage) -> None:
        from atmo.sim.packets import runs

        joined = self._act(stage, "joined", lambda world: runs.join(world, self.nodes, self.most_s))
        if joined is not None:
            stage.check("joined", True, "")
            stage.figure("known_s", joined.known_s)
        fetched = self._act(
            stage, "downloaded", lambda world: runs.download(world, max(self.mib, runs.BOTH_MIB), self.most_s)
        )
        if fetched is not None:
            stage.check("downloaded", fetched.right, "the file is another one")
            stage.figure("download_s", fetched.took_s)
        relayed = self._act(stage, "relayed", lambda world: self._relay(stage, world))
        if relayed is not None:
            right = relayed.fetched.right and relayed.path == "forward"
            stage.check("relayed", right, f"the file is another one, or its way is {relayed.path!r}")
            stage.figure("relay_s", relayed.fetched.took_s)
        for who in ("reader", "holder"):
            self._move(stage, who)

    async def _relay(self, stage: Stage, world: PacketWorld) -> runs.Relayed:
        from atmo.sim.packets import runs

        for name in ("anna", "bert"):
            stage.nats.give(world.node_id(name), SYMMETRIC)
        return await runs.relay(world, max(1, self.mib // 4), self.most_s)

    def _move(self, stage: Stage, who: str) -> None:
        from atmo.sim.packets import runs

        moved = self._act(stage, f"{who}_moved", lambda world: runs.path_change(world, who, self.mib, self.most_s))
        if moved is not None:
            right = moved.fetched.right and moved.follows and moved.same_connection
            stage.check(f"{who}_moved", right, f"{moved}")
            stage.figure(f"{who}_moved_s", moved.fetched.took_s)

    def _act(self, stage: Stage, check: str, body: Callable[[PacketWorld], Awaitable[T]]) -> T | None:
        """Plays one act in a world of its own; the stage's clock goes on by as much."""
        from atmo.sim.packets.world import run_packets

        took_s = 0.0

        async def timed(world: PacketWorld) -> T:
            nonlocal took_s
            try:
                return await body(world)
            finally:
                took_s = trio.current_time()
                stage.sample("datagrams sent", world.network.stats.sent)
                blamed = [node.name for node in world.nodes.values() if node.faults()]
                stage.check("nobody_is_blamed", not blamed, f"a fault was found while {check} was played", *blamed)

        try:
            return run_packets(timed, stage.world.network, f"{self.seed}/{check}")
        except (AtmoError, TimeoutError, trio.TooSlowError) as error:
            stage.check(check, False, str(error) or type(error).__name__)
            return None
        finally:
            stage.world.run(took_s)
