"""The message world: the product's peer in virtual time, the same trace for the same seed."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest

from atmo.engine import Hangup, Misbehaved
from atmo.gossip.messages import Gossip
from atmo.gossip.sync import RecordChanged
from atmo.identity import Signer
from atmo.peer import LinkReady, Peer, PeerConfig, Unreachable
from atmo.sim.bandwidth import Line, Lines
from atmo.sim.machine import Node
from atmo.sim.malice import BadChunks
from atmo.sim.network import Latency, Loss, Network
from atmo.sim.report import CheckFailed
from atmo.sim.streams import Streams
from atmo.sim.world import World
from atmo.transfer.engine import TransferDone, TransferFailed
from tests.sim.kit import linked, small


def test_nodes_find_each_other_through_the_one_they_know() -> None:
    _, nodes = small(count=5)
    assert sum(isinstance(event, LinkReady) for _, event in nodes[1].events) >= 4


def test_the_same_seed_gives_the_same_trace_and_another_one_does_not() -> None:
    def play(seed: str) -> str:
        world, _ = small(seed)
        world.run(60.0)
        return world.digest()

    assert play("1") == play("1") != play("2")


def test_the_trace_does_not_depend_on_the_hash_seed_of_the_process() -> None:
    script = "from tests.sim.kit import small; w, _ = small(count=5); w.run(30.0); print(w.digest())"
    digests = [
        subprocess.run(
            [sys.executable, "-c", script], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        ).stdout
        for seed in ("1", "2")
    ]
    assert digests[0] == digests[1] != ""


def test_the_codec_changes_nothing() -> None:
    plain, nodes = small()
    coded, again = small(encode=True)
    for world in (plain, coded):
        world.run(60.0)
    assert [node.running.sync.versions() for node in nodes] == [node.running.sync.versions() for node in again]
    assert plain.digest() == coded.digest()
    assert plain.stats == coded.stats, "sizes are told right without encoding"


def test_what_is_sent_is_received_and_counted() -> None:
    world, nodes = small()
    world.run(30.0)
    stats = world.stats
    assert stats.messages == sum(count for count, _ in stats.by_kind.values())
    assert stats.bytes == sum(size for _, size in stats.by_kind.values())
    assert stats.wire_bytes == sum(node.sent_bytes for node in nodes)
    assert 0 < sum(node.received_bytes for node in nodes) < stats.wire_bytes, "handshakes are not received messages"


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
    world.run(5.0)
    world.crash(nodes[2], keep_disk=False)
    assert nodes[2].disk == {}
    world.run(60.0)
    world.start(nodes[2])
    world.run_until(lambda: linked(nodes), 180.0, "it is back")


def test_who_leaves_is_gone_at_once() -> None:
    world, nodes = small()
    world.leave(nodes[1])
    world.run(0.2)
    assert [len(nodes[number].running.neighbours()) for number in (0, 2)] == [1, 1]
    assert world.alive() == [nodes[0], nodes[2]]
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
    world.checks.append(lambda world: world.fail("the sky is down", "n1"))
    with pytest.raises(CheckFailed, match=r"at \d+\.\d+ s, seed '1': the sky is down") as caught:
        world.run(2.0)
    assert (caught.value.what, caught.value.nodes) == ("the sky is down", ("n1",))


def test_what_does_not_become_true_in_time_fails() -> None:
    world, _ = small()
    assert world.wait(lambda: False, 1.0) is None
    with pytest.raises(CheckFailed, match="not within 3 s: never"):
        world.run_until(lambda: False, 3.0, "never")


def test_later_deeds_happen_in_their_time() -> None:
    world, nodes = small()
    world.later(world.loop.now + 5.0, lambda: world.crash(nodes[1]))
    world.run(4.9)
    assert nodes[1].peer is not None
    world.run(0.2)
    assert nodes[1].peer is None


def test_faults_are_gathered_and_events_are_watched() -> None:
    world, nodes = small(keep_events=False)
    seen: list[tuple[str, type]] = []
    for kind in (RecordChanged, Hangup):
        world.watch[kind] = [lambda node, event: seen.append((node.name, type(event)))]
    garbage = Gossip(b"rubbish")
    world.command(nodes[0], lambda peer, now: peer.receive(now, nodes[1].id, garbage))
    ((_, name, fault),) = world.misbehaved
    assert name == "n0"
    assert isinstance(fault, Misbehaved)
    world.command(nodes[0], lambda peer, now: peer.publish_models(now, []))
    world.command(nodes[0], lambda peer, now: peer.revoke(now, nodes[2].id))
    world.run(1.0)
    assert ("n1", RecordChanged) in seen
    assert ("n0", Hangup) in seen
    assert nodes[0].events == []


def test_machines_that_start_and_stop_are_told_of() -> None:
    world, nodes = small()
    told: list[tuple[str, bool]] = []
    world.on_start.append(lambda node: told.append((node.name, node.peer is not None)))
    world.on_stop.append(lambda node: told.append((node.name, node.peer is not None)))
    world.crash(nodes[1])
    world.start(nodes[1])
    assert told == [("n1", True), ("n1", True)]


def test_a_dial_to_nobody_fails() -> None:
    world, nodes = small()
    stranger = Signer(b"s" * 32).node_id
    world.command(nodes[0], lambda peer, now: peer.reach(now, stranger))
    world.run(5.0)
    assert [event for _, event in nodes[0].events if isinstance(event, Unreachable)] == [Unreachable(stranger)]


def test_an_engine_whose_timer_stands_still_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    world, _ = small()
    monkeypatch.setattr(Peer, "handle_timer", lambda self, now: None)
    with pytest.raises(CheckFailed, match="does not move"):
        world.run(60.0)


def want(world: World, reader: Node, transfer: str, sources: list[Node], chunks: int = 5) -> None:
    holders = [node.id for node in sources]
    world.command(reader, lambda peer, now: peer.want(now, transfer, [10] * chunks, set(), holders))


def ended(node: Node) -> list[str]:
    kinds = (TransferDone, TransferFailed)
    return [f"{type(event).__name__} {event.transfer}" for _, event in node.events if isinstance(event, kinds)]


def test_chunks_arrive_from_whoever_can_be_reached() -> None:
    world, nodes = small(count=9)  # more than the active view holds
    holder, reader = nodes[1], nodes[2]
    want(world, reader, "good", [holder, nodes[0]])
    world.run(10.0)
    assert ended(reader) == ["TransferDone good"]
    world.crash(holder)
    world.run(60.0)
    want(world, reader, "bad", [holder])
    want(world, reader, "taken back", [holder])
    world.command(reader, lambda peer, now: peer.cancel(now, "taken back"))
    world.run(400.0)
    assert ended(reader)[1:] == ["TransferFailed bad"]


def test_chunks_take_their_time_on_a_line_and_bad_ones_are_refused() -> None:
    world, nodes = small(lines=Lines(Line(100.0, 100.0)))
    world.chunks.sizes["slow"] = [10] * 5
    want(world, nodes[1], "slow", [nodes[2]])
    began = world.loop.now
    world.run_until(lambda: bool(ended(nodes[1])), 10.0, "it has come")
    assert 0.5 <= world.loop.now - began < 1.5
    assert world.chunks.stats.bytes == 50
    nodes[2].malice = BadChunks()
    world.chunks.sizes["lies"] = [10] * 2
    want(world, nodes[1], "lies", [nodes[2], nodes[0]], chunks=2)
    world.run(10.0)
    assert ended(nodes[1])[1:] == ["TransferDone lies"]
    assert world.chunks.stats.wrong > 0
    assert set(world.chunks.stats.served) == {nodes[0].id, nodes[2].id}


def test_a_chunk_whose_link_breaks_comes_from_elsewhere() -> None:
    world, nodes = small(lines=Lines(Line(10.0, 10.0)))
    world.chunks.sizes["broken"] = [20] * 2
    want(world, nodes[1], "broken", [nodes[2]], chunks=2)
    world.run(0.5)
    world.links.hang_up(nodes[1], nodes[2].id, "a test")
    world.command(nodes[1], lambda peer, now: peer.holder_up(now, "broken", nodes[0].id))
    world.run(30.0)
    assert ended(nodes[1]) == ["TransferDone broken"]
    assert nodes[0].id in world.chunks.stats.served


def test_a_reader_that_restarts_gets_no_chunks_of_its_former_life() -> None:
    world, nodes = small()
    want(world, nodes[1], "lost", [nodes[2]])
    world.crash(nodes[1])
    world.start(nodes[1])
    world.run(5.0)
    assert ended(nodes[1]) == []


def test_configuration_reaches_the_peers() -> None:
    usual = PeerConfig()
    scale = replace(usual.scale, lifetime_least_s=60, renewal_bytes_s=1e9)
    world, nodes = small(config=replace(usual, scale=scale))
    world.run(200.0)
    version = nodes[0].running.sync.versions()[nodes[0].id, "node", ""]
    assert version[1] >= 4


def test_loss_delays_and_does_not_break() -> None:
    streams = Streams("3")
    world, nodes = small("3", 2, network=Network(Loss(streams, 0.3), Latency(streams, 0.01, 0.02)))
    world.run(120.0)
    assert world.misbehaved == []
    assert linked(nodes)
