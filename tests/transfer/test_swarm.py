"""Swarms of engines that talk to each other: who learns of whom, who serves whom, and what becomes of nonsense."""

from __future__ import annotations

import math
from typing import Any

from atmo.engine import Ask, Contact, Send
from atmo.transfer.config import SlotsConfig, SwarmConfig
from atmo.transfer.engine import TransferDone, TransferFailed, TransferProgress
from atmo.transfer.limits import LimitsConfig
from atmo.transfer.messages import (
    SwarmHave,
    SwarmHello,
    SwarmLeave,
    SwarmPeer,
    SwarmPeers,
)
from tests.transfer.kit import KIB, NAME, SWARM, Mesh, node

SEED, A, B, C, D = (node(number) for number in range(1, 6))


def crowd(count: int, chunks: int = 40, **config: Any) -> Mesh:
    """A seed and a crowd that wants its model, and a minute."""
    mesh = Mesh(count + 1, **config)
    mesh.seed(SEED, chunks)
    for who in list(mesh.engines)[1:]:
        mesh.want(who, chunks, SEED)
    mesh.run(60)
    return mesh


def test_a_crowd_passes_chunks_on_and_the_seed_sends_little_more_than_one_copy() -> None:
    mesh = crowd(8)
    assert sorted(mesh.done()) == sorted(list(mesh.engines)[1:])
    assert mesh.accused == []
    by_seed = sum(count for (source, _), count in mesh.served.items() if source == SEED)
    assert by_seed <= 1.5 * 40
    assert len({index for source, index in mesh.served if source == SEED}) == 40
    assert mesh.engines[SEED].stats.advised >= 30
    assert mesh.refused == 0
    assert mesh.engines[SEED].stats.served_bytes >= by_seed * KIB


def test_when_all_have_it_nobody_is_anybodys_partner_and_nothing_is_due() -> None:
    mesh = crowd(3)
    mesh.run(60)
    assert [engine.partners(NAME) for engine in mesh.engines.values()] == [()] * 4
    assert all(engine.next_timer() == math.inf for engine in mesh.engines.values())


def test_a_lone_downloader_is_advised_nothing() -> None:
    mesh = crowd(1)
    assert mesh.done() == [A]
    assert mesh.engines[SEED].stats.advised == 0


def test_others_are_found_through_a_holder_alone() -> None:
    mesh = crowd(4)
    named = [message for message in mesh.messages(SEED, B, SwarmPeers) for _ in message.peers]
    assert named
    assert mesh.messages(A, B, SwarmHello) or mesh.messages(B, A, SwarmHello)


def test_who_does_not_serve_gets_all_and_is_asked_for_nothing() -> None:
    mesh = Mesh(3)
    mesh.seed(SEED, 10)
    mesh.want(A, 10, SEED, serves=False)
    mesh.want(B, 10, SEED)
    mesh.run(30)
    assert sorted(mesh.done()) == sorted([A, B])
    assert not any(source == A for source, _ in mesh.served)


def test_a_liar_is_dropped_and_the_rest_completes() -> None:
    mesh = Mesh(5)
    mesh.seed(SEED, 30)
    mesh.liars.add(A)
    for who in (A, B, C, D):
        mesh.want(who, 30, SEED)
    mesh.run(60)
    assert set(mesh.done()) == {A, B, C, D}
    assert {accused for _, accused in mesh.accused} <= {A}
    assert not any(source == A for source, _ in mesh.served)


def test_who_speaks_of_no_swarm_is_asked_without_a_word() -> None:
    mesh = Mesh(2)
    mesh.want(A, 5, SEED)  # SEED shares nothing, as far as its engine knows
    mesh.run(30)
    assert mesh.done() == [A]
    assert mesh.messages(SEED, A, SwarmLeave) == [SwarmLeave(SWARM)]
    mesh.do(A, lambda engine, now: engine.source_up(now, NAME, SEED))
    assert mesh.engines[A].progress(mesh.clock(), NAME) is None


def test_a_holder_that_cannot_be_greeted_or_says_nothing_is_asked_all_the_same() -> None:
    for nobody in (True, False):
        mesh = Mesh(2)
        mesh.seed(SEED, 3)
        if nobody:
            mesh.engines[A].want(mesh.clock(), NAME, [KIB] * 3, (), [SEED])
            mesh.engines[A].drain()
            mesh.do(A, lambda engine, now: engine.failed(now, SEED))
            mesh.do(A, lambda engine, now: engine.failed(now, SEED))
        else:
            mesh.engines[A].want(mesh.clock(), NAME, [KIB] * 3, (), [SEED])
            mesh.engines[A].drain()  # the hello is lost
        mesh.do(A, lambda engine, now: engine.source_up(now, NAME, SEED))
        mesh.run(30)
        assert mesh.done() == [A]


def test_a_link_that_comes_up_brings_the_hello_that_could_not_be_said() -> None:
    mesh = Mesh(2)
    mesh.seed(SEED, 50)
    mesh.engines[A].want(mesh.clock(), NAME, [KIB] * 50, (), [SEED])
    mesh.engines[A].drain()
    mesh.do(A, lambda engine, now: engine.failed(now, SEED))
    mesh.do(A, lambda engine, now: engine.link_up(now, SEED))
    mesh.do(A, lambda engine, now: engine.link_up(now, B))
    mesh.run(0.2)
    assert mesh.engines[A].partners(NAME) == (SEED,)
    mesh.do(A, lambda engine, now: engine.source_up(now, NAME, SEED))  # it is a partner
    mesh.run(30)
    assert mesh.done() == [A]


