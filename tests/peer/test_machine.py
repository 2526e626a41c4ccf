"""A few whole peers whose messages are late, lost, doubled and out of order, and which stop and start again."""

from __future__ import annotations

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from atmo.engine import Dial, Effect, Hangup, Misbehaved, Send, Store
from atmo.identity import NodeId
from atmo.peer.messages import decode_message_untrusted, encode_message
from tests.peer.kit import Side, Table, model
from tests.trust.kit import admin_certificate, signer

NAMES = ("founder", "admin", "anna", "bert")
WHO = st.sampled_from(NAMES)
HEAL_S = 240.0
"""Links that messages were lost on are given up and dialled again, and every slot is compared: a few rounds."""


class Mail(Table):
    """A table whose messages can be kept back.

    Attributes:
        keeps: Messages are kept in `letters` until they are delivered.
        letters: Sender, receiver, number of their link and bytes, the oldest first.
        met: With whom each peer ever had a link, and the number of the newest one.
    """

    def __init__(self) -> None:
        super().__init__()
        self.keeps = False
        self.letters: list[tuple[NodeId, NodeId, int, bytes]] = []
        self.met: dict[tuple[NodeId, NodeId], int] = {}
        self.joined = 0

    def _join(self, one: Side, two: Side, path: str) -> None:
        self.joined += 1
        self.met[one.id, two.id] = self.met[two.id, one.id] = self.joined
        super()._join(one, two, path)

    def _perform(self, side: Side, effect: Effect) -> None:
        match effect:
            case Send(to) | Hangup(to):
                assert (side.id, to) in self.met, effect
            case Dial(to, addresses):
                assert to != side.id
                assert addresses
            case _:
                pass
        if isinstance(effect, Send) and self.keeps:
            if (side.id, effect.to) in self.links:
                link = self.met[side.id, effect.to]
                self.letters.append((side.id, effect.to, link, encode_message(effect.message)))
        else:
            super()._perform(side, effect)

    def deliver(self, letter: tuple[NodeId, NodeId, int, bytes]) -> None:
        """Brings one message to its receiver, where its link is still there."""
        source, to, link, data = letter
        if (source, to) in self.links and to in self.sides and self.met[source, to] == link:
            self.sides[to].peer.receive(self.now, source, decode_message_untrusted(data), len(data))
            self.settle()

    def deliver_all(self) -> None:
        """Brings all that is kept, and keeps nothing any more."""
        while self.letters:  # answers come after them
            self.deliver(self.letters.pop(0))
        self.keeps = False


