"""Sources that are slower than others, lines that take no more, and slots of which nobody makes use."""

from __future__ import annotations

from typing import Any

from atmo.engine import Ask, Contact, FetchChunk
from atmo.identity import NodeId
from atmo.transfer.config import SlotsConfig, SwarmConfig, TransferConfig
from atmo.transfer.inflow import Inflow
from atmo.transfer.messages import SwarmHello, SwarmLeave, SwarmPeer, SwarmPeers, SwarmSlot
from atmo.transfer.source import Source
from tests.transfer.kit import KIB, NAME, SWARM, Alone, node, says

A, B, C, D, E = (node(number) for number in range(2, 7))
CONFIG = TransferConfig()
MIB = 1 << 20


def asked(effects: list[Any], who: NodeId) -> list[int]:
    return [effect.index for effect in effects if isinstance(effect, FetchChunk) and effect.source == who]


# --- a line that takes no more ------------------------------------------------------------------------------------


def inflow(rate: float) -> Inflow:
    """What came in at this rate for a second."""
    known = Inflow(CONFIG)
    for step in range(11):
        known.arrived(step / 10, int(rate / 10))
    return known


def busy(fetches: int, since: float) -> Source:
    source = Source(CONFIG)
    for index in range(fetches):
        source.started(since, index, MIB)
    return source


def test_as_much_is_under_way_as_the_line_takes_and_no_less_than_a_few_chunks() -> None:
    assert Inflow(CONFIG).free_at(1.0, [busy(99, 1.0)], MIB) == 1.0, "nothing is known of it"
    slow = inflow(MIB)
    assert slow.free_at(1.0, [busy(2, 1.0), busy(3, 1.0)], MIB) == 1.0
    assert slow.free_at(1.0, [busy(3, 1.0), busy(3, 1.0)], MIB) > 1.0
    fast = inflow(100 * MIB)
    assert fast.free_at(1.0, [busy(9, 1.0)], MIB) == 1.0
    assert fast.free_at(1.0, [busy(10, 1.0)], MIB) > 1.0


def test_what_is_held_up_elsewhere_takes_no_room() -> None:
    known = inflow(MIB)
    old = busy(4, 0.5)
    assert known.free_at(1.0, [old, busy(2, 1.0)], MIB) == 2.5
    assert known.free_at(2.4, [old, busy(2, 1.0)], MIB) == 2.5
    assert known.free_at(2.5, [old, busy(2, 1.0)], MIB) == 2.5
    far = Source(CONFIG)
    far.started(0.0, 9, MIB)
    far.succeeded(0.9, 9, MIB)
    assert known.free_at(1.0, [far, busy(6, 1.0)], MIB) > 4.0, "a usual fetch takes long here"


