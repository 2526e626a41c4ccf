"""One swarm: what this node and others that fetch or hold one model tell each other, and who is a partner of whom.

A downloader says hello to the holders that it is told of; they say what they have and name others, to whom it says
hello as well, until it has partners enough. From then on each tells the other what it gets. Partners that have nothing
to give each other any more, as both have everything, part without a word.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from atmo.clock import Now
from atmo.engine import Ask, Contact, Send
from atmo.errors import WireError
from atmo.identity import NodeId
from atmo.transfer.bits import all_of, bits_of, from_bytes_untrusted, to_bytes
from atmo.transfer.common import Common
from atmo.transfer.download import Download
from atmo.transfer.handouts import Handouts
from atmo.transfer.messages import (
    HAVES_MOST,
    PEERS_MOST,
    SwarmHave,
    SwarmHello,
    SwarmLeave,
    SwarmPeer,
    SwarmPeers,
    SwarmSlot,
)
from atmo.transfer.partner import Partner


class Swarm:
    """One swarm.

    Args:
        name: Of the transfer: the id of its manifest in hexadecimal digits.
        count: Chunks of the model.
        here: The set of those that this node has.
        serves: Whether others may fetch them.
        common: What the engine's parts share.

    Attributes:
        here: The set of chunks that this node has.
        serves: Whether others may fetch them.
        partners: With whom chunks are exchanged.
        download: What this node still fetches; None where it has everything.
        handouts: What was handed out, while this node has everything.
    """

    def __init__(self, name: str, count: int, here: int, common: Common, *, serves: bool) -> None:
        self.name = name
        self.count = count
        self.all = all_of(count)
        self.here = here
        self.serves = serves
        self.partners: dict[NodeId, Partner] = {}
        self.download: Download | None = None
        self.handouts = Handouts(count, common.config.slots.handed_s, common.random)
        self._id = bytes.fromhex(name)
        self._common = common
        self._config = common.config.swarm
        self._greeted: dict[NodeId, float] = {}  # until when an answer counts as one
        self._holders: dict[NodeId, bool] = {}  # who is said to have all, and whether it speaks of no swarm
        self._known: dict[NodeId, Contact] = {}  # who might become a partner
        self._refused: dict[NodeId, float] = {}  # who had partners enough: until when it is left alone
        self._lately: dict[NodeId, None] = {}  # who said hello lately
        self._pending: list[int] = []
        self._flushed_at = -math.inf
        self._flush_at = math.inf
        self._seek_at = math.inf
        self._seek_s = self._config.seek_s
        self._replace_at = math.inf

    @property
    def is_whole(self) -> bool:
        """Says whether this node has every chunk."""
        return self.here == self.all

    def lacks(self, partner: Partner) -> int:
        """Returns the set of chunks that this node has and a partner lacks."""
        return self.here & ~partner.has

    # --- what this node does --------------------------------------------------------------------------------------

    def fetch(self, now: Now, download: Download) -> None:
        """This node begins to fetch what it lacks."""
        self.download = download
        self._seek_at = now.mono + self._config.seek_s
        self._replace_at = now.mono + self._config.replace_s

    def holder(self, now: Now, node: NodeId) -> None:
        """A node is said to have all chunks: it is greeted, and asked without a word where it knows of no swarm."""
        if node in self.partners or node in self._greeted or self.download is None:
            return
        if self._holders.get(node):
            self.download.add(now, node, None)
        elif node in self._holders or len(self._holders) < self._config.known:
            self._holders[node] = False
            self._consider(now, node, self._common.contact(node))

    def left(self, now: Now, node: NodeId) -> None:
        """A node is said not to have the model any more."""
        self._holders.pop(node, None)
        self.forget(now, node)

    def gained(self, now: Now, index: int, source: NodeId) -> None:
        """This node has one chunk more: partners hear of it in a moment, its source at once if it hands chunks out."""
        self.here |= 1 << index
        asked = self.download.sources.get(source) if self.download is not None else None
        if asked is not None and asked.advice != -1:
            self._common.out.put(Send(source, SwarmHave(self._id, (index,))))
        self._pending.append(index)
        self._flush_at = min(self._flush_at, max(now.mono, self._flushed_at + self._config.have_s))

    def finished(self, now: Now) -> list[NodeId]:
        """This node has everything; returns who is no partner any more, having everything as well."""
        self._flush(now)
        self.download = None
        self._seek_at = self._replace_at = math.inf
        self._greeted.clear()
        self._holders.clear()
        self._known.clear()
        for node, partner in self.partners.items():
            self._learned(node, partner, partner.has)
        gone = [node for node, partner in self.partners.items() if partner.has == self.all]
        for node in gone:
            del self.partners[node]
        return gone

    def leave(self) -> None:
        """Tells all partners that this node is in the swarm no more."""
        for node in self.partners:
            self._common.out.put(Send(node, SwarmLeave(self._id)))
        self.partners.clear()

    def forget(self, now: Now, node: NodeId) -> None:
        """The link to a node is gone, or what it said before counts no more."""
        self.partners.pop(node, None)
        self._greeted.pop(node, None)
        if self.download is not None:
            self.download.remove(now, node)

    def lost(self, now: Now, node: NodeId) -> None:
        """The link to a node is gone; it may be found again."""
        if node in self.partners:
            self._leave_alone(now, node)
            self._remember(node, self._common.contact(node))
        self.forget(now, node)

    def linked(self, now: Now, node: NodeId) -> None:
        """There is a link to a node that could not be greeted before."""
        if self.download is not None and node in self._holders and node not in self.partners:
            self._greet(now, self._common.contact(node))

    def unreachable(self, now: Now, node: NodeId) -> None:
        """Nobody answers there; for a holder the shell may know another way."""
        if self._greeted.pop(node, None) is not None:
            self._alone(now, node)

    # --- what others say ------------------------------------------------------------------------------------------

    def hello_untrusted(self, now: Now, source: NodeId, hello: SwarmHello) -> bool:
        """A node is in the swarm; returns whether it is a partner now.

        Raises:
            WireError: It does not know how many chunks the model has.
        """
        if hello.count != self.count:
            raise WireError(f"a swarm of {hello.count} chunks that has {self.count}")
        has = self.all if hello.whole else from_bytes_untrusted(hello.has, self.count)
        asked = self._greeted.pop(source, None) is not None
        if has == self.all == self.here:
            self.partners.pop(source, None)
            return False
        partner = self.partners.get(source)
        is_new = partner is None
        if partner is None:
            if not asked and len(self.partners) >= self._config.most:
                self._name_others(now, source, hello.seeks)
                self._met(source)
                self._common.out.put(Send(source, SwarmLeave(self._id, member=True)))
                return False
            partner = self.partners[source] = Partner(now.mono, has, hello.serves)
        self._met(source)
        self._known.pop(source, None)
        partner.serves = hello.serves
        if not hello.answer:
            self._common.out.put(Send(source, self._hello(answer=True)))
        if hello.seeks and now.mono - partner.named_at >= self._config.seek_s:
            partner.named_at = now.mono
            self._name_others(now, source, hello.seeks)
        partner.has = has
        self._learned(source, partner, has)
        if self.download is not None and hello.serves:
            if is_new or not hello.answer:  # it was asked without a word till now, or has forgotten this node
                self.download.slot(now, source, is_open=False, advice=-1)
            self.download.add(now, source, has, is_open=False)
            self.download.ask(now, (source,))
        return True

    def have_untrusted(self, now: Now, source: NodeId, have: SwarmHave) -> Partner | None:
        """A partner has more; returns it.

        Raises:
            WireError: There is no such chunk.
        """
        partner = self.partners.get(source)
        if partner is None:
            return None
        if any(index >= self.count for index in have.chunks):
            raise WireError(f"a chunk beyond the {self.count} that there are")
        new = bits_of(have.chunks, self.count)
        partner.has |= new
        self._learned(source, partner, new)
        if partner.has == self.all == self.here:
            del self.partners[source]
        elif self.download is not None and partner.serves:
            self.download.gained(now, source, new)
        return partner

    def slot_untrusted(self, now: Now, source: NodeId, slot: SwarmSlot) -> None:
        """A partner serves this node from now on, or no longer does.

        Raises:
            WireError: There is no such chunk.
        """
        if any(index >= self.count for index in slot.chunks):
            raise WireError(f"a chunk beyond the {self.count} that there are")
        if self.download is not None and source in self.partners:
            advice = bits_of(slot.chunks, self.count) if slot.chunks else -1
            self.download.slot(now, source, is_open=slot.open, advice=advice)

    def peers_untrusted(self, now: Now, source: NodeId, others: Iterable[SwarmPeer]) -> None:
        """Somebody names others, whom it likes more or less."""
        if self.download is None:
            return
        for other in others:
            node = other.contact.node
            self._common.scores.claimed(source, node, other.score)
            if node not in self.partners and node not in self._greeted:
                self._consider(now, node, other.contact)

    def leave_untrusted(self, now: Now, source: NodeId, leave: SwarmLeave) -> None:
        """A node is no partner: it has enough, or knows of no swarm, and is asked without a word if it is a holder."""
        if leave.member:
            self.forget(now, source)
            self._leave_alone(now, source)
            self._seek(now)
            return
        if source in self.partners:
            self.forget(now, source)
        self._greeted.pop(source, None)
        self._alone(now, source)

    # --- timers ---------------------------------------------------------------------------------------------------

    def handle_timer(self, now: Now) -> bool:
        """Tells partners what is new, gives up who does not answer, looks for more partners.

        Returns:
            Whether partners were told of chunks.
        """
        for node in [node for node, until in self._greeted.items() if until <= now.mono]:
            del self._greeted[node]
            self._alone(now, node)
        if now.mono >= self._replace_at:
            self._replace_at = now.mono + self._config.replace_s
            self._replace(now)
        if now.mono >= self._seek_at:
            self._seek_s = min(2 * self._seek_s, self._config.seek_most_s)
            self._seek_at = now.mono + self._seek_s
            self._seek(now, ask=True)
        if now.mono >= self._flush_at:
            self._flush(now)
            return True
        return False

    def next_timer(self) -> float:
        """Returns when `handle_timer` wants to be called."""
        return min(self._flush_at, self._seek_at, self._replace_at, min(self._greeted.values(), default=math.inf))

    def _flush(self, now: Now) -> None:
        self._flush_at, self._flushed_at = math.inf, now.mono
        chunks, self._pending = tuple(self._pending), []
        for at in range(0, len(chunks), HAVES_MOST):
            message = SwarmHave(self._id, chunks[at : at + HAVES_MOST])
            for node in self.partners:
                self._common.out.put(Send(node, message))

    # --- partners -------------------------------------------------------------------------------------------------

    def _hello(self, *, answer: bool = False, seeks: int = 0) -> SwarmHello:
        has = b"" if self.is_whole else to_bytes(self.here, self.count)
        return SwarmHello(self._id, self.count, has, self.is_whole, self.serves, seeks, answer)

    def _greet(self, now: Now, contact: Contact) -> None:
        self._known.pop(contact.node, None)
        self._greeted[contact.node] = now.mono + self._config.hello_s
        lacking = max(0, self._config.sought - len(self.partners))
        self._common.out.put(Ask(contact, self._hello(seeks=min(PEERS_MOST, 3 * lacking))))

    def _consider(self, now: Now, node: NodeId, contact: Contact) -> None:
        """Greets a node if partners are sought, or remembers it."""
        self._remember(node, contact)
        self._seek(now)

    def _remember(self, node: NodeId, contact: Contact) -> None:
        if len(self._known) < self._config.known and not self._is_dropped(node):
            self._known[node] = contact
            self._seek_s = self._config.seek_s

    def _leave_alone(self, now: Now, node: NodeId) -> None:
        if len(self._refused) >= self._config.known:
            del self._refused[next(iter(self._refused))]
        self._refused[node] = now.mono + self._config.refused_s

    def _is_dropped(self, node: NodeId) -> bool:
        return self.download is not None and node in self.download.dropped

    def _seek(self, now: Now, *, ask: bool = False) -> None:
        """Greets others until there are partners enough; where nobody is known, a partner may be asked for others.

        Who has no partner either greets holders again.
        """
        if self.download is None:
            return
        room = self._config.sought - len(self.partners) - len(self._greeted)
        if room <= 0:
            return
        fit = [node for node in self._known if self._refused.get(node, now.mono) <= now.mono]
        if fit:
            rank = {node: (-self._common.scores.value(now, node), self._common.random.random()) for node in fit}
            for node in sorted(fit, key=rank.__getitem__)[:room]:
                self._greet(now, self._known[node])
        elif ask and self.partners:
            node = list(self.partners)[self._common.random.randrange(len(self.partners))]
            self._common.out.put(Send(node, self._hello(answer=True, seeks=min(PEERS_MOST, 3 * room))))
        elif ask and self._holders and not self._greeted:  # the hello to them, or its answer, was lost
            node = list(self._holders)[self._common.random.randrange(len(self._holders))]
            self._greet(now, self._common.contact(node))

    def _replace(self, now: Now) -> None:
        """Lets go of a partner with whom nothing was exchanged, or that is slow, if there are others to try."""
        old = [row for row in self.partners.items() if row[1].since + self._config.replace_s <= now.mono]
        idle = [node for node, partner in old if partner.given + partner.taken == partner.moved and not partner.slot]
        for _, partner in old:
            partner.moved = partner.given + partner.taken
        worst = idle or [node for node, _ in old if self.download is not None and self.download.is_slow(node)]
        if worst and self._known and len(self.partners) >= self._config.sought:
            self._common.out.put(Send(worst[0], SwarmLeave(self._id, member=True)))
            self.forget(now, worst[0])
            self._leave_alone(now, worst[0])
            self._seek(now)

    def _alone(self, now: Now, node: NodeId) -> None:
        """A node does not speak of swarms: who is said to have all is asked for it all the same."""
        if self.download is not None and node in self._holders:
            self._holders[node] = True
            self.download.add(now, node, None)
            self.download.ask(now, (node,))

    def _learned(self, node: NodeId, partner: Partner, has: int) -> None:
        if partner.serves and self.is_whole:
            for other in self.handouts.seen(has, node):
                if other in self.partners:  # it gave what it got to others: as good as giving it back
                    self.partners[other].taken += self.partners[other].chunk_bytes

    def _met(self, node: NodeId) -> None:
        self._lately.pop(node, None)
        self._lately[node] = None
        if len(self._lately) > self._config.told:
            del self._lately[next(iter(self._lately))]

    def _name_others(self, now: Now, node: NodeId, most: int) -> None:
        """Tells a node of others: partners, and who came lately."""
        common = self._common
        others = [other for other in {**self.partners, **self._lately} if other != node and not self._is_dropped(other)]
        some = common.random.sample(others, min(most, len(others)))
        peers = tuple(SwarmPeer(common.contact(other), common.scores.percent(now, other)) for other in some)
        if peers:
            common.out.put(Send(node, SwarmPeers(self._id, peers)))
