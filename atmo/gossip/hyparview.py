"""Membership: HyParView (Leitao, Pereira, Rodrigues, DSN 2007), a small active view and a reserve of contacts.

The active view is symmetric: a node asks (`Neighbour`), the other takes it or not (`NeighbourAnswer`), and who drops
the other says so (`Disconnect`). Two things differ from the paper. Links are given, not made here: any link that the
peer has can become one between neighbours, and the peer closes those nobody needs. And a full node also makes room for
an asker that has other neighbours, at a bounded rate, as nobody asks for the sake of more than `active_least`: so a
node that lacks a neighbour finds one with a neighbour to spare, in few steps, whatever the number of nodes.

Messages on one link come in order. If they did not, views would differ for a while; who hears a walk from a node that
is no neighbour of its own tells it so.
"""

from __future__ import annotations

import math
from random import Random

from atmo.clock import Now
from atmo.engine import Contact, Dial, Effect, Misbehaved, Outbox, Send
from atmo.gossip.active import ActiveView, Member
from atmo.gossip.attempts import Attempts
from atmo.gossip.book import AddressBook
from atmo.gossip.healer import Healer
from atmo.gossip.hyparview_config import HyParViewConfig, HyParViewStats
from atmo.gossip.messages import Disconnect, ForwardJoin, Neighbour, NeighbourAnswer, Shuffle, ShuffleAnswer
from atmo.gossip.walks import Link, Walks
from atmo.identity import NodeId

Overlay = Neighbour | NeighbourAnswer | ForwardJoin | Disconnect | Shuffle | ShuffleAnswer
"""What `HyParView.receive` takes."""


