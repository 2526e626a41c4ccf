"""A new model reaches every node that a rule names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from atmo.sim.bandwidth import CABLE, DSL, FIBRE, MOBILE
from atmo.sim.checks import SAFETY, watch_safety
from atmo.sim.fetching import MIB, Fetching
from atmo.sim.machine import Node
from atmo.sim.malice import BadChunks
from atmo.sim.report import percentile
from atmo.sim.scenario import Promise, Scenario, Stage
from atmo.sim.spread import model


@dataclass(frozen=True, kw_only=True)
class ModelRollout(Scenario):
    """One node publishes a model; the nodes with a role fetch it when they hear of it, over unequal lines.

    Attributes:
        duration_s: By then all have it.
        named: Share of nodes that the rule names, by their role `camera`.
        model_mib: Size of the model.
        settle_s: After the last join.
        restarts: Named nodes that lose power in the middle of it and come back.
        bad: Nodes that say they have the model and serve chunks that are something else.
    """

    duration_s: float = 600.0
    loss: float = 0.01
    named: float = 0.5
    model_mib: int = 2
    settle_s: float = 30.0
    restarts: int = 3
    bad: int = 2

    name: ClassVar = "model-rollout"
    summary: ClassVar = "a new model reaches every node that a rule names"
    promise: ClassVar = Promise(
        safety=SAFETY | {"nobody_else_fetches": "only nodes that the rule names fetch the model"},
        liveness={"all_named_have_it": "every node that the rule names has the whole model"},
        figures={
            "named_nodes": "how many",
            "all_have_it_s": "from publishing until every named node has it",
            "p50_s": "of a named node, from hearing of it until it has it",
            "p95_s": "the same",
            "from_the_publisher": "share of chunks that the publisher sent",
            "wrong_chunks": "chunks that were not what their names say; each was refused",
            "failed_transfers": "transfers that failed and began again",
        },
    )

    def play(self, stage: Stage) -> None:
        world = stage.world
        watch_safety(world)
        nodes = [*stage.add(1), *self._machines(stage)]
        for node in nodes:
            stage.start(node)
            world.run(self.join_gap_s)
        world.run(self.settle_s)
        publisher, named = nodes[0], [node for node in nodes if node.name in self._named(stage)]
        stage.lines.give(publisher.id, FIBRE)
        fetching = Fetching(stage, model("detector", "2.0.0", b"\7" * 32, self.model_mib * MIB))
        world.checks.append(lambda world: self._only_named(stage, fetching))
        stage.on_start.append(lambda node: self._restarted(stage, fetching, node))
        began = world.loop.now
        fetching.seed(publisher)
        for node in stage.streams.shared("bad").sample(named, min(self.bad, len(named) // 4)):
            node.malice = BadChunks()
            named.remove(node)
            fetching.seed(node)
        world.ticks.append(lambda world: stage.sample("nodes that have the model", len(fetching.had_at)))
        self._hear(stage, fetching, named)
        self._restart(stage, named)
        took = stage.within(
            "all_named_have_it",
            lambda: all(node.name in fetching.had_at for node in named),
            self.duration_s,
            "all named nodes have the model",
        )
        del took
        self._figures(stage, fetching, publisher, began, len(named))

    def _machines(self, stage: Stage) -> list[Node]:
        rng = stage.streams.shared("lines")
        machines = []
        for number in range(1, self.nodes):
            roles = ("edge", "camera") if number / self.nodes <= self.named else ("edge",)
            machines += stage.add(1, roles)
            stage.lines.give(machines[-1].id, rng.choice((FIBRE, CABLE, DSL, MOBILE)))
        return machines

    def _named(self, stage: Stage) -> dict[str, None]:
        names: dict[str, None] = {}
        for number, name in enumerate(stage.world.nodes):
            if number and number / self.nodes <= self.named:
                names[name] = None
        return names

    def _hear(self, stage: Stage, fetching: Fetching, named: list[Node]) -> None:
        """Every named node looks once in a while whether there is a model for it."""

        def look() -> None:
            for node in named:
                if node.peer is not None and node.name not in fetching.wanted_at:
                    offers = node.peer.models(stage.world.now(node))
                    if any(offer.record.manifest == fetching.record.manifest for offer in offers):
                        fetching.want(node)
            if len(fetching.had_at) < self.nodes:
                stage.world.later(stage.world.loop.now + 0.5, look)

        look()

    def _restart(self, stage: Stage, named: list[Node]) -> None:
        rng, world = stage.streams.shared("restarts"), stage.world
        for node in rng.sample(named, min(self.restarts, len(named))):
            world.later(world.loop.now + rng.uniform(1.0, 10.0), lambda node=node: world.crash(node))  # type: ignore[misc]
            world.later(world.loop.now + rng.uniform(20.0, 40.0), lambda node=node: stage.start(node, knows=0))  # type: ignore[misc]

    @staticmethod
    def _restarted(stage: Stage, fetching: Fetching, node: Node) -> None:
        if node.name in fetching.had_at:
            stage.world.command(node, lambda peer, now: peer.publish_models(now, [fetching.record]))
        elif node.name in fetching.wanted_at:
            stage.world.later(stage.world.loop.now + 1.0, lambda: fetching.want(node))

    def _only_named(self, stage: Stage, fetching: Fetching) -> None:
        named = self._named(stage)
        for name in fetching.wanted_at:
            if name not in named:
                stage.check("nobody_else_fetches", False, f"{name} fetches the model", name)

    def _figures(self, stage: Stage, fetching: Fetching, publisher: Node, began: float, named: int) -> None:
        chunks, seconds = stage.world.chunks.stats, fetching.seconds()
        stage.figure("named_nodes", named)
        stage.figure("all_have_it_s", max(fetching.had_at.values()) - began)
        stage.figure("p50_s", percentile(seconds, 50))
        stage.figure("p95_s", percentile(seconds, 95))
        stage.figure("from_the_publisher", chunks.served.get(publisher.id, 0) / max(1, sum(chunks.served.values())))
        stage.figure("wrong_chunks", chunks.wrong)
        stage.figure("failed_transfers", fetching.failures)
