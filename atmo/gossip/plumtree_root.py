"""Whose records shape the tree of the broadcast: of all authors heard of late, the one with the smallest id."""

from __future__ import annotations

import math

from atmo.clock import Now
from atmo.gossip.entry import signer_of
from atmo.gossip.plumtree_config import PlumtreeConfig


class Root:
    """Knows who shapes the tree, and whether a record of it is to do so now.

    The root itself decides and says so in the record's messages; others go along, if not too often. So all nodes take
    the same record for it.

    Args:
        config: Of the broadcast.
    """

    def __init__(self, config: PlumtreeConfig) -> None:
        self._config = config
        self._author = b""
        self._heard = -math.inf
        self._next = math.inf
        self._is_own = False

    def begins(self, now: Now, envelope: bytes) -> bool:
        """Notes an own record; says whether it makes the tree anew."""
        if not self._is_of_root(now, envelope):
            return False
        self._is_own = True
        if now.mono < self._next:
            return False
        self._next = now.mono + self._config.renew_s
        return True

    def follows(self, now: Now, envelope: bytes, renews: bool) -> bool:
        """Notes a record on its way that `renews` the tree, as its author says; says whether this node goes along."""
        if not self._is_of_root(now, envelope) or not renews or now.mono < self._next - self._config.renew_s / 2:
            return False
        self._next = now.mono + self._config.renew_s
        return True

    @property
    def refresh_at(self) -> float:
        """When this node, being the root, is to say something: the tree ages, and others forget who the root is."""
        return self._heard + self._config.root_refresh_s if self._is_own else math.inf

    def refreshed(self, now: Now) -> None:
        """It was asked to."""
        self._heard = now.mono

    def _is_of_root(self, now: Now, envelope: bytes) -> bool:
        author, config = signer_of(envelope), self._config
        if author < self._author or now.mono > self._heard + config.root_s:
            self._author, self._next = author, now.mono + config.root_settled_s
            self._is_own = False
        elif author != self._author:
            return False
        self._heard = now.mono
        return True