class HyParView:
    """Keeps the active and the passive view.

    Args:
        config: Sizes, periods and bounds.
        own: This node.
        rng: Makes all choices.

    Attributes:
        contact: This node as others may dial it; the peer sets it when it knows its addresses.
    """

    def __init__(self, config: HyParViewConfig, own: NodeId, rng: Random) -> None:
        self._config = config
        self._own = own
        self._rng = rng
        self.out = Outbox()
        self.stats = HyParViewStats()
        self._book = AddressBook(config, own, rng)
        self._view = ActiveView(config, rng, self.stats, self.out)
        self._walks = Walks(config, own, rng, self._book, self._view, self.stats, self.out)
        self._linked: dict[NodeId, Link] = {}
        self._attempts = Attempts(config, rng)
        self._healer = Healer(config, rng, self._book)
        self._introduced: NodeId | None = None  # who was asked to spread the news of this node
        self._left = False
        self._next_repair = math.inf
        self.contact = Contact(own, ())

    @property
    def active(self) -> dict[NodeId, Member]:
        """The neighbours."""
        return self._view.members

    @property
    def passive(self) -> dict[NodeId, Contact]:
        """The contacts in reserve."""
        return self._book.passive

    @property
    def known(self) -> dict[NodeId, Contact]:
        """The contacts that a record or a link proved, of nodes that may be gone."""
        return self._book.proven

    def dialling(self) -> int:
        """Returns the number of dials under way."""
        return len(self._attempts.dialling)

    # --- who could be linked --------------------------------------------------------------------------------------

    def learn(self, now: Now, contact: Contact, *, stale: bool = False) -> None:
        """A record, a grant or the index tells where a node is.

        Args:
            now: The clocks.
            contact: Of a member.
            stale: The news is older than a record's lifetime: the node counts as gone until there is better news.
        """
        new = contact.node not in self._book.proven
        if not self._book.learn(now.mono, contact, stale, self.active):
            return
        wait = self._rng.uniform(0.0, self._config.spread_s)
        if new and self._is_small() and contact.node not in self._linked and self._own > contact.node:
            self._book.wait(contact.node, now.mono + wait + self._config.yield_s)
        if stale:
            self._healer.schedule(now.mono)
        else:
            self._attempts.hopeful(now.mono)
        self._repair_at(now.mono + wait)

    def forget(self, now: Now, node: NodeId) -> None:
        """A node is no member any more: it leaves all views, and its link, which the peer hangs up, counts no more."""
        self._book.forget(node)
        self._attempts.forget(node)
        self._linked.pop(node, None)
        self._drop(node)
        self._repair_at(now.mono)

    def gone(self, now: Now, node: NodeId) -> None:
        """A member is believed to be dead: hearsay does not bring it back for a while, a newer record does.

        One that is linked nevertheless is asked to be a neighbour, as its news does not come by others; it counts as
        gone when the link ends.
        """
        link = self._linked.get(node)
        if link is None:
            self._book.gone(now.mono, node)
            self._healer.schedule(now.mono)
            return
        link.gone = True
        if self._is_free(node) and not self._left:
            self._ask(now, node, heal=True)

    def suspect(self, now: Now, node: NodeId) -> None:
        """A neighbour has been silent for too long: another is looked for before this one is given up."""
        if member := self.active.get(node):
            member.suspect = True
            self._repair_at(now.mono)

    def trust(self, now: Now, node: NodeId) -> None:
        """A neighbour that was suspect was heard again."""
        if member := self.active.get(node):
            member.suspect = False

    # --- links ----------------------------------------------------------------------------------------------------

    def link_up(self, now: Now, node: NodeId) -> None:
        """A verified link is there, whoever wanted it."""
        attempt = self._attempts.dialling.pop(node, None)
        returned = self._book.linked(node, dialled=attempt is not None)
        if not self._view.healthy():
            self._book.wait(node, now.mono)  # whatever it said before, it is here now
        self._linked[node] = Link(now.mono, returned, self._config.walks_burst, now.mono)
        if attempt and (attempt.heal or self._wanted_links() > 0):
            self._ask(now, node, attempt.heal)
        else:
            self._repair_at(now.mono + self._config.yield_s)  # the other end asks first if it was the one to dial

    def link_down(self, now: Now, node: NodeId) -> None:
        """A verified link is gone."""
        link = self._linked.pop(node, None)
        if link is None:
            return
        self._book.unlinked(now.mono, node, now.mono - link.since)
        if link.gone:
            self.gone(now, node)
        self._drop(node)
        if self._attempts.asked.pop(node, None):
            self._failed(now, node)
        self._repair_at(now.mono)

    def dial_failed(self, now: Now, node: NodeId) -> None:
        """Nobody answered at any address."""
        if self._attempts.dialling.pop(node, None) is None:
            return
        self.stats.dial_failures += 1
        self._book.failed(now.mono, node)
        self._healer.schedule(now.mono)
        self._failed(now, node)

    def leave(self, now: Now) -> None:
        """Takes this node out of all active views; from now on it has no neighbours."""
        self._left = True
        for node in list(self.active):
            self.out.put(Send(node, Disconnect()))
            self._drop(node)
        self._attempts.clear()
        self._healer.stop()
        self._next_repair = math.inf

    # --- messages -------------------------------------------------------------------------------------------------

    def receive(self, now: Now, source: NodeId, message: Overlay) -> None:
        """Takes a message of a verified node."""
        link = self._linked.get(source)
        if link is None:
            return
        match message:
            case Neighbour():
                self._neighbour(now, source, message, link)
            case NeighbourAnswer(accepted):
                self._answered(now, source, accepted)
            case Disconnect():
                self._disconnected(now, source)
            case ForwardJoin(contact):
                ended = self._walks.forward_join(now, source, message, link)
                if ended and self._wanted() > 0 and self._is_free(contact.node) and contact.node in self.passive:
                    self._ask_or_dial(now, contact.node)
            case Shuffle():
                self._walks.shuffle(now, source, message, link)
            case _:
                assert isinstance(message, ShuffleAnswer), "the messages of `Overlay` are all told apart above"
                if self._walks.answered(now, message, link, self._linked):
                    self._repair_at(now.mono)

    def _neighbour(self, now: Now, source: NodeId, message: Neighbour, link: Link) -> None:
        contact = message.contact
        if contact.node != source:
            self.out.put(Misbehaved(source, "a Neighbour in the name of another"))
            return
        self._book.met(contact)
        if source in self.active:
            self.out.put(Send(source, NeighbourAnswer(True)))
            return
        if self._left or not self._makes_room(now, message.priority or link.returned, asked=False):
            self.out.put(Send(source, NeighbourAnswer(False)))
            return
        self._admit(now, source, chosen=False)
        self.out.put(Send(source, NeighbourAnswer(True)))
        if message.joining and self._walks.may_take(now, link):
            self._walks.introduce(now, contact)

    def _answered(self, now: Now, source: NodeId, accepted: bool) -> None:
        attempt = self._attempts.asked.pop(source, None)
        if source in self.active:
            return  # each asked the other: what this one answered stands, and a refusal that crossed it does not
        if not accepted:
            if attempt:
                self.stats.refused += 1
                self._leave_alone(now, source)
                self._failed(now, source)
            return
        if self._left or not self._makes_room(now, attempt is not None and attempt.heal, asked=True):
            self.out.put(Send(source, Disconnect()))
            return
        self.stats.accepted += 1
        self._attempts.hopeful(now.mono)
        self._admit(now, source, chosen=attempt is not None)

    def _disconnected(self, now: Now, source: NodeId) -> None:
        if self._drop(source):
            self.stats.disconnected += 1
            self._leave_alone(now, source)
            self._book.reserve(source)
            self._repair_at(now.mono)

    def _leave_alone(self, now: Now, node: NodeId) -> None:
        self._book.wait(node, now.mono + self._config.refused_s * self._rng.uniform(0.5, 1.5))

    # --- the active view ------------------------------------------------------------------------------------------

    def _admit(self, now: Now, node: NodeId, *, chosen: bool) -> None:
        if not self.active:
            self._walks.begin(now)
        self._linked[node].returned = False
        self.passive.pop(node, None)
        self._view.admit(now, node, chosen)
        self._repair_at(now.mono)

    def _drop(self, node: NodeId) -> bool:
        """Takes a node out of the active view; says whether it was there."""
        if not self._view.drop(node):
            return False
        if node == self._introduced:
            self._introduced = None
        if not self.active:
            self._walks.next_shuffle = math.inf
        return True

    def _makes_room(self, now: Now, urgent: bool, *, asked: bool) -> bool:
        """Says whether one more neighbour can be taken, after another was pushed out where the view was full."""
        if not self._view.is_full():
            return True
        victim = self._view.victim(now, urgent, asked)
        if victim is None:
            return False
        self.stats.evicted += 1
        self.out.put(Send(victim, Disconnect()))
        self._drop(victim)
        self._leave_alone(now, victim)
        self._book.reserve(victim)
        return True

    # --- repair ---------------------------------------------------------------------------------------------------

    def _is_small(self) -> bool:
        """Says whether everyone who is known fits into the active view."""
        return max(len(self._book.proven), len(self._book.passive) + len(self.active)) <= self._config.active

    def _is_free(self, node: NodeId) -> bool:
        return node not in self.active and node not in self._attempts.asked and node not in self._attempts.dialling

    def _wanted_links(self) -> int:
        """Returns how many more requests to be neighbours are to be sent."""
        target = self._config.active if self._is_small() else self._config.active_least
        return target - self._view.healthy() - len(self._attempts.asked)

    def _wanted(self) -> int:
        """Returns how many more nodes are to be dialled or asked."""
        young, dialling = self._attempts.young(), len(self._attempts.dialling)
        most = self._config.dials
        if self._view.healthy():
            return min(self._wanted_links() - young, most - dialling)
        return min(most - young - len(self._attempts.asked), self._config.dials_most - dialling)

    def _repair_at(self, when_s: float) -> None:
        if when_s < self._next_repair and not self._left and self._wanted() > 0:
            self._next_repair = when_s

    def _repair(self, now: Now) -> None:
        """Asks or dials as many as are wanted."""
        self._next_repair = math.inf
        isolated = not self._view.healthy()
        while self._wanted() > 0:
            if not isolated and now.mono < self._attempts.paused:
                self._repair_at(self._attempts.paused)
                return
            node = self._candidate(now, isolated)
            if node is None:
                busy = {**self.active, **self._attempts.asked, **self._attempts.dialling}
                self._repair_at(self._book.next_due(now.mono, busy, isolated))
                if not self._is_small():
                    self._walks.hurry()
                return
            self._ask_or_dial(now, node)

    def _candidate(self, now: Now, isolated: bool) -> NodeId | None:
        """Returns a node to be asked: by turns one in reserve and one that is proven, for who is heard of may lie."""
        book = self._book
        first, second = (book.passive, book.proven) if self._rng.random() < 0.5 else (book.proven, book.passive)
        for pool in (first, second, self._linked):
            nodes = [node for node in pool if node not in book.lost and self._is_free(node)]
            if (node := book.pick(now.mono, nodes)) is not None:
                return node
        return book.pick(now.mono, [node for node in book.proven if self._is_free(node)]) if isolated else None

    def _ask_or_dial(self, now: Now, node: NodeId, heal: bool = False) -> None:
        if node in self._linked:
            self._ask(now, node, heal)
            return
        contact = self._book.contact(node)
        assert contact is not None, "who is not linked is a candidate for its addresses"
        self._attempts.dial(now.mono, node, heal)
        self._book.dialled(now.mono, node)
        self.stats.dials += 1
        self.out.put(Dial(node, contact.addresses))

    def _ask(self, now: Now, node: NodeId, heal: bool) -> None:
        joining = self._introduced is None and not self.active
        if joining:
            self._introduced = node
        self._attempts.ask(now.mono, node, heal)
        self.stats.asked += 1
        self.out.put(Send(node, Neighbour(self.contact, not self._view.healthy(), joining)))

    def _failed(self, now: Now, node: NodeId) -> None:
        """An attempt was in vain: the next one waits a little."""
        if node == self._introduced:
            self._introduced = None
        self._attempts.failed(now.mono)
        self._repair_at(now.mono)

    def _heal(self, now: Now) -> None:
        """Dials somebody who is believed to be gone: where a partition has healed, it answers."""
        node = self._healer.turn(now.mono, {**self._attempts.dialling, **self._linked})
        if node is not None and len(self._attempts.dialling) < self._config.dials_most:
            self.stats.heals += 1
            self._ask_or_dial(now, node, heal=True)
        self._healer.schedule(now.mono)

    # --- time -----------------------------------------------------------------------------------------------------

    def handle_timer(self, now: Now) -> None:
        """Gives up what had no outcome, looks for neighbours that lack, shuffles, heals."""
        if now.mono >= self._attempts.next_end:
            self._end_attempts(now)
        if now.mono >= self._healer.due:
            self._heal(now)
        if now.mono >= self._next_repair:
            self._repair(now)
        if now.mono >= self._walks.next_shuffle:  # last, as a repair may hurry it
            self._walks.start(now, self.contact)

    def _end_attempts(self, now: Now) -> None:
        dials, asks = self._attempts.overdue(now.mono)
        for node in dials:
            self.dial_failed(now, node)
        for node in asks:
            del self._attempts.asked[node]
            self._leave_alone(now, node)
            self._failed(now, node)
        self._repair_at(now.mono)  # a slow dial makes room for another

    def next_timer(self) -> float:
        return min(self._next_repair, self._attempts.next_end, self._walks.next_shuffle, self._healer.due)

    def drain(self) -> list[Effect]:
        return self.out.drain()
