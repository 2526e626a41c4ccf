"""The random walks of HyParView: newcomers are spread and samples of the views exchanged by them.

Only neighbours start walks and pass them on, each link only so many in a time; what is over is dropped in silence.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from random import Random

from atmo.clock import Now
from atmo.engine import Contact, Misbehaved, Outbox, Send
from atmo.gossip.active import ActiveView
from atmo.gossip.book import AddressBook
from atmo.gossip.hyparview_config import HyParViewConfig, HyParViewStats
from atmo.gossip.messages import SHUFFLE_MOST, WALK_MOST, Disconnect, ForwardJoin, Shuffle, ShuffleAnswer
from atmo.identity import NodeId


@dataclass(slots=True)
class Link:
    """A verified link.

    Attributes:
        since: Monotonic seconds at which it came up.
        returned: Its node was believed to be gone: it is taken in even by a full node, as it may come from elsewhere.
        tokens: Messages of walks that are still taken, as of `filled_at`.
        filled_at: Monotonic seconds.
        gone: Its node was reported gone while the link is still there.
    """

    since: float
    returned: bool
    tokens: float
    filled_at: float
    gone: bool = False


class Walks:
    """Sends walks and takes part in those of others.

    Args:
        config: Sizes, periods and bounds.
        own: This node.
        rng: Makes all choices.
        book: Takes what walks bring, and gives samples.
        active: The way they go.
        stats: Counts.
        out: Takes the messages.
    """

    def __init__(
        self,
        config: HyParViewConfig,
        own: NodeId,
        rng: Random,
        book: AddressBook,
        active: ActiveView,
        stats: HyParViewStats,
        out: Outbox,
    ) -> None:
        self._config = config
        self._own = own
        self._rng = rng
        self._book = book
        self._active = active
        self._stats = stats
        self._out = out
        self._sent: list[NodeId] = []  # the nodes in the last shuffle
        self._shuffled_at = -math.inf
        self._introduced: dict[NodeId, float] = {}  # newcomers and when, the longest ago first
        self.next_shuffle = math.inf

    # --- what is taken --------------------------------------------------------------------------------------------

    def may_take(self, now: Now, link: Link) -> bool:
        """Says whether one more message of a walk is taken from a link."""
        config = self._config
        link.tokens = min(link.tokens + (now.mono - link.filled_at) * config.walks_per_s, config.walks_burst)
        link.filled_at = now.mono
        if link.tokens < 1:
            self._stats.walks_dropped += 1
            return False
        link.tokens -= 1
        return True

    def _goes_on(self, now: Now, source: NodeId, link: Link) -> bool:
        if not self.may_take(now, link):
            return False
        if source not in self._active.members:
            self._out.put(Send(source, Disconnect()))
            return False
        return True

    # --- newcomers ------------------------------------------------------------------------------------------------

    def introduce(self, now: Now, newcomer: Contact) -> None:
        """Spreads a newcomer that is a neighbour now, and gives it some contacts of its own."""
        last = self._introduced.pop(newcomer.node, -math.inf)
        if now.mono - last < self._config.introduce_s:
            self._introduced[newcomer.node] = last
            self._stats.walks_dropped += 1
            return
        self._introduced[newcomer.node] = now.mono
        if len(self._introduced) > self._config.introductions:
            del self._introduced[next(iter(self._introduced))]
        sample = self._sample(newcomer.node, SHUFFLE_MOST, SHUFFLE_MOST)
        self._out.put(Send(newcomer.node, ShuffleAnswer(sample, ())))
        for other in self._active.members if newcomer.addresses else ():
            if other != newcomer.node:
                self._out.put(Send(other, ForwardJoin(newcomer, self._config.walk)))

    def forward_join(self, now: Now, source: NodeId, message: ForwardJoin, link: Link) -> bool:
        """Passes a newcomer on.

        Returns:
            Whether the walk ended here.
        """
        if not self._goes_on(now, source, link):
            return False
        contact, ttl = message.contact, min(message.ttl, self._config.walk)
        hop = self._active.next_hop(source, contact.node) if ttl > 1 else None
        if hop is not None:
            self._out.put(Send(hop, ForwardJoin(contact, ttl - 1)))
        if hop is None or ttl == self._config.walk_passive:
            self._book.hear(now.mono, (contact,), (), self._active.members)
        return hop is None

    # --- shuffles -------------------------------------------------------------------------------------------------

    def begin(self, now: Now) -> None:
        """There is a first neighbour: shuffles begin."""
        self.next_shuffle = now.mono + self._rng.uniform(0.0, self._config.shuffle_period_s)

    def hurry(self) -> None:
        """More contacts are wanted soon."""
        self.next_shuffle = min(self.next_shuffle, self._shuffled_at + self._config.shuffle_least_s)

    def start(self, now: Now, own: Contact) -> None:
        """Sends a shuffle; the next one follows after the period."""
        config = self._config
        self._shuffled_at = now.mono
        self.next_shuffle = now.mono + config.shuffle_period_s * self._rng.uniform(0.9, 1.1)
        hop = self._active.next_hop()
        if hop is None:
            return
        sample = self._sample(hop, config.shuffle_active, config.shuffle_active + config.shuffle_passive)
        self._sent = [contact.node for contact in sample]
        self._stats.shuffles += 1
        self._out.put(Send(hop, Shuffle((own, *sample), config.walk, (self._own,))))

    def shuffle(self, now: Now, source: NodeId, message: Shuffle, link: Link) -> None:
        """Passes a shuffle on, or answers it where its walk ends."""
        contacts, route = message.contacts, message.route
        if not contacts or not route or route[-1] != source or contacts[0].node != route[0]:
            self._out.put(Misbehaved(source, "a Shuffle whose route is not the one it came"))
            return
        if not self._goes_on(now, source, link) or route[0] == self._own:
            return
        ttl = min(message.ttl, self._config.walk)
        going = ttl > 1 and len(route) < WALK_MOST and self._own not in route
        hop = self._active.next_hop(*route) if going else None
        if hop is not None:
            self._out.put(Send(hop, Shuffle(contacts, ttl - 1, (*route, self._own))))
            return
        answer = self._sample(route[0], 0, len(contacts))
        self._out.put(Send(source, ShuffleAnswer(answer, route[:-1])))
        self._book.hear(now.mono, contacts, [contact.node for contact in answer], self._active.members)

    def answered(self, now: Now, message: ShuffleAnswer, link: Link, linked: dict[NodeId, Link]) -> bool:
        """Takes an answer to a shuffle, or passes it on along its route.

        Returns:
            Whether it was for this node.
        """
        if not self.may_take(now, link):
            return False
        if not message.route:
            self._book.hear(now.mono, message.contacts, self._sent, self._active.members)
            return True
        back = message.route[-1]
        if back in linked:
            self._out.put(Send(back, ShuffleAnswer(message.contacts, message.route[:-1])))
        return False

    def _sample(self, other: NodeId, actives: int, count: int) -> tuple[Contact, ...]:
        """Returns at most `count` contacts for `other`, of them at most `actives` from the active view."""
        contacts = [self._book.contact(node) for node in self._active.members if node != other]
        known = [contact for contact in contacts if contact is not None]
        near = self._rng.sample(known, min(actives, len(known), count))
        reserve = [contact for node, contact in self._book.passive.items() if node != other]
        return (*near, *self._rng.sample(reserve, min(count - len(near), len(reserve))))
