"""A model from one seed to everybody at once, some of whom serve garbage, lose power or leave."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from atmo.sim.bandwidth import Line
from atmo.sim.checks import SAFETY, watch_safety
from atmo.sim.cities import RTT_MS
from atmo.sim.fetching import MIB, Fetching
from atmo.sim.machine import Node
from atmo.sim.malice import BadChunks
from atmo.sim.report import percentile
from atmo.sim.scenario import Promise, Scenario, Stage
from atmo.sim.spread import model

ROUND_TRIPS = 4
"""Before the first chunk: a dial, the Hello of both sides, the hello of the swarm, the request."""


@dataclass(frozen=True, kw_only=True)
class ModelSwarm(Scenario):
    """All nodes but one want a model within a second; chunks are passed on as they come.

    Attributes:
        nodes: The seed and all others.
        duration_s: By then all have it, whatever the optimum is.
        model_mib: Size of the model.
        line_mb_s: Megabytes per second of every line, in each direction; 12.5 are 100 Mbit/s.
        settle_s: After the last join.
        spread_s: All begin within this.
        bad: Share of nodes that serve garbage.
        restarts: Share of nodes that lose power on the way and come back within three seconds, with their disks.
        leavers: Share of nodes that go in the middle and do not come back.
        most: How many times the optimum it may take.
    """

    nodes: int = 501
    duration_s: float = 600.0
    model_mib: int = 256
    line_mb_s: float = 12.5
    settle_s: float = 30.0
    spread_s: float = 1.0
    bad: float = 0.05
    restarts: float = 0.04
    leavers: float = 0.04
    most: float = 1.5

    name: ClassVar = "model-swarm"
    summary: ClassVar = "500 nodes pass a model from one seed on, through garbage and churn"
    promise: ClassVar = Promise(
        safety=SAFETY,
        liveness={
            "all_have_it": "every node that serves no garbage and stays has the whole model",
            "in_time": "within 1.5 times the optimum",
            "no_corrupt_chunk_is_kept": "whoever has the model has each of its chunks, verified",
        },
        figures={
            "all_have_it_s": "from the first that wants it until the last has it, less what that one was off",
            "optimum_s": "model / least of the seed's uplink, a downlink, and all uplinks / nodes; and joining",
            "times_optimum": "the one by the other",
            "times_one_copy": "the same by what the seed's line takes to send one copy",
            "p50_s": "of one node",
            "p95_s": "of one node",
            "seed_copies": "copies that the seed sent",
            "wrong_chunks": "chunks that were not what their names say; each was refused",
            "wasted_share": "share of chunks that arrived where they were already, or were wrong",
            "refused_requests": "requests for which there was no slot",
            "messages_per_chunk": "messages of swarms for each chunk that arrived",
            "failed_transfers": "transfers that failed and began again",
        },
    )

    def play(self, stage: Stage) -> None:
        world = stage.world
        watch_safety(world)
        nodes = stage.build()
        for node in nodes:
            stage.lines.give(node.id, Line(self.line_mb_s * 1e6, self.line_mb_s * 1e6))
        world.run(self.settle_s)
        seed = nodes[0]
        fetching = Fetching(stage, model("popular", "1.0.0", b"\6" * 32, self.model_mib * MIB))
        fetching.seed(seed)
        stage.on_start.append(lambda node: self._restarted(stage, fetching, node))
        world.run(10.0)
        liars, leavers, off_s = self._troubles(stage, nodes[1:])
        come, began = stage.streams.shared("crowd"), world.loop.now
        for node in nodes[1:]:
            world.later(began + come.random() * self.spread_s, lambda node=node: fetching.want(node))  # type: ignore[misc]
        world.ticks.append(lambda world: stage.sample("nodes that have the model", len(fetching.had_at)))
        counted = [node for node in nodes if node.name not in liars and node.name not in leavers]
        stage.within(
            "all_have_it",
            lambda: all(node.name in fetching.had_at for node in counted),
            self.duration_s,
            "everyone who stays has the model",
        )
        took = (
            max(fetching.had_at.get(node.name, world.loop.now) - off_s.get(node.name, 0.0) for node in counted) - began
        )
        self._figures(stage, fetching, took, len(nodes) - 1, len(liars))

    def _troubles(self, stage: Stage, nodes: list[Node]) -> tuple[dict[str, None], dict[str, None], dict[str, float]]:
        """Chooses who serves garbage, who leaves, and who loses power and for how long; returns them."""
        rng, world, began = stage.streams.shared("troubles"), stage.world, stage.world.loop.now
        lasts_s = self.spread_s + self.model_mib * MIB / (self.line_mb_s * 1e6)
        counts = [round(share * len(nodes)) for share in (self.bad, self.leavers, self.restarts)]
        chosen = rng.sample(nodes, sum(counts))
        bad, rest = chosen[: counts[0]], chosen[counts[0] :]
        for node in bad:
            node.malice = BadChunks()
        off_s: dict[str, float] = {}
        for node in rest:
            at = began + rng.uniform(0.1, 0.8) * lasts_s
            world.later(at, lambda node=node: world.crash(node))  # type: ignore[misc]
            if node not in rest[: counts[1]]:
                off_s[node.name] = rng.uniform(1.0, 3.0)
                world.later(at + off_s[node.name], lambda node=node: stage.start(node))  # type: ignore[misc]
        leavers = {node.name: None for node in rest[: counts[1]]}
        return {node.name: None for node in bad}, leavers, off_s

    @staticmethod
    def _restarted(stage: Stage, fetching: Fetching, node: Node) -> None:
        if node.name in fetching.had_at:
            fetching.again(node)
        else:
            stage.world.later(stage.world.loop.now + 0.5, lambda: fetching.want(node))

    def optimum_s(self, nodes: int, liars: int) -> float:
        """Returns the least time in which so many nodes could have the model, of which some pass nothing on.

        It is max(F / u_seed, F / d_least, N F / sum(u)) as of Kumar and Ross, "Peer-assisted file distribution: the
        minimum distribution time" (2006), and what joining takes: all have begun after `spread_s`, and the last one
        needs some of the longest round trips before its first chunk.
        """
        size, line = self.model_mib * MIB, self.line_mb_s * 1e6
        together = nodes * size / (line * (1 + nodes - liars))
        return max(size / line, together) + self.spread_s + ROUND_TRIPS * max(map(max, RTT_MS)) / 1_000

    def _figures(self, stage: Stage, fetching: Fetching, took: float, nodes: int, liars: int) -> None:
        world, chunks, seconds = stage.world, stage.world.chunks.stats, fetching.seconds()
        optimum = self.optimum_s(nodes, liars)
        stage.check("in_time", took <= self.most * optimum, f"{took:.1f} s, {took / optimum:.2f} times the optimum")
        lacking = [
            name for name in fetching.had_at if name != stage.founder.name and fetching.lacks(stage.world.nodes[name])
        ]
        stage.check("no_corrupt_chunk_is_kept", not lacking, "a model without all its chunks", *lacking)
        served = chunks.served
        arrived = sum(served.values()) + chunks.wrong
        messages = sum(count for kind, (count, _) in world.stats.by_kind.items() if kind.startswith("Swarm"))
        stage.figure("all_have_it_s", took)
        stage.figure("optimum_s", optimum)
        stage.figure("times_optimum", took / optimum)
        stage.figure("times_one_copy", took / (self.model_mib * MIB / (self.line_mb_s * 1e6)))
        stage.figure("p50_s", percentile(seconds, 50))
        stage.figure("p95_s", percentile(seconds, 95))
        stage.figure("seed_copies", served.get(stage.founder.id, 0) / len(fetching.sizes))
        stage.figure("wrong_chunks", chunks.wrong)
        stage.figure("wasted_share", (chunks.wrong + chunks.twice) / max(1, arrived))
        stage.figure("refused_requests", chunks.refused)
        stage.figure("messages_per_chunk", messages / max(1, arrived))
        stage.figure("failed_transfers", fetching.failures)

    def length_s(self) -> float:
        return self.nodes * self.join_gap_s + self.settle_s + 10.0 + 2 * self.optimum_s(self.nodes - 1, 0)
