"""The message world: the product's peer in virtual time, the same trace for the same seed."""

from __future__ import annotations

import subprocess
import sys

import pytest

from atmo.engine import Misbehaved
from atmo.gossip.messages import Flood
from atmo.gossip.sync_config import SyncConfig
from atmo.identity import Signer
from atmo.peer import LinkReady, Peer, PeerConfig
from atmo.sim.network import Latency, Loss, Network
from atmo.sim.streams import Streams
from atmo.sim.world import CheckFailed, Node, World
from atmo.transfer.engine import TransferDone, TransferFailed
from atmo.wire.address import Address


def small(seed: str = "1", count: int = 3, **kwargs: object) -> tuple[World, list[Node]]:
    """Returns a world in which everyone is linked to everyone."""
    network = Network(Latency(Streams(seed), 0.01, 0.05))
    world = World(seed, network, **kwargs)  # type: ignore[arg-type]
    founder = world.add("n0", founder=True)
    world.start(founder)
    nodes = [founder]
    for number in range(1, count):
        node = world.add(f"n{number}")
        world.start(node, knows=(founder,))
        nodes.append(node)
    world.run_until(lambda: linked(nodes), 30.0, "all are linked")
    return world, nodes


def linked(nodes: list[Node]) -> bool:
    return all(len(node.running.neighbours()) == len(nodes) - 1 for node in nodes)


def test_nodes_find_each_other_through_the_one_they_know() -> None:
    _, nodes = small(count=5)
    assert sum(isinstance(event, LinkReady) for _, event in nodes[1].events) >= 4


def test_the_same_seed_gives_the_same_trace_and_another_one_does_not() -> None:
    def play(seed: str) -> str:
        world, _ = small(seed)
        world.run(120.0)
        return world.digest()

    assert play("1") == play("1") != play("2")


def test_the_trace_does_not_depend_on_the_hash_seed_of_the_process() -> None:
    script = "from tests.sim.test_world import small; w, _ = small(); w.run(30.0); print(w.digest())"
    digests = [
        subprocess.run(
            [sys.executable, "-c", script], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        ).stdout
        for seed in ("1", "2")
    ]
    assert digests[0] == digests[1] != ""


def test_the_codec_changes_nothing_but_the_sizes() -> None:
    plain, nodes = small()
    coded, again = small(encode=True)
    for world in (plain, coded):
        world.run(60.0)
    assert [node.running.sync.versions() for node in nodes] == [node.running.sync.versions() for node in again]
    assert plain.stats.messages == coded.stats.messages
    assert abs(plain.stats.bytes / coded.stats.bytes - 1) < 0.3


def test_who_restarts_with_its_disk_finds_the_mesh_alone() -> None:
    world, nodes = small()
    world.run(20.0)
    world.crash(nodes[2])
    world.run(60.0)
    assert len(nodes[0].running.neighbours()) == 1
    world.start(nodes[2])
    world.run_until(lambda: linked(nodes), 30.0, "it is back")


def test_who_lost_its_disk_is_found_by_the_others() -> None:
    world, nodes = small()
    world.crash(nodes[2], keep_disk=False)
    world.run(60.0)
    world.start(nodes[2])
    world.run_until(lambda: linked(nodes), 90.0, "it is back")
    assert nodes[2].epoch == 1


def test_who_leaves_is_gone_at_once() -> None:
    world, nodes = small()
    world.leave(nodes[1])
    world.run(0.2)
    assert [len(nodes[number].running.neighbours()) for number in (0, 2)] == [1, 1]
    with pytest.raises(AssertionError, match="does not run"):
        _ = nodes[1].running


def test_clocks_may_differ() -> None:
    world, nodes = small()
    nodes[1].skew_s = 50.0
    world.run(400.0)
    assert linked(nodes)
    assert world.misbehaved == []


def test_checks_run_every_second_and_say_what_when_and_with_which_seed() -> None:
    world, _ = small()
    times: list[float] = []
    world.checks.append(lambda world: times.append(world.loop.now))
    world.run(5.0)
    assert len(times) in (5, 6)
    world.checks.append(lambda world: world.fail("the sky is down"))
    with pytest.raises(CheckFailed, match=r"at \d+\.\d+ s, seed '1': the sky is down"):
        world.run(2.0)


def test_what_does_not_become_true_in_time_fails() -> None:
    world, _ = small()
    with pytest.raises(CheckFailed, match="not within 3 s: never"):
        world.run_until(lambda: False, 3.0, "never")


def test_later_deeds_happen_in_their_time() -> None:
    world, nodes = small()
    world.later(world.loop.now + 5.0, lambda: world.crash(nodes[1]))
    world.run(4.9)
    assert nodes[1].peer is not None
    world.run(0.2)
    assert nodes[1].peer is None


def test_faults_are_gathered() -> None:
    world, nodes = small()
    world.command(nodes[0], lambda peer, now: peer.receive(now, nodes[1].id, Flood(b"rubbish")))
    ((_, name, fault),) = world.misbehaved
    assert name == "n0"
    assert isinstance(fault, Misbehaved)


def test_a_dial_to_nobody_fails() -> None:
    world, nodes = small()
    stranger = Signer(b"s" * 32).node_id
    world.command(nodes[0], lambda peer, now: peer.membership.learn(now, stranger, (Address("10.9.9.9", 1),)))
    world.run(5.0)
    assert nodes[0].running.membership.stats.dial_failures > 0


def test_an_engine_whose_timer_stands_still_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    world, _ = small()
    monkeypatch.setattr(Peer, "handle_timer", lambda self, now: None)
    with pytest.raises(CheckFailed, match="does not move"):
        world.run(60.0)


def test_chunks_arrive_from_linked_nodes_and_fail_from_others() -> None:
    world, nodes = small()
    holder, reader = nodes[1], nodes[2]
    world.command(reader, lambda peer, now: peer.want(now, "good", [10] * 5, set(), [holder.id, nodes[0].id]))
    world.run(5.0)
    assert [event for _, event in reader.events if isinstance(event, TransferDone)] == [TransferDone("good")]
    world.crash(holder)
    world.run(60.0)
    world.command(reader, lambda peer, now: peer.want(now, "bad", [10], set(), [holder.id]))
    world.command(reader, lambda peer, now: peer.want(now, "taken back", [10], set(), [holder.id]))
    world.command(reader, lambda peer, now: peer.cancel(now, "taken back"))
    world.run(400.0)
    assert [event.transfer for _, event in reader.events if isinstance(event, TransferFailed)] == ["bad"]


def test_configuration_reaches_the_peers() -> None:
    world, nodes = small(config=PeerConfig(sync=SyncConfig(renew_s=10.0)))
    world.run(55.0)
    version = nodes[0].running.sync.versions()[nodes[0].id, "node", ""]
    assert version[1] >= 5


def test_loss_delays_and_does_not_break() -> None:
    streams = Streams("3")
    world = World("3", Network(Loss(streams, 0.3), Latency(streams, 0.01, 0.02)))
    founder, other = world.add("n0", founder=True), world.add("n1")
    world.start(founder)
    world.start(other, knows=(founder,))
    world.run(300.0)
    assert linked([founder, other])
    assert world.misbehaved == []
