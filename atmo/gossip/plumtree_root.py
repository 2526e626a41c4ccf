"""Whose records shape the tree of the broadcast: of all authors heard of late, the one with the smallest id."""

from __future__ import annotations

import math

from atmo.clock import Now
from atmo.gossip.entry import signer_of
from atmo.gossip.plumtree_config import PlumtreeConfig


class Root:
    """Knows the author whose records make the tree anew, and when one is due.

    Args:
        config: Of the broadcast.
    """

    def __init__(self, config: PlumtreeConfig) -> None:
        self._config = config
        self._author = b""
        self._heard = -math.inf
        self._next = math.inf

    def renews(self, now: Now, envelope: bytes) -> bool:
        """Notes the author of a record that is on its way; says whether this one makes the tree anew."""
        author, config = signer_of(envelope), self._config
        if author < self._author or now.mono > self._heard + config.root_s:
            self._author, self._next = author, now.mono + config.root_settled_s
        elif author != self._author:
            return False
        self._heard = now.mono
        if now.mono < self._next:
            return False
        self._next = now.mono + config.renew_s
        return True
