"""What runs are judged by: churn, detection, spread, safety checks."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from random import Random
from typing import ClassVar

import pytest

from atmo.engine import Hangup, Misbehaved
from atmo.gossip.records import Hardware
from atmo.peer import NodeGone
from atmo.sim import checks
from atmo.sim.churn import Churn, ChurnConfig, Pareto, Weibull
from atmo.sim.detection import Detection
from atmo.sim.machine import Node
from atmo.sim.malice import Honest
from atmo.sim.report import CheckFailed
from atmo.sim.scenario import Promise, Scenario, Stage
from atmo.sim.spread import Spread


@dataclass(frozen=True, kw_only=True)
class Empty(Scenario):
    """Nothing happens."""

    name: ClassVar = "empty"
    summary: ClassVar = "nothing happens"
    promise: ClassVar = Promise()

    def play(self, stage: Stage) -> None:
        """Tests let time pass."""


def stage(nodes: int = 5, settle_s: float = 20.0, **given: float) -> Stage:
    made = Stage(Empty(nodes=nodes, **given))  # type: ignore[arg-type]
    made.build()
    made.world.run(settle_s)
    return made


def test_machines_behind_nats_take_part() -> None:
    made = stage(12, settle_s=60.0, nat=0.5, skew_s=20.0)
    nodes = made.world.alive()
    assert made.nats.on
    assert len({node.skew_s for node in nodes}) == 12
    assert checks.connected(nodes)
    assert checks.know(nodes, nodes) == 1.0


def test_a_scenario_without_a_play_says_so() -> None:
    with pytest.raises(TypeError, match="play"):
        Scenario()  # type: ignore[abstract]
    assert Empty().length_s() == 62.0


@pytest.mark.parametrize("lengths", [Weibull(100.0), Weibull(100.0, 1.0), Pareto(100.0, 3.0)])
def test_times_have_the_mean_that_they_say(lengths: Weibull | Pareto) -> None:
    rng = Random("1")
    drawn = [lengths.draw(rng) for _ in range(20_000)]
    assert statistics.fmean(drawn) == pytest.approx(100.0, rel=0.1)
    assert min(drawn) > 0.0


def test_heavy_tails_have_many_short_times_and_a_few_long_ones() -> None:
    rng = Random("1")
    drawn = sorted(Weibull(100.0, 0.5).draw(rng) for _ in range(10_000))
    assert drawn[5_000] < 30.0
    assert drawn[-100] > 800.0


def test_machines_come_and_go_and_come_back() -> None:
    made = stage(6)
    gone: list[str] = []
    config = ChurnConfig(Weibull(20.0), Weibull(5.0), leave=0.5, keep_disk=0.5)
    churn = Churn(made, list(made.world.nodes.values()), config, gone=lambda node, goodbye: gone.append(node.name))
    churn.begin()
    made.world.run(60.0)
    assert churn.ended == len(gone) > 3
    assert churn.came > 0
    churn.stop(revive=True)
    ended = churn.ended
    made.world.run(60.0)
    assert churn.ended == ended
    assert len(made.world.alive()) == 6
    assert checks.connected(made.world.alive())


def test_two_machines_stay_on() -> None:
    made = stage(4)
    churn = Churn(made, made.world.alive(), ChurnConfig(Weibull(1.0), Weibull(1_000.0)))
    churn.begin()
    made.world.run(60.0)
    assert len(made.world.alive()) >= 2


def crashed(made: Stage) -> tuple[Detection, Node]:
    detection = Detection(made)
    victim = made.world.alive()[-1]
    detection.died(victim)
    made.world.crash(victim)
    return detection, victim


def test_a_dead_node_is_timed_until_nobody_has_it() -> None:
    made = stage(5)
    detection, _ = crashed(made)
    assert detection.pending() == 1
    made.world.run(15.0)
    assert detection.pending() == 0
    (took,) = detection.out_s
    assert 2.0 < took < 10.0
    assert detection.false_positives == 0


def test_a_dead_node_that_comes_back_is_not_timed() -> None:
    made = stage(5)
    detection, victim = crashed(made)
    made.world.start(victim)
    made.world.run(5.0)
    assert (detection.pending(), detection.out_s) == (0, [])


@pytest.mark.parametrize(
    ("loss", "messages", "links", "deaths", "holds"),
    [
        (0.05, 3_000_000, 2, 0, True),
        (0.05, 3_000_000, 3, 0, False),
        (0.05, 3_000_000, 0, 1, False),
        (0.01, 30_000_000, 1, 0, False),
        (0.0, 10, 0, 0, True),
    ],
)
def test_loss_explains_a_few_links_and_no_death(
    loss: float, messages: int, links: int, deaths: int, holds: bool
) -> None:
    made = stage(4)
    detection = Detection(made)
    made.loss.set_rate(loss)
    made.world.stats.messages = messages
    detection.false_links, detection.false_deaths = links, deaths
    detection.judge(10.0)
    assert made.report.checks["nobody_is_missed"] is holds


def test_live_nodes_taken_for_dead_are_counted() -> None:
    made = stage(5, settle_s=60.0)
    detection, world = Detection(made), made.world
    first, second, *_ = world.alive()
    for told in world.watch[Hangup]:
        told(first, Hangup(second.id, "nothing heard for 7.0 s"))
        told(first, Hangup(second.id, "no use for it"))
    for told in world.watch[NodeGone]:
        told(first, NodeGone(second.id))
        told(second, NodeGone(second.id))
    assert (detection.false_links, detection.false_deaths, detection.false_positives) == (1, 1, 2)
    made.partition.split([first.id], [second.id])
    for told in world.watch[NodeGone]:
        told(first, NodeGone(second.id))
    assert detection.false_positives == 2, "nobody hears over a partition"
    made.partition.heal()
    world.crash(first)
    world.start(first)
    for told in world.watch[NodeGone]:
        told(first, NodeGone(second.id))
    assert detection.false_positives == 2, "who has just started goes by its disk"


def test_news_is_counted_where_it_is_due() -> None:
    made = stage(6)
    world, spread = made.world, Spread(made)
    teller, *others = world.alive()
    spread.tell(teller)
    world.run(3.0)
    assert spread.delivered() == (5, 5, [])
    assert len(spread.times(0.99)) == 1
    assert spread.times(0.2)[0] <= spread.times(1.0)[0] < 2.0
    spread.begin()
    made.partition.split([others[0].id], [node.id for node in world.alive() if node is not others[0]])
    spread.tell(teller)
    world.crash(others[1])
    world.run(3.0)
    assert spread.delivered() == (3, 4, [others[0].name]), "nothing is due to the dead"
    assert spread.times(1.0) == []
    spread.tell(teller)
    made.partition.heal()
    world.run(60.0)
    assert spread.delivered()[:2] == (8, 8), "what replaces news stands for it"


def test_what_an_author_tells_that_goes_at_once_does_not_count() -> None:
    made = stage(5)
    spread = Spread(made)
    teller = made.world.alive()[-1]
    spread.tell(teller, stays_s=5.0)
    made.world.crash(teller)
    made.world.run(3.0)
    assert spread.delivered() == (0, 0, [])


def test_revocations_are_news() -> None:
    made = stage(5)
    spread = Spread(made)
    spread.revoke(made.founder, made.add(1)[0])
    made.world.run(3.0)
    assert spread.delivered() == (4, 4, [])
    assert spread.redundant() >= 0.0


def test_safety_is_watched() -> None:
    made = stage(5)
    world = made.world
    checks.watch_safety(world)
    world.run(3.0)
    first, second, *_ = world.alive()
    world.misbehaved.append((1.0, first.name, Misbehaved(second.id, "it was revoked")))
    world.run(1.0)
    world.misbehaved.append((1.0, first.name, Misbehaved(second.id, "it lies")))
    with pytest.raises(CheckFailed, match=f"{first.name} blames {second.name}"):
        world.run(1.0)
    second.malice = Honest()
    world.run(1.0)


def test_what_is_made_up_is_found() -> None:
    made = stage(5)
    checks.watch_safety(made.world)
    author = made.world.alive()[1]
    made.world.command(author, lambda peer, now: peer.publish_node(now, "n1", [author.address], "1", Hardware()))
    made.world.run(3.0)
    taken = author.running.sync.record(author.id, "node")
    assert taken is not None
    author.running.sync.record = lambda *_: None  # type: ignore[method-assign]
    with pytest.raises(CheckFailed, match="did not sign"):
        made.world.run(5.0)


def test_who_is_no_member_is_no_neighbour(monkeypatch: pytest.MonkeyPatch) -> None:
    made = stage(4)
    checks.watch_safety(made.world)
    first, second, *_ = made.world.alive()
    monkeypatch.setattr(first.running.trust, "is_member", lambda wall, node: node != second.id)
    with pytest.raises(CheckFailed, match="no member"):
        checks.only_members_are_linked(made.world)


def test_pieces_are_told_apart() -> None:
    made = stage(5)
    nodes = made.world.alive()
    assert checks.connected(nodes)
    assert checks.agree(nodes)
    assert checks.know(nodes, nodes) == 1.0
    lone = made.add(1)[0]
    made.world.start(lone)
    assert not checks.connected([*nodes, lone])
    assert not checks.agree([*nodes, lone])
    assert 0.0 < checks.know([lone], [*nodes, lone]) < 0.5
    assert checks.reach([]) == 0
    assert checks.know([], []) == 1.0


def test_only_some_nodes_are_looked_at_closely_but_all_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    made = stage(5)
    monkeypatch.setattr(checks, "CLOSELY", 2)
    seen: dict[str, None] = {}
    for _ in range(10):
        made.world.run(1.0)
        looked = checks.in_turn(made.world)
        assert len(looked) == 2
        seen |= {node.name: None for node in looked}
    assert len(seen) == 5
