"""Broadcast: everything once, to everyone but where it came from."""

from __future__ import annotations

import math

from atmo.engine import Send
from atmo.gossip.broadcast import Broadcast, BroadcastConfig
from atmo.gossip.messages import Flood
from tests.gossip.kit import at
from tests.trust.kit import ANNA, BERT, EVE


def test_an_envelope_goes_to_all_neighbours_but_its_source() -> None:
    broadcast = Broadcast(BroadcastConfig())
    for node in (ANNA, BERT, EVE):
        broadcast.link_up(node.node_id)
    broadcast.forward(b"news", BERT.node_id)
    assert broadcast.drain() == [Send(ANNA.node_id, Flood(b"news")), Send(EVE.node_id, Flood(b"news"))]
    broadcast.link_down(ANNA.node_id)
    broadcast.link_down(ANNA.node_id)
    broadcast.forward(b"own", None)
    assert [effect.to for effect in broadcast.drain() if isinstance(effect, Send)] == [BERT.node_id, EVE.node_id]
    assert broadcast.stats.sent == 4


def test_what_was_remembered_is_known_until_newer_things_push_it_out() -> None:
    broadcast = Broadcast(BroadcastConfig(seen_entries=2))
    assert not broadcast.knows(b"1")
    for envelope in (b"1", b"2"):
        broadcast.remember(envelope)
    assert broadcast.knows(b"1")
    broadcast.remember(b"3")
    assert [broadcast.knows(envelope) for envelope in (b"1", b"2", b"3")] == [True, False, True]
    assert broadcast.stats.duplicates == 3


def test_it_has_no_timer() -> None:
    broadcast = Broadcast(BroadcastConfig())
    broadcast.handle_timer(at(5))
    assert broadcast.next_timer() == math.inf
