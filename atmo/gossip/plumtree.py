"""Broadcast along a tree: Plumtree (Leitao, Pereira, Rodrigues, "Epidemic broadcast trees", SRDS 2007).

Each link of the active view is eager or lazy. Records are pushed over eager links and announced over lazy ones; a
record that comes twice makes the second link lazy (Prune), one that is announced and does not come makes a link eager
again (Graft). So the eager links become a tree, shared by all authors, and the lazy ones mend it.

Three things differ from the paper, which has one author at a time:

- With several records on their way at once, each would cut a cycle at another link, and a branch would be lost. So only
  the duplicates of few records prune, the fewer the more records come; which ones, their names say, so that all nodes
  choose the same.
- All nodes of a lost branch miss the same record. So they wait for it differently long: the first one that asks brings
  it to the others. Where the tree was only late, the graft is undone.
- The paper swaps single links for shorter ways (section 3.8). Of many authors each would have another tree, and none
  would ever settle. Here the tree is made anew now and then: one record of one author, the root, is sent over all
  links, so that the fastest ways from the root become the tree. They are good ones for all. The root is whoever has the
  smallest id of the authors heard of late.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from random import Random

from blake3 import blake3

from atmo.clock import Now
from atmo.engine import Effect, Emit, Misbehaved, Outbox, Send
from atmo.gossip.allowance import Allowance, Allowances
from atmo.gossip.messages import ANNOUNCED_MOST, HOPS_MOST, Announcement, Gossip, Graft, IHave, Prune
from atmo.gossip.plumtree_config import PlumtreeConfig, PlumtreeStats, TreeAges
from atmo.gossip.plumtree_missing import Missing, MissingRecords
from atmo.gossip.plumtree_root import Root
from atmo.gossip.plumtree_store import Store
from atmo.identity import NodeId

NAME_BYTES = 16

_REFUSED, _HELD, _SPREAD = range(3)  # what is remembered of a name; each state includes those before it


@dataclass(slots=True)
class _Link:
    """A neighbour.

    Attributes:
        eager: The link is one of the tree's.
        queue: Names to announce, with their hops.
        missing: How many missing records it was the first to announce.
        budget: What it still gets in answer to grafts.
    """

    budget: Allowance
    eager: bool = True
    queue: dict[bytes, int] = field(default_factory=dict)
    missing: int = 0


@lru_cache(maxsize=1_024)
def name_of(envelope: bytes) -> bytes:
    """Returns the name of a record; the last ones are kept, as each is asked for several times in a row."""
    return blake3(envelope).digest(NAME_BYTES)


class Plumtree:
    """Passes records on, each once, over the links of the active view.

    Args:
        config: Periods and bounds.
        rng: Spreads announcements in time.
    """

    def __init__(self, config: PlumtreeConfig, rng: Random) -> None:
        self._config = config
        self._rng = rng
        self._links: dict[NodeId, _Link] = {}
        self._allowances = Allowances(config.graft_rate, config.graft_bytes)
        self._seen: dict[bytes, int] = {}
        self._seen_before: dict[bytes, int] = {}
        self._store = Store(config)
        self._missing = MissingRecords(config, rng)
        self._announce_at = math.inf
        self._flow = 0.0  # records of late: each counts half after `flow_s`
        self._flow_at = 0.0
        self._root = Root(config)
        self._renewing = b""  # name of the record that makes the tree anew
        self.out = Outbox()
        self.stats = PlumtreeStats()

    # --- links ----------------------------------------------------------------------------------------------------

    def link_up(self, now: Now, node: NodeId) -> None:
        """A node is a new neighbour in the active view: it may have missed what was sent while it had none."""
        if node not in self._links:
            link = self._links[node] = _Link(self._allowances.take(node))
            for name, kept in self._store.latest(now, self._config.greet_s, self._config.greet_entries):
                self._announce(now, node, link, name, kept.hops + 1)

    def link_down(self, now: Now, node: NodeId) -> None:
        """A node is no neighbour any more."""
        if link := self._links.pop(node, None):
            self._allowances.keep(now.mono, node, link.budget)
            if link.eager:
                self._mend()

    def suspect(self, node: NodeId) -> None:
        """A neighbour is silent: the tree had better not depend on it. If it lives, what it sends makes it eager."""
        link = self._links.get(node)
        if link and link.eager:
            link.eager = False
            self._mend(node)

    def _mend(self, lost: NodeId | None = None) -> None:
        """Who has lost its last link of the tree asks for another one at once: for the one that came last."""
        if not any(link.eager for link in self._links.values()):
            for node in reversed(self._links):
                if node != lost:
                    self._graft(node, ())
                    break

    def eager(self) -> list[NodeId]:
        """Returns the neighbours along the tree."""
        return [node for node, link in self._links.items() if link.eager]

    def lazy(self) -> list[NodeId]:
        """Returns the neighbours that only get announcements."""
        return [node for node, link in self._links.items() if not link.eager]

    # --- records --------------------------------------------------------------------------------------------------

    def knows(self, envelope: bytes) -> bool:
        """Says whether this record was judged for good: there is no need to look at it again."""
        return self._state(name_of(envelope)) >= _HELD

    def _state(self, name: bytes) -> int:
        state = self._seen.get(name)
        return self._seen_before.get(name, -1) if state is None else state

    def _see(self, name: bytes, state: int) -> None:
        if state <= self._state(name):
            return
        self._seen[name] = state
        if len(self._seen) >= self._config.seen_entries:
            self._seen_before, self._seen = self._seen, {}

    def publish(self, now: Now, envelope: bytes) -> None:
        """Sends an own record on its way to everyone."""
        self.stats.published += 1
        self._spread(now, None, name_of(envelope), envelope, 0, self._root.begins(now, envelope))

    def delivered(self, now: Now, source: NodeId, message: Gossip) -> None:
        """A record came by the tree and is news: it is passed on."""
        self.stats.delivered += 1
        self._came(now, source, name_of(message.envelope), message)

    def duplicate(self, now: Now, source: NodeId, message: Gossip) -> None:
        """A record came by the tree that `knows` knew."""
        name = name_of(message.envelope)
        if self._state(name) < _SPREAD:
            self._came(now, source, name, message)
            return
        self.stats.duplicates += 1
        grafted = self._missing.asked_for(name)
        if grafted in self._links:
            self._prune(grafted)  # the tree was only late: it stays as it was
        elif name == self._renewing or self._shapes(now, name):
            self._prune(source)

    def _prune(self, node: NodeId) -> None:
        self.stats.prunes += 1
        self.out.put(Send(node, Prune()))
        if link := self._links.get(node):
            link.eager = False

    def _shapes(self, now: Now, name: bytes) -> bool:
        """Says whether the duplicates of a record prune: of all records while there are few, else of one in so many."""
        others = max(0.0, self._flow * self._faded(now) - 1)
        return int.from_bytes(name[:4], "big") * (1 + self._config.damping * others) <= 2**32

    def _faded(self, now: Now) -> float:
        return math.exp2((self._flow_at - now.mono) / self._config.flow_s)

    def refused(self, message: Gossip) -> None:
        """A record came by the tree and cannot be taken here and now: nobody else is asked for it."""
        name = name_of(message.envelope)
        self._see(name, _REFUSED)
        self._found(name)

    def remember(self, envelope: bytes) -> None:
        """A record was judged for good that did not come by the tree: it is not passed on, unless it comes by it."""
        name = name_of(envelope)
        self._see(name, _HELD)
        self._found(name)

    def _came(self, now: Now, source: NodeId, name: bytes, message: Gossip) -> None:
        hops = min(message.hops, HOPS_MOST - 1)
        if link := self._links.get(source):
            link.eager = True
        missing = self._missing.get(name)
        if missing and not missing.asked:
            self._missing.lagged(now.mono - missing.at)
        renews = self._root.follows(now, message.envelope, message.renew)
        self._spread(now, source, name, message.envelope, hops, renews)

    def _spread(self, now: Now, source: NodeId | None, name: bytes, envelope: bytes, hops: int, renews: bool) -> None:
        """Sends a record to the neighbours along the tree and announces it to the others, save to those who have it."""
        self._see(name, _SPREAD)
        self._flow = self._flow * self._faded(now) + 1
        self._flow_at = now.mono
        self._store.keep(now, name, envelope, hops)
        missing = self._found(name)
        have = missing.announcers if missing else {}
        if renews:
            self._renewing = name
            self.stats.renewals += 1
        gossip = Gossip(envelope, hops + 1, renews)
        for node, link in self._links.items():
            if node == source or node in have:
                continue
            link.eager |= renews
            if link.eager:
                self.stats.sent += 1
                self.out.put(Send(node, gossip))
            else:
                self._announce(now, node, link, name, hops + 1)

    # --- announcements --------------------------------------------------------------------------------------------

    def _announce(self, now: Now, node: NodeId, link: _Link, name: bytes, hops: int) -> None:
        link.queue[name] = hops
        if len(link.queue) >= ANNOUNCED_MOST:
            self._flush(node, link)
        elif self._announce_at == math.inf:
            self._announce_at = now.mono + self._config.announce_s * self._rng.uniform(0.5, 1.0)

    def _flush(self, node: NodeId, link: _Link) -> None:
        announcements = tuple(Announcement(name, hops) for name, hops in link.queue.items())
        link.queue.clear()
        self.stats.announced += len(announcements)
        self.out.put(Send(node, IHave(announcements)))

    def receive(self, now: Now, source: NodeId, message: IHave | Graft | Prune) -> None:
        """Takes a message about the tree; one of a node that is no neighbour here, or not yet, means nothing."""
        link = self._links.get(source)
        if link is None:
            return
        match message:
            case IHave(announcements):
                for name in self._names(source, [announcement.name for announcement in announcements]):
                    self._announced(now, source, link, name)
            case Graft(names):
                link.eager = True
                for name in self._names(source, names):
                    self._answer(now, source, link, name)
            case _:
                link.eager = False

    def _names(self, source: NodeId, names: Sequence[bytes]) -> Sequence[bytes]:
        if all(len(name) == NAME_BYTES for name in names):
            return names
        self.out.put(Misbehaved(source, "what cannot be the name of a record"))
        return ()

    def _announced(self, now: Now, source: NodeId, link: _Link, name: bytes) -> None:
        link.queue.pop(name, None)
        if self._state(name) >= _REFUSED:
            return
        missing = self._missing.get(name)
        if missing is not None:
            if len(missing.announcers) < self._config.announcers:
                missing.announcers[source] = None
            return
        if link.missing >= self._config.link_missing or len(self._missing) >= self._config.missing_entries:
            self.stats.ignored += 1
            return
        link.missing += 1
        self._missing.add(now.mono, name, source)

    def _found(self, name: bytes) -> Missing | None:
        """A record that was announced has come, or will not."""
        missing = self._missing.found(name)
        if missing and (link := self._links.get(missing.first)):
            link.missing = max(0, link.missing - 1)
        return missing

    # --- mending the tree -----------------------------------------------------------------------------------------

    def _graft(self, node: NodeId, names: tuple[bytes, ...]) -> None:
        self._links[node].eager = True
        self.out.put(Send(node, Graft(names)))

    def _answer(self, now: Now, source: NodeId, link: _Link, name: bytes) -> None:
        kept = self._store.get(name)
        if kept is None or not link.budget.take(now.mono, len(kept.envelope)):
            self.stats.grafts_refused += 1
            return
        link.queue.pop(name, None)
        self.stats.sent += 1
        self.stats.grafted += 1
        self.out.put(Send(source, Gossip(kept.envelope, kept.hops + 1)))

    # --- time -----------------------------------------------------------------------------------------------------

    def handle_timer(self, now: Now) -> None:
        """Sends announcements, asks for what is missing."""
        if now.mono >= self._announce_at:
            self._announce_at = math.inf
            for node, link in self._links.items():
                if link.queue:
                    self._flush(node, link)
        if now.mono >= self._root.refresh_at:
            self._root.refreshed(now)
            self.out.put(Emit(TreeAges()))
        self._ask_again(now)

    def _ask_again(self, now: Now) -> None:
        wanted: dict[NodeId, list[bytes]] = {}
        while (name := self._missing.overdue(now.mono)) is not None:
            node = self._missing.next_announcer(name, self._links)
            if node is None:
                self.stats.missed += 1
                self._found(name)
                continue
            wanted.setdefault(node, []).append(name)
            self._missing.wait(name, now.mono + self._config.retry_s)
        for node, names in wanted.items():
            self.stats.grafts += len(names)
            for first in range(0, len(names), ANNOUNCED_MOST):
                self._graft(node, tuple(names[first : first + ANNOUNCED_MOST]))

    def next_timer(self) -> float:
        return min(self._announce_at, self._missing.next_due(), self._root.refresh_at)

    def drain(self) -> list[Effect]:
        return self.out.drain()
