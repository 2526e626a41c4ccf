"""Helpers around one `RecordSync`: what it told of, its timer, and a comparison with another."""

from __future__ import annotations

from random import Random

from atmo.clock import Now
from atmo.engine import Emit, Send
from atmo.gossip.messages import Records
from atmo.gossip.reconcile import Reconciler
from atmo.gossip.reconcile_config import ReconcileConfig
from atmo.gossip.sync import RecordChanged, RecordSync, Refusal, Signed, Verdict
from atmo.identity import Signer
from tests.gossip.kit import at, of
from tests.trust.kit import BERT

NO = Refusal("no", fault=True)
NEWS, KNOWN, REFUSED, BROKEN, UNENTITLED, NEAR = Verdict


def changes(engine: RecordSync) -> list[RecordChanged]:
    """Returns the changes that it told of since the last look."""
    return [effect.event for effect in of(engine.drain(), Emit) if isinstance(effect.event, RecordChanged)]


def said(engine: RecordSync) -> list[bytes]:
    """Returns the envelopes for the broadcast."""
    return [effect.event.envelope for effect in of(engine.drain(), Emit) if isinstance(effect.event, Signed)]


def run(engine: RecordSync, begin: float, end: float) -> None:
    """Serves the timer."""
    while (due := engine.next_timer()) <= end:
        now = max(due, begin)
        engine.handle_timer(at(now))
        assert engine.next_timer() > now, "a timer that was served moves on"


def signed(engine: RecordSync, begin: float, end: float) -> list[bytes]:
    """Serves the timer; returns the envelopes for the broadcast that it made."""
    engine.drain()
    run(engine, begin, end)
    return said(engine)


def accept(engine: RecordSync, envelope: bytes, now: Now = at(0)) -> Verdict:
    """Gives an engine a record by way of Bert."""
    return engine.accept_untrusted(now, BERT.node_id, envelope)


def heal(one: tuple[Signer, RecordSync], two: tuple[Signer, RecordSync], now: Now) -> int:
    """Lets two engines compare all they have; returns how many records were sent."""
    engines = {name.node_id: engine for name, engine in (one, two)}
    ends = {node: Reconciler(ReconcileConfig(), engine.table, Random(1)) for node, engine in engines.items()}
    first, second = ends
    ends[first].link_up(now, second)
    ends[second].link_up(now, first)
    ends[first].handle_timer(Now(now.mono + 1, now.wall))
    while effects := [(node, effect) for node, end in ends.items() for effect in of(end.drain(), Send)]:
        for node, effect in effects:
            if isinstance(effect.message, Records):
                for envelope in effect.message.envelopes:
                    engines[effect.to].accept_untrusted(now, node, envelope)
            else:
                ends[effect.to].receive(now, node, effect.message)
    return sum(end.stats.sent for end in ends.values())
