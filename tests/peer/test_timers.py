"""What a peer remembers of its engines' timers is what they would say."""

from __future__ import annotations

import pytest

from atmo.peer import Peer
from tests.peer.kit import model
from tests.sim.kit import small

ASKED = Peer.next_timer


def test_no_timer_is_remembered_that_has_moved(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = 0

    def next_timer(peer: Peer) -> float:
        nonlocal asked
        asked += 1
        remembered = ASKED(peer)
        assert remembered == min(timer() for timer in peer._timers)
        return remembered

    monkeypatch.setattr(Peer, "next_timer", next_timer)
    world, nodes = small(count=9)
    world.run(20.0)
    world.crash(nodes[2])
    held = model()
    world.command(nodes[4], lambda peer, now: peer.publish_models(now, [held]))
    world.run(20.0)
    world.start(nodes[2], [nodes[0]])
    world.leave(nodes[5])
    world.run(60.0)
    assert asked > 3_000