def test_a_lost_partner_is_found_again() -> None:
    mesh = Mesh(2, swarm=SwarmConfig(refused_s=1.0))
    mesh.seed(SEED, 60)
    mesh.want(A, 60, SEED)
    mesh.run(1)
    mesh.do(A, lambda engine, now: engine.source_down(now, SEED))
    mesh.do(SEED, lambda engine, now: engine.source_down(now, A))
    assert mesh.engines[A].partners(NAME) == ()
    mesh.run(30)
    assert mesh.done() == [A]


def test_a_full_swarm_names_others() -> None:
    mesh = crowd(6, swarm=SwarmConfig(most=2, sought=2, refused_s=0.5, told=3, known=3))
    assert sorted(mesh.done()) == sorted(list(mesh.engines)[1:])
    assert any(message.member for _, _, message in mesh.sent if isinstance(message, SwarmLeave))


def test_idle_partners_make_room_for_others() -> None:
    mesh = Mesh(1, swarm=SwarmConfig(sought=1, most=1, replace_s=5.0))
    engine = mesh.engines[SEED]
    engine.want(mesh.clock(), NAME, [KIB] * 4, (), [], patient=True, serves=True)
    engine.receive(mesh.clock(), A, SwarmHello(SWARM, 4, b"", False, True))
    engine.receive(mesh.clock(), A, SwarmPeers(SWARM, (SwarmPeer(Contact(B, ())),)))
    assert engine.partners(NAME) == (A,)
    engine.drain()
    mesh.now += 11
    engine.handle_timer(mesh.clock())
    effects = engine.drain()
    assert Send(A, SwarmLeave(SWARM, True)) in effects
    assert [effect.contact.node for effect in effects if isinstance(effect, Ask)] == [B]


def test_many_news_are_told_in_several_messages() -> None:
    mesh = Mesh(1)
    engine = mesh.engines[SEED]
    engine.want(mesh.clock(), NAME, [1] * 600, (), [], serves=True)
    engine.receive(mesh.clock(), A, SwarmHello(SWARM, 600, b"", True, True))
    for index in range(600):
        engine.chunk_done(mesh.clock(), NAME, A, index)
    sent = [effect.message for effect in engine.drain() if isinstance(effect, Send)]
    told = [message.chunks for message in sent if isinstance(message, SwarmHave)]
    assert [len(chunks) for chunks in told] == [512, 88]
    assert engine.partners(NAME) == ()


def test_a_patient_download_waits_an_hour_for_its_holder() -> None:
    mesh = Mesh(2)
    mesh.seed(SEED, 20)
    mesh.want(A, 20, SEED, patient=True)
    mesh.run(0.5)
    mesh.off.add(SEED)
    mesh.do(A, lambda engine, now: engine.source_down(now, SEED))
    mesh.do(SEED, lambda engine, now: engine.source_down(now, A))
    mesh.run(3_600)
    assert not [event for _, event in mesh.events if isinstance(event, TransferFailed)]
    mesh.off.clear()
    mesh.do(A, lambda engine, now: engine.source_up(now, NAME, SEED))
    mesh.run(60)
    assert mesh.done() == [A]


def test_a_paused_download_asks_for_nothing_and_serves_on() -> None:
    mesh = Mesh(3)
    mesh.seed(SEED, 40)
    mesh.want(A, 40, SEED)
    mesh.run(1)
    mesh.do(A, lambda engine, now: engine.pause(now, NAME))
    mesh.do(A, lambda engine, now: engine.pause(now, "another"))
    before = mesh.engines[A].stats.chunks
    mesh.want(B, 40, SEED)
    mesh.run(500)
    assert mesh.engines[A].stats.chunks == before
    assert B in mesh.done()
    assert any(source == A for source, _ in mesh.served)
    told = [event for who, event in mesh.events if who == A and isinstance(event, TransferProgress)]
    assert told[-1].paused
    mesh.do(A, lambda engine, now: engine.resume(now, NAME))
    mesh.do(A, lambda engine, now: engine.resume(now, "another"))
    mesh.run(60)
    assert A in mesh.done()


def test_a_crowd_gets_all_through_a_limit_that_takes_longer_for_a_chunk_than_anybody_waits() -> None:
    mesh = Mesh(5, limits=LimitsConfig(upload_bytes_s=30.0))
    mesh.seed(SEED, 6)
    for who in (A, B, C, D):
        mesh.want(who, 6, SEED, patient=True, serves=False)
    mesh.run(4_000)
    assert sorted(mesh.done()) == [A, B, C, D]


def test_two_wants_of_one_model_are_one_download() -> None:
    mesh = Mesh(2)
    mesh.seed(SEED, 10)
    mesh.want(A, 10, SEED)
    mesh.want(A, 10, SEED)
    mesh.run(20)
    assert [event for _, event in mesh.events if isinstance(event, TransferDone)] == [TransferDone(NAME)]
    assert max(mesh.served.values()) == 1


def test_a_chokeless_config_is_possible_and_slots_never_exceed_it() -> None:
    mesh = Mesh(6, slots=SlotsConfig(least=1, most=2))
    mesh.seed(SEED, 30)
    for who in list(mesh.engines)[1:]:
        mesh.want(who, 30, SEED)
    for _ in range(60):
        mesh.run(0.5)
        assert all(len(engine.slots._held) <= 2 for engine in mesh.engines.values())
    assert len(mesh.done()) == 5
