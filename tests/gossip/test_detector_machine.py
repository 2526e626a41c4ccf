"""Any order of signs of life, answers, silences and late timers: no link ends that was heard, every silent one does."""

from __future__ import annotations

from random import Random

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from atmo.engine import Emit, Hangup, Send
from atmo.gossip.detector import Detector, DetectorConfig, LinkSilent, LinkSuspect, LinkTrusted
from atmo.gossip.messages import Ping, Pong, ProbeAnswer, ProbeRequest
from atmo.identity import NodeId
from tests.gossip.hyparview_kit import at, node

OWN, *NODES = [node(number) for number in (3, 1, 2, 4, 5, 6)]
CONFIG = DetectorConfig()


class Links(RuleBasedStateMachine):
    """One detector among five nodes that do anything."""

    def __init__(self) -> None:
        super().__init__()
        self.detector = Detector(CONFIG, OWN, Random(1))
        self.now = 0.0
        self.heard: dict[NodeId, float] = {}
        self.suspect: dict[NodeId, None] = {}
        self.over: dict[NodeId, None] = {}
        self.pings: list[tuple[NodeId, int]] = []
        self.slept = False

    def perform(self) -> None:
        for effect in self.detector.drain():
            match effect:
                case Send(to, message):
                    assert to in self.heard or isinstance(message, Pong | ProbeAnswer)
                    if isinstance(message, Ping):
                        assert to not in self.over
                        self.pings = [*self.pings[-20:], (to, message.nonce)]
                    elif isinstance(message, ProbeRequest):
                        assert to != message.target
                        assert to not in self.suspect
                case Emit(LinkSuspect(other)):
                    assert other not in self.suspect
                    assert self.now - self.heard[other] >= CONFIG.suspect_s - 1e-9
                    self.suspect[other] = None
                case Emit(LinkTrusted(other)):
                    assert other not in self.over
                    del self.suspect[other]
                case Emit(LinkSilent(other)):
                    assert other in self.suspect
                    assert self.now - self.heard[other] >= CONFIG.silent_s - 1e-9
                    self.over[other] = None
                case Hangup(other):
                    assert other in self.over
                case other:
                    raise AssertionError(other)

    def step(self, end: float) -> None:
        for _ in range(500):
            due = self.detector.next_timer()
            if due > end:
                break
            self.now = max(self.now, due)
            self.detector.handle_timer(at(self.now))
            self.perform()
        else:
            raise AssertionError("the timer spins")
        self.now = max(self.now, end)

    @rule(other=st.sampled_from(NODES))
    def a_link_comes(self, other: NodeId) -> None:
        if other not in self.heard:
            self.heard[other] = self.now
            self.detector.link_up(at(self.now), other)
            self.perform()

    @rule(other=st.sampled_from(NODES))
    def a_link_goes(self, other: NodeId) -> None:
        self.detector.link_down(at(self.now), other)
        for known in (self.heard, self.suspect, self.over):
            known.pop(other, None)
        self.perform()

    @rule(
        other=st.sampled_from(NODES),
        message=st.none()
        | st.builds(Ping, st.integers(0, 9))
        | st.builds(Pong, st.integers(-1, 9), st.integers(-1, 9))
        | st.builds(ProbeRequest, st.sampled_from([OWN, *NODES]))
        | st.builds(ProbeAnswer, st.sampled_from([OWN, *NODES]), st.booleans()),
    )
    def a_message_comes(self, other: NodeId, message: object) -> None:
        self.say(other, message)

    @precondition(lambda self: self.pings)
    @rule(pick=st.integers(0, 20), again=st.booleans())
    def a_ping_is_answered(self, pick: int, again: bool) -> None:
        other, nonce = self.pings[pick % len(self.pings)]
        for _ in range(1 + again):
            self.say(other, Pong(nonce))

    def say(self, other: NodeId, message: object) -> None:
        if other in self.heard and other not in self.over:
            self.heard[other] = self.now
        self.detector.heard(at(self.now), other)
        if message is not None:
            self.detector.receive(at(self.now), other, message)  # type: ignore[arg-type]
        self.perform()

    @rule(seconds=st.floats(0, 10))
    def time_passes(self, seconds: float) -> None:
        self.step(self.now + seconds)

    @rule(seconds=st.floats(0.6, 100))
    def this_node_sleeps(self, seconds: float) -> None:
        self.now += seconds
        self.detector.handle_timer(at(self.now))
        self.perform()

    @invariant()
    def the_rules_hold(self) -> None:
        assert 0 <= self.detector.health <= CONFIG.health_most
        assert list(self.detector.links) == list(self.heard)

    def teardown(self) -> None:
        self.step(self.now + 2 * CONFIG.scaled_most_s + 10)
        assert len(self.over) == len(self.heard), "whoever is silent is hung up in the end"


Links.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestLinks = Links.TestCase
