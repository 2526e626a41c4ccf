"""What state machines of engines over `Wires` have in common: messages in any order, copies and losses."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from atmo.engine import Send
from atmo.identity import NodeId
from tests.gossip.kit import at
from tests.gossip.network import Sent, Wires

PICK = st.integers(0, 999)


class WireMachine(RuleBasedStateMachine):
    """Engines that only exchange messages; none of them is ever to blame."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.wires = Wires()

    @abstractmethod
    def engine(self, node: NodeId) -> Any:
        """Returns the engine of a node."""

    @abstractmethod
    def receive(self, sent: Sent) -> None:
        """Gives a message to the engine of its receiver."""

    def perform(self, node: NodeId) -> None:
        for effect in self.engine(node).drain():
            assert isinstance(effect, Send), "no honest node is to blame"
            assert effect.to != node
            self.wires.send(node, effect)

    def deliver(self, sent: Sent) -> None:
        self.receive(sent)
        self.perform(sent.to)

    def toggle(self, one: NodeId, two: NodeId) -> None:
        linked = self.wires.are_linked(one, two)
        (self.wires.down if linked else self.wires.up)(one, two)
        for node, other in ((one, two), (two, one)):
            engine = self.engine(node)
            (engine.link_down if linked else engine.link_up)(at(self.now), other)
            self.perform(node)

    @precondition(lambda self: len(self.wires) > 0)
    @rule(pick=PICK)
    def one_is_delivered(self, pick: int) -> None:
        self.deliver(self.wires.take(pick))

    @precondition(lambda self: len(self.wires) > 0)
    @rule(pick=PICK)
    def one_is_copied(self, pick: int) -> None:
        self.deliver(self.wires.take(pick, copy=True))

    @precondition(lambda self: len(self.wires) > 0)
    @rule(pick=PICK)
    def one_is_lost(self, pick: int) -> None:
        self.wires.take(pick)
