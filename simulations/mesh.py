"""A mesh of tens of nodes through its life: joining one by one, an advert, a partition, a revocation, a crash.

Run it with `python -m simulations.mesh --nodes 30 --seed 7`.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from atmo.clock import Now
from atmo.gossip.records import NODE, ModelRecord
from atmo.sim.network import Latency, Loss, Network, Partition
from atmo.sim.streams import Streams
from atmo.sim.world import CheckFailed, Node, World


@dataclass(frozen=True, slots=True)
class MeshScenario:
    """What happens, and within which time it has to be over.

    Attributes:
        nodes: Machines; the first founds the mesh and lets the others in.
        seed: Of everything random.
        join_gap_s: Between two machines that join.
        latency_least_s, latency_most_s, jitter_s: One-way delays.
        loss: Share of packets lost; links send them again.
        skew_s: Wall clocks differ by up to this much.
        partition_s: How long two halves do not see each other.
        linked_s: Within this after the last change all live members of a side are linked.
        spread_s: Within this an advert or a revocation has reached everyone.
        heal_s: Within this after a partition everyone is linked and every table is equal.
        silent_s: Within this the adverts of a crashed node are gone.
        encode: Whether messages go through the codec.
    """

    nodes: int = 30
    seed: str = "1"
    join_gap_s: float = 0.2
    latency_least_s: float = 0.005
    latency_most_s: float = 0.08
    jitter_s: float = 0.005
    loss: float = 0.05
    skew_s: float = 20.0
    partition_s: float = 60.0
    linked_s: float = 20.0
    spread_s: float = 5.0
    heal_s: float = 90.0
    silent_s: float = 20.0
    encode: bool = False


@dataclass(slots=True)
class Report:
    """What came out.

    Attributes:
        checks: Each with whether it held.
        figures: Each with its value; names end in units.
        digest: Of the whole trace.
    """

    checks: dict[str, bool] = field(default_factory=dict)
    figures: dict[str, float] = field(default_factory=dict)
    digest: str = ""


class MeshRun:
    """One run of the scenario.

    Args:
        scenario: What happens.
    """

    def __init__(self, scenario: MeshScenario) -> None:
        streams = Streams(scenario.seed)
        self.scenario = scenario
        self.partition = Partition()
        self.loss = Loss(streams, scenario.loss)
        latency = Latency(streams, scenario.latency_least_s, scenario.latency_most_s, scenario.jitter_s)
        self.world = World(scenario.seed, Network(self.partition, self.loss, latency), encode=scenario.encode)
        self.world.checks = [only_members_are_linked, nothing_is_made_up, nobody_misbehaves]
        self.report = Report()
        self.live: list[Node] = []

    def run(self) -> Report:
        """Plays all acts.

        Raises:
            CheckFailed: A safety check or a time limit did not hold.
        """
        for act in (self.join, self.advert, self.split, self.revoke, self.crash):
            took = act()
            self.report.figures[f"{act.__name__}_s"] = round(took, 3)
            self.report.checks[act.__name__] = True
        stats = self.world.stats
        self.report.figures |= {
            "simulated_s": round(self.world.loop.now, 3),
            "messages": stats.messages,
            "bytes": stats.bytes,
            "dials": stats.dials,
        }
        self.report.digest = self.world.digest()
        return self.report

    def join(self) -> float:
        """Machines come one by one, each knowing what the founder told it; all link to all."""
        skews = Streams(self.scenario.seed)
        founder = self.world.add("n0", founder=True)
        self.world.start(founder)
        self.live = [founder]
        for number in range(1, self.scenario.nodes):
            node = self.world.add(f"n{number}")
            node.skew_s = skews.of(node.id, "skew").uniform(0.0, self.scenario.skew_s)
            self.world.start(node, knows=(founder,))
            self.live.append(node)
            self.world.run(self.scenario.join_gap_s)
        return self.world.run_until(lambda: all_linked(self.live), self.scenario.linked_s, "all are linked")

    def advert(self) -> float:
        """A node tells of a model; everyone can choose it as the holder."""
        holder = self.live[-1]
        self.world.command(holder, lambda peer, now: peer.publish_models(now, [model("anomaly")]))
        return self.world.run_until(
            lambda: all(sees_model(node, holder) for node in self.live),
            self.scenario.spread_s,
            "everyone sees the model",
        )

    def split(self) -> float:
        """Two halves do not see each other; each goes on with news of its own; then it heals."""
        half = len(self.live) // 2
        left, right = self.live[:half], self.live[half:]
        self.partition.split([node.id for node in left], [node.id for node in right])
        self.world.command(right[0], lambda peer, now: peer.publish_models(now, [model("right")]))
        self.world.run(self.scenario.partition_s)
        for node in left:
            if any(other.id in node.running.neighbours() for other in right):
                self.world.fail(f"{node.name} still believes in a link over the partition")
        self.partition.heal()
        return self.world.run_until(
            lambda: all_linked(self.live) and all_agree(self.live), self.scenario.heal_s, "the partition has healed"
        )

    def revoke(self) -> float:
        """The founder puts a node out; everyone cuts it off, and it does not get back."""
        founder, rogue = self.live[0], self.live.pop(1)
        self.world.command(founder, lambda peer, now: peer.revoke(now, rogue.id))
        took = self.world.run_until(
            lambda: not any(rogue.id in node.running.neighbours() for node in self.live),
            self.scenario.spread_s,
            f"{rogue.name} is cut off",
        )
        self.world.run(self.scenario.linked_s)
        if rogue.running.neighbours():
            self.world.fail(f"{rogue.name} is back")
        self.world.crash(rogue)
        return took

    def crash(self) -> float:
        """The holder of the model loses power; its adverts are gone everywhere. It comes back with its disk, alone."""
        holder = self.live.pop()
        self.world.crash(holder)
        took = self.world.run_until(
            lambda: not any(sees_model(node, holder) for node in self.live), self.scenario.silent_s, "its model is gone"
        )
        self.world.start(holder)
        self.live.append(holder)
        self.world.run_until(lambda: all_linked(self.live), self.scenario.heal_s, f"{holder.name} is back")
        return took


def model(name: str) -> ModelRecord:
    """Returns an advert."""
    return ModelRecord(name, "1.0.0", "anomaly_detector", "onnx", 1_000, b"\1" * 32, b"\2" * 32)


# --- safety: holds at every second --------------------------------------------------------------------------------


def only_members_are_linked(world: World) -> None:
    """Nobody serves a node that it knows to be put out."""
    for node in world.nodes.values():
        if node.peer:
            for other in node.peer.neighbours():
                if not node.peer.trust.is_member(world.now(node).wall, other):
                    world.fail(f"{node.name} is linked to {node.peer.name(other)}, which is no member")


def nothing_is_made_up(world: World) -> None:
    """Nobody holds a newer node record than its author has signed."""
    for node in world.nodes.values():
        if node.peer:
            for author in world.nodes.values():
                held = node.peer.sync.record(author.id, NODE)
                if held and author.peer and not author.peer.trust.is_revoked(author.id):
                    own = author.peer.sync.record(author.id, NODE)
                    if own is None or own.version < held.version:
                        world.fail(f"{node.name} holds a record that {author.name} did not sign")


def nobody_misbehaves(world: World) -> None:
    """Honest nodes never blame each other, but for one that does not know yet that it was put out."""
    for at, name, fault in world.misbehaved:
        if "revoked" not in fault.reason:
            world.fail(f"{name} blames {fault.peer.short} at {at:.3f} s: {fault.reason}")


# --- liveness: holds in time --------------------------------------------------------------------------------------


def all_linked(nodes: Sequence[Node]) -> bool:
    """Says whether everyone has a verified link to everyone."""
    return all(len(node.running.neighbours()) == len(nodes) - 1 for node in nodes)


def all_agree(nodes: Sequence[Node]) -> bool:
    """Says whether all hold the same versions of all records."""
    first = nodes[0].running.sync.versions()
    return all(node.running.sync.versions() == first for node in nodes[1:])


def sees_model(node: Node, holder: Node) -> bool:
    """Says whether a node would fetch a model from this holder."""
    return any(offer.node == holder.id for offer in node.running.models(Now(0.0, 0.0)))


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the scenario and prints its figures."""
    parser = argparse.ArgumentParser(prog="simulations.mesh", description="A mesh of tens of nodes through its life.")
    parser.add_argument("--nodes", type=int, default=30)
    parser.add_argument("--seed", default="1")
    parser.add_argument("--partition", type=float, default=60.0, metavar="SECONDS")
    chosen = parser.parse_args(arguments)
    if not 4 <= chosen.nodes <= 60:
        parser.error("this scenario is for 4 to 60 nodes: everyone links to everyone")
    began = time.perf_counter()
    run = MeshRun(MeshScenario(nodes=chosen.nodes, seed=chosen.seed, partition_s=chosen.partition))
    try:
        report = run.run()
    except CheckFailed as error:
        print(f"FAILED {error}\nreplay: python -m simulations.mesh --nodes {chosen.nodes} --seed {chosen.seed}")
        return 1
    wall_s = time.perf_counter() - began
    for name, value in report.figures.items():
        print(f"{name:<14}{value:>14,.3f}".rstrip("0").rstrip("."))
    print(f"{'wall_s':<14}{wall_s:>14,.3f}\ndigest {report.digest}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
