"""The effects and the box they wait in."""

from __future__ import annotations

from atmo.clock import Now
from atmo.engine import Address, Dial, Effect, Emit, Hangup, Outbox, Send
from atmo.identity import NodeId

NODE = NodeId(b"n" * 32)


def test_effects_come_out_once_and_in_order() -> None:
    outbox = Outbox()
    effects: list[Effect] = [
        Dial(NODE, (Address("127.0.0.1", 1),)),
        Send(NODE, "hello"),
        Hangup(NODE, "bye"),
        Emit("event"),
    ]
    for effect in effects:
        outbox.put(effect)
    assert outbox.drain() == effects
    assert outbox.drain() == []


def test_an_instant_has_two_clocks() -> None:
    assert Now(1.0, 2.0) == Now(mono=1.0, wall=2.0)