class Mesh(RuleBasedStateMachine):
    """Four peers that dial each other where that is allowed."""

    def __init__(self) -> None:
        super().__init__()
        self.table = Mail()
        self.epochs = dict.fromkeys(NAMES, 0)
        self.disks: dict[str, dict[str, bytes | None]] = {name: {} for name in NAMES}
        self.lossy = False
        self.told = 0
        for name in NAMES:
            self._start(name)

    def _side(self, name: str) -> Side | None:
        return self.table.sides.get(signer(name).node_id)

    def _start(self, name: str) -> None:
        self.epochs[name] += 1
        records = [value for value in self.disks[name].values() if value is not None]
        own = admin_certificate() if name == "admin" else None
        self.table.add(signer(name), name, sealed=own, epoch=self.epochs[name], records=records)

    def _keep(self) -> None:
        for side in self.table.sides.values():
            for effect in side.log:
                if isinstance(effect, Store):
                    self.disks[self._name(side)][effect.key] = effect.value
            side.log = [effect for effect in side.log if isinstance(effect, Misbehaved)]

    @staticmethod
    def _name(side: Side) -> str:
        return next(name for name in NAMES if signer(name).node_id == side.id)

    # --- the network ----------------------------------------------------------------------------------------------

    @rule(one=WHO, two=WHO)
    def link(self, one: str, two: str) -> None:
        first, second = self._side(one), self._side(two)
        if first and second and first is not second:
            self.table._join(first, second, "direct")
            self.table.settle()

    @rule(one=WHO, two=WHO)
    def cut(self, one: str, two: str) -> None:
        self.table.cut(signer(one).node_id, signer(two).node_id)
        self.table.settle()

    @rule(answering=st.booleans())
    def firewall(self, answering: bool) -> None:
        self.table.answering = answering

    @rule()
    def keep_back(self) -> None:
        self.table.keeps = True

    @rule()
    def deliver(self) -> None:
        self.table.deliver_all()

    @precondition(lambda self: self.table.letters)
    @rule(data=st.data(), what=st.sampled_from(["drop", "double", "late", "soon"]))
    def disturb(self, data: Any, what: str) -> None:
        letters = self.table.letters
        self.lossy = True
        letter = letters.pop(data.draw(st.integers(0, len(letters) - 1)))
        if what == "double":
            letters.insert(0, letter)
        if what == "late":
            letters.append(letter)
        elif what != "drop":
            self.table.deliver(letter)

    # --- the peers ------------------------------------------------------------------------------------------------

    @rule(who=WHO)
    def tell(self, who: str) -> None:
        self.told += 1
        if side := self._side(who):
            side.tells(lambda peer, now: peer.publish_models(now, [model(str(self.told))]))

    @rule(who=WHO, leaves=st.booleans())
    def stop(self, who: str, leaves: bool) -> None:
        if side := self._side(who):
            if leaves:
                side.tells(lambda peer, now: peer.leave(now))
            self._keep()
            self.table.die(side)

    @rule(who=WHO, disk=st.booleans())
    def start(self, who: str, disk: bool) -> None:
        if not disk:
            self.disks[who] = {}
        if self._side(who) is None:
            for name in NAMES:  # whoever still has a link to the former run gets to know
                self.table.cut(signer(name).node_id, signer(who).node_id)
            self._start(who)

    @rule(seconds=st.sampled_from([0.2, 3.0, 15.0, 120.0]))
    def advance(self, seconds: float) -> None:
        if self.table.sides:
            self.table.advance(seconds)

    # --- what always holds ----------------------------------------------------------------------------------------

    @invariant()
    def nobody_is_to_blame(self) -> None:
        """Only what a lossy network makes of honest words looks like a fault."""
        self._keep()
        for side in self.table.sides.values():
            assert self.lossy or side.faults() == []

    @invariant()
    def only_members_are_acted_on(self) -> None:
        for side in self.table.sides.values():
            peer = side.peer
            for node in peer.linked():
                assert (side.id, node) in self.table.links
                assert peer.trust.is_member(self.table.wall, node)
            assert all(node in peer.linked() for node in peer.neighbours())
            assert all(peer._links.get(node) for node in peer.detector.links)
            assert all(peer.trust.member(author) for author in peer.sync.authors())

    @invariant()
    def what_is_remembered_of_timers_is_what_they_say(self) -> None:
        for side in self.table.sides.values():
            assert side.peer.next_timer() == min(timer() for timer in side.peer._timers)

    @invariant()
    def queries_answer(self) -> None:
        for side in self.table.sides.values():
            assert side.names()[0] == self._name(side)
            side.models()
            side.peer.offers(self.table.now)
            side.peer.links(self.table.now)

    def teardown(self) -> None:
        """Once everything answers and nothing is lost, all know the same and each other."""
        for name in NAMES:
            if self._side(name) is None:
                self.start(name, True)
        self.table.answering = True
        self.table.deliver_all()
        sides = list(self.table.sides.values())
        known = [envelope for side in sides[1:] for envelope in side.peer.node_records()]
        sides[0].tells(lambda peer, now: peer.load_records(now, known))  # as to one who joins again
        self.table.advance(HEAL_S)
        tables = [side.peer.sync.versions() for side in sides]
        assert all(versions == tables[0] for versions in tables)
        for side in sides:
            assert sorted(side.names()) == sorted(NAMES)
            assert all(side.peer.is_present(other.id) for other in sides)


TestMesh = Mesh.TestCase
TestMesh.settings = settings(max_examples=8, stateful_step_count=25)
