"""One engine of a swarm: what it says to what it is told, nonsense included."""

from __future__ import annotations

from typing import Any

import pytest

from atmo.engine import Ask, Contact, FetchChunk, Misbehaved
from atmo.transfer.bits import to_bytes
from atmo.transfer.config import SlotsConfig, SwarmConfig
from atmo.transfer.messages import (
    CHUNKS_MOST,
    SwarmHave,
    SwarmHello,
    SwarmLeave,
    SwarmPeer,
    SwarmPeers,
    SwarmSlot,
)
from tests.transfer.kit import KIB, NAME, SWARM, Alone, node, says

A, B = node(2), node(3)


@pytest.mark.parametrize(
    "nonsense",
    [
        SwarmHello(SWARM, 9),
        SwarmHello(SWARM, 8, b"\0\1"),
        SwarmHave(SWARM, (8,)),
        SwarmSlot(SWARM, True, (9,)),
    ],
)
@pytest.mark.parametrize("whole", [True, False])
def test_nonsense_is_misbehaviour(nonsense: Any, whole: bool) -> None:
    alone = Alone(whole=whole)
    alone.hear(A, SwarmHello(SWARM, 8, b"\1", False, True))
    effects = alone.hear(A, nonsense)
    assert [effect.peer for effect in effects if isinstance(effect, Misbehaved)] == [A]


def test_what_strangers_say_counts_for_nothing() -> None:
    alone = Alone()
    for message in (SwarmHave(SWARM, (1,)), SwarmSlot(SWARM, True), SwarmPeers(SWARM, ()), SwarmLeave(SWARM)):
        assert not [effect for effect in alone.hear(A, message) if not isinstance(effect, Ask)]
    other = bytes(32)
    assert says(alone.hear(A, SwarmHello(other, 8)), A, SwarmLeave) == [SwarmLeave(other)]
    assert alone.hear(A, SwarmHello(other, 8, answer=True)) == []
    assert alone.hear(A, SwarmHave(other, (1,))) == []
    assert Alone(whole=True).hear(A, SwarmPeers(SWARM, ())) == []


def test_a_holder_ignores_whom_its_partners_name() -> None:
    alone = Alone(whole=True)
    alone.hear(A, SwarmHello(SWARM, 8))
    assert alone.hear(A, SwarmPeers(SWARM, (SwarmPeer(Contact(B, ())),))) == []
    assert alone.hear(A, SwarmSlot(SWARM, True)) == []


def test_only_what_a_partner_serves_and_has_is_asked_for() -> None:
    alone = Alone()
    alone.hear(A, SwarmHello(SWARM, 8, b"\3", False, True))
    asked = [effect.index for effect in alone.hear(A, SwarmSlot(SWARM, True)) if isinstance(effect, FetchChunk)]
    assert sorted(asked) == [0, 1]
    alone.hear(B, SwarmHello(SWARM, 8, b"\xff", False, False))
    assert not [effect for effect in alone.hear(B, SwarmSlot(SWARM, True)) if isinstance(effect, FetchChunk)]
    alone.hear(B, SwarmHave(SWARM, (1,)))


def test_a_closed_slot_asks_for_nothing_more_and_advice_narrows() -> None:
    alone = Alone()
    alone.hear(A, SwarmHello(SWARM, 8, whole=True, serves=True))
    effects = alone.hear(A, SwarmSlot(SWARM, True, (3, 5, 6)))
    assert sorted(effect.index for effect in effects if isinstance(effect, FetchChunk)) == [3, 5, 6]
    alone.hear(A, SwarmSlot(SWARM, False))
    alone.engine.chunk_done(alone.now, NAME, A, 3)
    assert not [effect for effect in alone.engine.drain() if isinstance(effect, FetchChunk)]
    alone.hear(A, SwarmHello(SWARM, 8, whole=True, serves=True))
    assert not [effect for effect in alone.engine.drain() if isinstance(effect, FetchChunk)]


def test_an_adviser_hears_at_once_what_arrived() -> None:
    alone = Alone()
    alone.hear(A, SwarmHello(SWARM, 8, whole=True, serves=True))
    alone.hear(A, SwarmSlot(SWARM, True, (3,)))
    alone.engine.chunk_done(alone.now, NAME, A, 3)
    assert says(alone.engine.drain(), A, SwarmHave) == [SwarmHave(SWARM, (3,))]
    assert says(alone.pass_time(0.2), A, SwarmHave) == [SwarmHave(SWARM, (3,))]


def test_a_hello_of_somebody_whole_to_somebody_whole_ends_it() -> None:
    alone = Alone(whole=True)
    alone.hear(A, SwarmHello(SWARM, 8, b"\1"))
    alone.hear(A, SwarmHave(SWARM, (1, 2)))
    assert alone.engine.partners(NAME) == (A,)
    assert alone.hear(A, SwarmHello(SWARM, 8, whole=True)) == []
    assert alone.engine.partners(NAME) == ()


