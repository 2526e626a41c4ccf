"""Whom a node could dial: the passive view, the address book behind it, and who did not answer there.

Hearsay (what neighbours say in shuffles and walks) fills the passive view only and never replaces what a node said of
itself; it is dropped where a dial fails. Contacts that a signed record or a link proved are in the book, and stay there
when their nodes are gone: where a partition heals, somebody has to try.
"""

from __future__ import annotations

import math
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass
from random import Random

from atmo.gossip.hyparview_config import HyParViewConfig
from atmo.identity import NodeId
from atmo.wire.address import Contact

_FAILURES_MOST = 16  # two to this many times the shortest wait is longer than any longest one


@dataclass(slots=True)
class _Try:
    """What came of asking and dialling a node.

    Attributes:
        due: Monotonic seconds before which it is left alone.
        failures: In a row.
        dialled_at: Monotonic seconds of the last dial.
        revived_at: Monotonic seconds at which a record last ended the backing off.
    """

    due: float = -math.inf
    failures: int = 0
    dialled_at: float = -math.inf
    revived_at: float = -math.inf


class AddressBook:
    """Contacts, and when each may be tried.

    Args:
        config: Sizes, periods and bounds.
        own: This node, which is never in here.
        rng: Chooses who is kept, and spreads the waits.
    """

    def __init__(self, config: HyParViewConfig, own: NodeId, rng: Random) -> None:
        self._config = config
        self._own = own
        self._rng = rng
        self._tries: dict[NodeId, _Try] = {}
        self.passive: dict[NodeId, Contact] = {}
        self.proven: dict[NodeId, Contact] = {}
        self.lost: dict[NodeId, float] = {}  # who is believed to be gone: until when hearsay does not count

    # --- who is known ---------------------------------------------------------------------------------------------

    def learn(self, now_s: float, contact: Contact, stale: bool, linked: Container[NodeId]) -> bool:
        """Takes a contact that a record proved; one that is `stale` counts as gone, unless it is known already.

        Returns:
            Whether there is somebody to try who was not there before.
        """
        node = contact.node
        known = self.proven.get(node)
        if known is not None:
            if stale:
                return False
            if known is not contact:
                self.proven[node] = contact
            if node in self.passive:
                self.passive[node] = contact
            lost = self.lost.pop(node, None) is not None
            return self._revive(now_s, node) or lost
        if node == self._own or not contact.addresses:
            return False
        self._prove(contact)
        if stale:
            self._lose(node, now_s)
            return True
        self.lost.pop(node, None)
        if node not in linked and (
            len(self.passive) < self._config.passive
            or self._rng.random() * len(self.proven) < self._config.passive  # an even sample of all that are proven
        ):
            self._reserve(contact, ())
        return True

    def _revive(self, now_s: float, node: NodeId) -> bool:
        tried = self._tries.get(node)
        if tried is None or tried.failures == 0 or now_s < tried.revived_at + self._config.revive_s:
            return False
        tried.revived_at = now_s
        tried.failures = 1
        tried.due = now_s
        return True

    def met(self, contact: Contact) -> None:
        """Takes what a linked node says of itself."""
        if contact.addresses and contact.node != self._own:
            self._prove(contact)

    def _prove(self, contact: Contact) -> None:
        if contact.node not in self.proven and len(self.proven) >= self._config.book:
            oldest = next((node for node in self.proven if node not in self.passive), next(iter(self.proven)))
            self._remove(oldest)
        self.proven[contact.node] = contact
        if contact.node in self.passive:
            self.passive[contact.node] = contact

    def hear(
        self, now_s: float, contacts: Iterable[Contact], sent: Sequence[NodeId], linked: Container[NodeId]
    ) -> None:
        """Takes hearsay into the passive view.

        Args:
            now_s: Monotonic seconds.
            contacts: Of whomever.
            sent: The nodes that the other end was told of in exchange: they make room first.
            linked: Nodes that do not belong into the passive view.
        """
        for contact in contacts:
            node = contact.node
            if node == self._own or node in self.passive or node in linked or not contact.addresses:
                continue
            if now_s < self.lost.get(node, -math.inf):
                continue
            self.lost.pop(node, None)
            self._reserve(self.proven.get(node, contact), sent)

    def _reserve(self, contact: Contact, sent: Sequence[NodeId]) -> None:
        """Puts a contact into the passive view, in place of another where it is full."""
        if contact.node not in self.passive and len(self.passive) >= self._config.passive:
            out = next((node for node in sent if node in self.passive), None)
            self.unreserve(self._rng.choice(list(self.passive)) if out is None else out)
        self.passive[contact.node] = contact

    def reserve(self, node: NodeId) -> None:
        """Puts a node into the passive view whose contact is proven; others it leaves out."""
        if contact := self.proven.get(node):
            self._reserve(contact, ())

    def unreserve(self, node: NodeId) -> None:
        """Takes a node out of the passive view; what is known of it by hearsay alone is forgotten."""
        self.passive.pop(node, None)
        if node not in self.proven:
            self._tries.pop(node, None)

    def gone(self, now_s: float, node: NodeId) -> None:
        """A node is believed to be gone: hearsay does not bring it back for a while, a newer record does."""
        self.unreserve(node)
        self._lose(node, now_s + self._config.tombstone_s)

    def _lose(self, node: NodeId, until_s: float) -> None:
        self.lost.pop(node, None)
        if len(self.lost) >= self._config.book:
            del self.lost[next(iter(self.lost))]
        self.lost[node] = until_s

    def forget(self, node: NodeId) -> None:
        """Forgets a node altogether."""
        self._remove(node)
        self.lost.pop(node, None)

    def _remove(self, node: NodeId) -> None:
        self.proven.pop(node, None)
        self.passive.pop(node, None)
        self._tries.pop(node, None)

    def contact(self, node: NodeId) -> Contact | None:
        """Returns where a node is said to listen."""
        return self.proven.get(node) or self.passive.get(node)

    # --- who may be tried -----------------------------------------------------------------------------------------

    def pick(self, now_s: float, nodes: Iterable[NodeId]) -> NodeId | None:
        """Returns a random one of the nodes that may be tried now and failed the fewest times."""
        least, best = _FAILURES_MOST, list[NodeId]()
        for node in nodes:
            tried = self._tries.get(node)
            failures = 0
            if tried is not None:
                if tried.due > now_s:
                    continue
                failures = tried.failures
            if failures < least:
                least, best = failures, [node]
            elif failures == least:
                best.append(node)
        return self._rng.choice(best) if best else None

    def next_due(self, now_s: float, busy: Container[NodeId], lost_too: bool) -> float:
        """Returns the monotonic second after `now_s` at which the next node may be tried that is none of `busy`."""
        lost: Container[NodeId] = () if lost_too else self.lost
        dues = [
            tried.due
            for node, tried in self._tries.items()
            if tried.due > now_s and node not in busy and node not in lost
        ]
        return min(dues, default=math.inf)

    def _try(self, node: NodeId) -> _Try:
        return self._tries.setdefault(node, _Try())

    def wait(self, node: NodeId, until_s: float) -> None:
        """Leaves a linked node alone for a while."""
        self._try(node).due = until_s

    def dialled(self, now_s: float, node: NodeId) -> None:
        """A dial of this node has begun."""
        self._try(node).dialled_at = now_s

    def failed(self, now_s: float, node: NodeId) -> None:
        """A dial failed: the node leaves the passive view, and counts as gone when it fails again and again."""
        self.passive.pop(node, None)
        if node not in self.proven:
            self._tries.pop(node, None)
            self._lose(node, now_s + self._config.failed_s)
            return
        tried = self._try(node)
        self._back_off(now_s, node, tried)
        if tried.failures >= self._config.lost_failures and node not in self.lost:
            self._lose(node, now_s + self._config.failed_s)

    def linked(self, node: NodeId, *, dialled: bool) -> bool:
        """There is a link: the node is not gone, and where it was dialled it is proven to listen where that is said.

        Returns:
            Whether it was believed to be gone.
        """
        if dialled and node in self.passive:
            self._prove(self.passive[node])
        return self.lost.pop(node, None) is not None

    def unlinked(self, now_s: float, node: NodeId, stood_s: float) -> None:
        """A link ended after `stood_s` seconds: its node may be dialled again soon if it had stood."""
        if node not in self.proven:
            if node not in self.passive:
                self._tries.pop(node, None)
            return
        tried = self._try(node)
        if stood_s >= self._config.stable_s:
            tried.failures = 0
        self._back_off(now_s, node, tried)

    def _back_off(self, now_s: float, node: NodeId, tried: _Try) -> None:
        most = self._config.backoff_lost_s if node in self.lost else self._config.backoff_most_s
        wait = min(self._config.backoff_s * 2.0**tried.failures, most)
        tried.failures = min(tried.failures + 1, _FAILURES_MOST)
        tried.due = max(tried.due, now_s + wait * self._rng.uniform(0.5, 1.5))  # so that not all dial in step

    def pick_lost(self, now_s: float, busy: Container[NodeId]) -> NodeId | None:
        """Returns a random node that is believed to be gone and was not dialled a moment ago."""
        latest = now_s - self._config.heal_again_s
        nodes = [
            node for node in self.lost if node in self.proven and node not in busy and self._try_at(node) <= latest
        ]
        return self._rng.choice(nodes) if nodes else None

    def _try_at(self, node: NodeId) -> float:
        tried = self._tries.get(node)
        return -math.inf if tried is None else tried.dialled_at
