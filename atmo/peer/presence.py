"""Presence: which members are believed to live, in a mesh in which nobody is linked with everybody.

A node whose neighbour falls silent dials it once more; if nobody answers, it tells the mesh in its `absent` record:
this member, as of this version of its node record, is not there. Whoever hears of it suspects the member, the shorter
the more nodes witness it (the suspicion of Lifeguard, arXiv 1707.00788 section IV.B), and then holds it for gone. The
version is the tombstone: nothing the member said up to it counts as life, so what travels late brings nobody back.
A member that lives hears of its absence, too, and answers with a newer node record, which ends the matter everywhere.

Witnesses may lie. An absence counts only as of a version that the member itself signed: of one that is not known here
it waits for that record, or a number nobody ever reaches would bury the living for good. What a witness takes back
counts as wrong like what a member answers, or it could have everybody answer again and again at no cost.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from random import Random
from typing import Annotated

from atmo.clock import Now
from atmo.engine import Effect, Emit, Outbox
from atmo.identity import NodeId
from atmo.wire.schema import Most

ABSENT = "absent"
ABSENCES_MOST = 64

Version = tuple[int, int]
"""Epoch and sequence of a node record."""


@dataclass(frozen=True, slots=True)
class Absence:
    """One member that is not there.

    Attributes:
        node: Who.
        epoch, sequence: Of its newest node record that the witness knows.
    """

    node: NodeId
    epoch: Annotated[int, Most(2**53)]
    sequence: Annotated[int, Most(2**53)]


@dataclass(frozen=True, slots=True)
class AbsentBody:
    """The body of an `absent` record: all members that its author misses."""

    absences: Annotated[tuple[Absence, ...], Most(ABSENCES_MOST)]


@dataclass(frozen=True, slots=True)
class NodeGone:
    """A member is believed to be gone."""

    node: NodeId


@dataclass(frozen=True, slots=True)
class NodeBack:
    """A member that was gone lives."""

    node: NodeId


@dataclass(frozen=True, slots=True)
class AbsencesChanged:
    """What this node has to tell of absent members, in place of what it told before."""

    body: AbsentBody


@dataclass(frozen=True, slots=True)
class Refute:
    """The mesh misses this very node: it has to say something newer."""


@dataclass(frozen=True, slots=True)
class PresenceConfig:
    """Times and bounds.

    Attributes:
        suspect_most_s: A member that one node alone misses is held for gone after this. Source: Lifeguard's maximum is
            six times its minimum.
        suspect_least_s: The same with many witnesses: time enough for the member to hear of it and answer.
        confirmations: Witnesses beyond the first that bring it down to that. Source: Lifeguard, K = 3.
        batch_s: Absences noticed so close together are told in one record. Source: guess.
        refute_s: Answers to false absences are at least so far apart. Source: guess.
        refute_spread_s: All members of a healed partition are missed at once: their answers are spread over this.
        refute_slow_s: In place of `refute_s` where the witness was wrong too often: who came later and does not know
            that believes it after `suspect_most_s`.
        false_most: Who missed so many members that then answered is not listened to. Source: guess.
        forgive_s: Each such time forgives one of them. Source: guess.
    """

    suspect_most_s: float = 24.0
    suspect_least_s: float = 4.0
    confirmations: int = 3
    batch_s: float = 0.5
    refute_s: float = 5.0
    refute_spread_s: float = 1.0
    refute_slow_s: float = 15.0
    false_most: int = 16
    forgive_s: float = 120.0


@dataclass(slots=True)
class PresenceStats:
    """Counters since start.

    Attributes:
        witnessed: Members that this node missed itself.
        gone: Members held for gone.
        back: Of those, who came back.
        refuted: Times that this node answered that it lives.
        ignored: Absences told by nodes that were wrong too often.
    """

    witnessed: int = 0
    gone: int = 0
    back: int = 0
    refuted: int = 0
    ignored: int = 0


@dataclass(eq=False, slots=True)
class _Case:
    version: Version
    began: float
    due: float
    witnesses: dict[NodeId, None] = field(default_factory=dict)


@dataclass(eq=False, slots=True)
class _Record:
    count: float
    at: float


class Presence:
    """Decides who lives.

    Args:
        config: Times and bounds.
        own: This node.
        rng: Spreads answers.

    Attributes:
        changes: How often somebody was held for gone, or was not any more.
    """

    def __init__(self, config: PresenceConfig, own: NodeId, rng: Random) -> None:
        self._config = config
        self._own = own
        self._rng = rng
        self._known: dict[NodeId, Version] = {}  # of the newest node records
        self._tombstones: dict[NodeId, Version] = {}
        self._cases: dict[NodeId, _Case] = {}
        self._said: dict[NodeId, tuple[Absence, ...]] = {}
        self._ahead: dict[NodeId, dict[NodeId, Version]] = {}  # absences as of versions that are not known, by author
        self._missed: dict[NodeId, Version] = {}  # by this node
        self._false: dict[NodeId, _Record] = {}
        self._tell_at = math.inf
        self._refute_at = math.inf
        self._refuted_at = -math.inf
        self._next_case = math.inf
        self.out = Outbox()
        self.stats = PresenceStats()
        self.changes = 0

    # --- queries --------------------------------------------------------------------------------------------------

    def is_gone(self, node: NodeId) -> bool:
        """Says whether a member is held for gone."""
        return node in self._tombstones

    # --- what this node sees --------------------------------------------------------------------------------------

    def recorded(self, now: Now, node: NodeId, version: Version, *, leaving: bool = False) -> None:
        """There is a new node record of a member; a leaving one is its own tombstone."""
        self._known[node] = version
        if leaving and node != self._own:
            self._cases.pop(node, None)
            self._bury(node, version)
            return
        if (tombstone := self._tombstones.get(node)) is not None and version > tombstone:
            self._raise(node)
        if (case := self._cases.get(node)) and version > case.version:
            self._refuted(now, node, case)
        if (missed := self._missed.get(node)) is not None and version > missed:
            self._unmiss(now, node)
        for author, told in list(self._ahead.get(node, {}).items()):
            if told <= version:
                self._caught_up(author, node)
                self._accuse(now, author, node, told)

    def unrecorded(self, node: NodeId) -> None:
        """The node record of a member expired, or it is no member any more: there is nothing to decide."""
        self._known.pop(node, None)
        self._tombstones.pop(node, None)
        self._cases.pop(node, None)
        self._missed.pop(node, None)

    def linked(self, now: Now, node: NodeId) -> None:
        """This node has a link to the member: there is no better proof of life."""
        if node in self._missed:
            self._unmiss(now, node)
        if node in self._tombstones:
            self._raise(node)

    def missed(self, now: Now, node: NodeId) -> None:
        """A neighbour fell silent, and nobody answered when this node dialled it again."""
        version = self._known.get(node)
        if version is None or node in self._missed or len(self._missed) >= ABSENCES_MOST:
            return
        self.stats.witnessed += 1
        self._missed[node] = version
        case = self._cases.get(node)
        if case is None or len(case.witnesses) <= self._config.confirmations:
            self._tell_at = min(self._tell_at, now.mono + self._config.batch_s)
        if node not in self._tombstones:
            self._bury(node, version)

    def _unmiss(self, now: Now, node: NodeId) -> None:
        del self._missed[node]
        self._tell_at = min(self._tell_at, now.mono + self._config.batch_s)

    def _bury(self, node: NodeId, version: Version) -> None:
        if node not in self._tombstones:
            self.changes += 1
            self.stats.gone += 1
            self.out.put(Emit(NodeGone(node)))
        self._tombstones[node] = version

    def _raise(self, node: NodeId) -> None:
        del self._tombstones[node]
        self.changes += 1
        self.stats.back += 1
        self.out.put(Emit(NodeBack(node)))

    # --- what others say ------------------------------------------------------------------------------------------

    def told(self, now: Now, author: NodeId, body: AbsentBody | None) -> None:
        """A member tells whom it misses, in place of what it told before; None takes all of it back."""
        before = {absence.node: absence for absence in self._said.pop(author, ())}
        absences = body.absences if body else ()
        ignored = bool(absences) and self._is_unreliable(now, author)
        if ignored:
            self.stats.ignored += 1
            if any(absence.node == self._own for absence in absences):
                self._answer(now, self._config.refute_slow_s)
            absences = ()
        if absences:
            self._said[author] = absences
        for absence in absences:
            if before.pop(absence.node, None) != absence:
                self._caught_up(author, absence.node)
                self._accuse(now, author, absence.node, (absence.epoch, absence.sequence))
        for node in before:
            self._caught_up(author, node)
            if self._acquit(author, node) and not ignored:
                self._was_wrong(now, author)

    def _accuse(self, now: Now, author: NodeId, node: NodeId, version: Version) -> None:
        known = self._known.get(node)
        if known is None or version > known:
            self._ahead.setdefault(node, {})[author] = version
            return
        if version < known:
            return
        if node == self._own:
            self._was_wrong(now, author)
            self._answer(now, self._config.refute_s)
            return
        if node in self._tombstones:
            return
        case = self._cases.get(node)
        if case is None:
            case = self._cases[node] = _Case(version, now.mono, math.inf)
        case.witnesses[author] = None
        case.due = case.began + self._patience_s(len(case.witnesses))
        self._next_case = min(self._next_case, case.due)

    def _caught_up(self, author: NodeId, node: NodeId) -> None:
        """What an author told of a node waits no more."""
        if authors := self._ahead.get(node):
            authors.pop(author, None)
            if not authors:
                del self._ahead[node]

    def _answer(self, now: Now, apart_s: float) -> None:
        """Says soon that this node lives, `apart_s` after the last time at the earliest."""
        earliest = max(now.mono, self._refuted_at + apart_s)
        self._refute_at = min(self._refute_at, earliest + self._rng.uniform(0.0, self._config.refute_spread_s))

    def _acquit(self, author: NodeId, node: NodeId) -> bool:
        """Takes a witness out of the case of a node; says whether it was in there."""
        case = self._cases.get(node)
        if case is None or author not in case.witnesses:
            return False
        del case.witnesses[author]
        if case.witnesses:
            case.due = case.began + self._patience_s(len(case.witnesses))
        else:
            del self._cases[node]
        return True

    def _patience_s(self, witnesses: int) -> float:
        """Returns Lifeguard's suspicion time (arXiv 1707.00788 section IV.B, formula 1)."""
        config = self._config
        most, least = config.suspect_most_s, config.suspect_least_s
        others = len(self._known) - 2  # besides this node and the member itself
        confirmations = min(config.confirmations, max(1, others - 1))
        share = math.log(witnesses) / math.log(confirmations + 1)
        return max(least, most - (most - least) * share)

    def _refuted(self, now: Now, node: NodeId, case: _Case) -> None:
        del self._cases[node]
        for author in case.witnesses:
            self._was_wrong(now, author)

    def _was_wrong(self, now: Now, author: NodeId) -> None:
        record = self._false.setdefault(author, _Record(0.0, now.mono))
        record.count = max(0.0, record.count - (now.mono - record.at) / self._config.forgive_s) + 1.0
        record.at = now.mono

    def _is_unreliable(self, now: Now, author: NodeId) -> bool:
        record = self._false.get(author)
        if record is None:
            return False
        count = record.count - (now.mono - record.at) / self._config.forgive_s
        if count <= 0.0:
            del self._false[author]
        return count >= self._config.false_most

    # --- time -----------------------------------------------------------------------------------------------------

    def handle_timer(self, now: Now) -> None:
        """Ends suspicions, tells what this node misses, answers."""
        if now.mono >= self._next_case:
            for node in [node for node, case in self._cases.items() if now.mono >= case.due]:
                self._bury(node, self._cases.pop(node).version)
            self._next_case = min((case.due for case in self._cases.values()), default=math.inf)
        if now.mono >= self._tell_at:
            self._tell_at = math.inf
            rows = tuple(Absence(node, *version) for node, version in self._missed.items())
            self.out.put(Emit(AbsencesChanged(AbsentBody(rows))))
        if now.mono >= self._refute_at:
            self._refute_at, self._refuted_at = math.inf, now.mono
            self.stats.refuted += 1
            self.out.put(Emit(Refute()))

    def next_timer(self) -> float:
        """Returns when something is due."""
        return min(self._next_case, self._tell_at, self._refute_at)

    def drain(self) -> list[Effect]:
        return self.out.drain()