def test_a_second_hello_is_answered_and_others_are_named_seldom() -> None:
    alone = Alone(whole=True)
    hello = SwarmHello(SWARM, 8, b"\1", seeks=5)
    assert not says(alone.hear(A, hello), A, SwarmPeers), "there is nobody else"
    assert says(alone.hear(B, hello), B, SwarmPeers) == [SwarmPeers(SWARM, (SwarmPeer(Contact(A, ())),))]
    effects = alone.hear(B, hello)
    assert len(says(effects, B, SwarmHello)) == 1
    assert not says(effects, B, SwarmPeers)


def test_a_model_that_is_gone_is_told() -> None:
    alone = Alone(whole=True)
    alone.hear(A, SwarmHello(SWARM, 8, b"\1"))
    alone.engine.unshare(alone.now, NAME)
    assert says(alone.engine.drain(), A, SwarmLeave) == [SwarmLeave(SWARM)]
    assert says(alone.hear(A, SwarmHello(SWARM, 8)), A, SwarmLeave) == [SwarmLeave(SWARM)]


def test_a_cancelled_download_is_told_and_one_that_begins_anew_is_not_whole() -> None:
    alone = Alone()
    alone.hear(A, SwarmHello(SWARM, 8, b"\1"))
    alone.engine.cancel(alone.now, NAME)
    assert says(alone.engine.drain(), A, SwarmLeave)
    alone.engine.share(alone.now, NAME, 8)
    alone.engine.want(alone.now, NAME, [KIB] * 8, {0}, [], serves=True)
    hello = says(alone.hear(B, SwarmHello(SWARM, 8)), B, SwarmHello)[0]
    assert (hello.has, hello.whole) == (to_bytes(1, 8), False)


def test_swarms_are_bounded_and_only_manifests_name_them() -> None:
    alone = Alone(swarm=SwarmConfig(swarms=1))
    other = bytes(32)
    alone.engine.share(alone.now, other.hex(), 5)
    assert says(alone.hear(A, SwarmHello(other, 5)), A, SwarmLeave)
    alone.engine.share(alone.now, "no manifest", 5)
    alone.engine.share(alone.now, "cd" * 32, CHUNKS_MOST + 1)
    assert list(alone.engine._shared) == [other.hex()]


def test_who_has_left_is_no_source() -> None:
    alone = Alone()
    alone.engine.source_up(alone.now, NAME, A)
    alone.hear(A, SwarmHello(SWARM, 8, whole=True, serves=True, answer=True))
    alone.hear(A, SwarmSlot(SWARM, True))
    alone.engine.source_left(alone.now, NAME, A)
    assert alone.engine.partners(NAME) == ()
    progress = alone.engine.progress(alone.now, NAME)
    assert progress is not None
    assert progress.waiting


def test_what_is_fetched_anew_is_still_fetched_when_the_old_copy_goes() -> None:
    alone = Alone()
    alone.engine.unshare(alone.now, NAME)
    assert alone.engine.progress(alone.now, NAME) is not None


def test_holders_are_bounded_and_a_link_to_one_that_is_no_partner_yet_may_end() -> None:
    alone = Alone(swarm=SwarmConfig(known=1))
    alone.engine.source_up(alone.now, NAME, A)
    alone.engine.source_up(alone.now, NAME, B)
    greeted = [effect.contact.node for effect in alone.engine.drain() if isinstance(effect, Ask)]
    assert greeted == [A]
    alone.engine.source_down(alone.now, A)
    assert alone.engine.partners(NAME) == ()


def test_a_holder_is_left_by_a_partner_that_has_enough_others() -> None:
    alone = Alone(whole=True)
    alone.hear(A, SwarmHello(SWARM, 8, b"\1"))
    alone.hear(B, SwarmHello(SWARM, 8, b"\1"))
    assert alone.hear(A, SwarmLeave(SWARM, member=True)) == []
    assert alone.engine.partners(NAME) == (B,)


def test_fewer_slots_are_left_when_the_line_is_slower_than_it_was() -> None:
    alone = Alone(whole=True, slots=SlotsConfig(least=1, most=4, bytes_s=1e6))
    for number in range(10, 16):
        alone.hear(node(number), SwarmHello(SWARM, 8, b"\1"))
    for _ in range(20):
        alone.mesh.now += 0.1
        assert alone.engine.may_serve(alone.now, node(10), 400_000) == 0.0
        alone.engine.served(alone.now, node(10), 400_000)
    alone.pass_time(0.1)
    assert len(alone.engine.slots._held) == 4
    for _ in range(5):
        alone.pass_time(3.0)
    assert len(alone.engine.slots._held) == 1


def test_who_has_no_partner_greets_its_holders_again() -> None:
    alone = Alone()
    alone.engine.source_up(alone.now, NAME, A)
    alone.engine.source_down(alone.now, A)
    alone.engine.drain()
    assert [effect.contact.node for effect in alone.pass_time(0.6) if isinstance(effect, Ask)] == [A]
    assert not [effect for effect in alone.pass_time(1.1) if isinstance(effect, Ask)], "an answer may be on its way"
    assert [effect.index for effect in alone.pass_time(5.0) if isinstance(effect, FetchChunk)]
    asked = len(alone.engine._downloads[NAME].sources[A].under_way)
    alone.pass_time(5.0)
    alone.hear(A, SwarmLeave(SWARM))
    assert len(alone.engine._downloads[NAME].sources[A].under_way) == asked, "what it was asked for is not taken back"