def test_a_rate_that_was_high_once_is_forgotten() -> None:
    known = inflow(100 * MIB)
    for step in range(11, 260):
        known.arrived(step / 10, MIB // 10)
    assert known.free_at(26.0, [busy(6, 26.0)], MIB) > 26.0


def test_a_source_with_nothing_to_do_is_asked_as_soon_as_there_is_room() -> None:
    alone = Alone(count=200)
    for who in (A, B, C, D):
        alone.hear(who, SwarmHello(SWARM, 200, whole=True, serves=True))
    effects = [effect for who in (A, B, C) for effect in alone.hear(who, SwarmSlot(SWARM, True))]
    for _ in range(20):
        alone.mesh.now += 0.02
        alone.engine.chunk_done(alone.now, NAME, A, asked(effects, A)[-1])
        effects += alone.engine.drain()
    assert not asked(alone.hear(D, SwarmSlot(SWARM, True)), D), "the line takes no more"
    assert len(asked(alone.pass_time(2.1), D)) == 2, "what B and C were asked for is held up there"


# --- slow sources -------------------------------------------------------------------------------------------------


def unequal(**config: Any) -> tuple[Alone, list[Any]]:
    """One that fetches from A, B and C, who are fast, and D, who is slow, and what it said; it knows of E."""
    alone = Alone(count=400, **config)
    for who in (A, B, C, D):
        alone.hear(who, SwarmHello(SWARM, 400, whole=True, serves=True))
    alone.hear(A, SwarmPeers(SWARM, (SwarmPeer(Contact(E, ())),)))
    said = [effect for who in (A, B, C, D) for effect in alone.hear(who, SwarmSlot(SWARM, True))]
    under_way = {who: asked(said, who) for who in (A, B, C, D)}
    for step in range(1, 62):
        alone.mesh.now += 0.1
        effects = []
        for who in (A, B, C) if step % 20 else (A, B, C, D):
            if under_way[who]:
                alone.engine.chunk_done(alone.now, NAME, who, under_way[who].pop(0))
                effects += alone.engine.drain()
        effects += alone.pass_time(0.0)
        for who, known in under_way.items():
            known += asked(effects, who)
        said += effects
    return alone, said


def test_a_slow_source_gets_one_chunk_at_a_time() -> None:
    alone, _ = unequal()
    sources = alone.engine._downloads[NAME].sources
    assert [sources[who].slow for who in (A, B, C, D)] == [False, False, False, True]
    assert len(sources[D].under_way) == 1
    assert sources[D].delivered


def test_a_slow_source_that_sends_as_much_as_others_again_is_slow_no_more() -> None:
    alone, _ = unequal()
    download = alone.engine._downloads[NAME]
    for who in (A, B, C):
        alone.engine.source_left(alone.now, NAME, who)
    alone.pass_time(2.5)
    assert not download.is_slow(D), "there is nobody to compare with"
    assert not download.is_slow(A)


def test_who_is_not_heard_of_for_long_is_known_to_be_slow_before_its_first_chunk() -> None:
    source = Source(CONFIG)
    assert source.pace(0.0) == 0.0
    source.started(0.0, 1, MIB)
    assert source.pace(0.0) == 0.0
    assert source.pace(2.0) == MIB / 2
    source.succeeded(4.0, 1, MIB)
    assert source.pace(9.0) == MIB / 4


def test_a_slow_partner_makes_room_for_another() -> None:
    alone, said = unequal(swarm=SwarmConfig(sought=4, most=4, replace_s=2.5))
    assert D not in alone.engine.partners(NAME)
    assert says(said, D, SwarmLeave) == [SwarmLeave(SWARM, True)]
    assert [effect.contact.node for effect in said if isinstance(effect, Ask)] == [E]


def test_a_partner_is_slow_only_while_it_is_a_source() -> None:
    alone, _ = unequal()
    download = alone.engine._downloads[NAME]
    assert download.is_slow(D)
    alone.engine.source_left(alone.now, NAME, D)
    assert not download.is_slow(D)


# --- slots of which nobody makes use ------------------------------------------------------------------------------


def test_who_lost_its_link_hears_again_that_it_is_served() -> None:
    alone = Alone(whole=True)
    alone.hear(B, SwarmHello(SWARM, 8, b"\1"))
    effects = alone.hear(A, SwarmHello(SWARM, 8, b"\1"))
    (slot,) = says(effects, A, SwarmSlot)
    assert slot.open
    assert slot.chunks
    assert says(alone.hear(A, SwarmHello(SWARM, 8, b"\1")), A, SwarmSlot) == [slot]
    assert not says(alone.hear(A, SwarmHello(SWARM, 8, b"\1", answer=True)), A, SwarmSlot)


def test_who_says_hello_anew_serves_nobody_yet() -> None:
    alone = Alone()
    alone.hear(A, SwarmHello(SWARM, 8, whole=True, serves=True))
    alone.hear(A, SwarmSlot(SWARM, True))
    source = alone.engine._downloads[NAME].sources[A]
    alone.hear(A, SwarmHello(SWARM, 8, whole=True, serves=True, answer=True))
    assert source.open
    alone.hear(A, SwarmHello(SWARM, 8, whole=True, serves=True))
    assert not source.open


def test_a_slot_whose_requests_never_end_goes_to_another() -> None:
    alone = Alone(whole=True, slots=SlotsConfig(least=1))
    alone.hear(A, SwarmHello(SWARM, 8, b""))
    assert alone.engine.may_serve(alone.now, A, KIB) == 0.0
    effects = alone.hear(B, SwarmHello(SWARM, 8, b"\1"))
    for _ in range(29):
        effects += alone.pass_time(1.0)
    assert not says(effects, B, SwarmSlot), "who has less has another turn"
    effects = alone.pass_time(1.1)
    assert [slot.open for slot in says(effects, A, SwarmSlot)] == [False]
    assert [slot.open for slot in says(effects, B, SwarmSlot)] == [True]
