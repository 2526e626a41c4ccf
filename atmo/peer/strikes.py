"""Patience with neighbours: broken messages add up, time forgives, and who breaks too many is kept out for a while."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable
from dataclasses import dataclass

from atmo.clock import Now
from atmo.engine import Store
from atmo.errors import WireError
from atmo.identity import NodeId

BAN_PREFIX = "ban/"

_ENTRIES = 1_024
_DOUBLINGS = 6  # five minutes become five hours
_KEPT = struct.Struct(">dB")  # Unix second of its end, which one it is


@dataclass(slots=True)
class _Score:
    strikes: float
    at: float
    banned_until: float = -math.inf
    bans: int = 0


class Strikes:
    """Counts what neighbours broke.

    Args:
        most: Strikes that ban.
        forgive_s: After each such time one strike is forgotten.
        ban_s: How long a banned node is kept out; each further time twice as long.
    """

    def __init__(self, most: int, forgive_s: float, ban_s: float) -> None:
        self._most = most
        self._forgive_s = forgive_s
        self._ban_s = ban_s
        self._scores: dict[NodeId, _Score] = {}

    def strike(self, mono: float, node: NodeId) -> bool:
        """Counts a broken message; returns whether the node is banned from now on."""
        score = self._scores.get(node)
        if score is None:
            self._prune(mono)
            score = self._scores[node] = _Score(0.0, mono)
        score.strikes = max(0.0, score.strikes - (mono - score.at) / self._forgive_s) + 1.0
        score.at = mono
        if score.strikes < self._most:
            return False
        score.strikes, score.banned_until = 0.0, mono + self._ban_s * 2.0**score.bans
        score.bans = min(score.bans + 1, _DOUBLINGS)
        return True

    def is_banned(self, mono: float, node: NodeId) -> bool:
        """Says whether a node is kept out now."""
        score = self._scores.get(node)
        return score is not None and mono < score.banned_until

    def sentence(self, mono: float, node: NodeId) -> tuple[float, int]:
        """Returns for how many more seconds a node that was banned is kept out, and how often it was banned."""
        score = self._scores[node]
        return score.banned_until - mono, score.bans

    def resume(self, mono: float, node: NodeId, rest_s: float, bans: int) -> None:
        """Goes on with a ban from before a restart, for no longer than such a ban may last."""
        self._prune(mono)
        bans = min(max(bans, 1), _DOUBLINGS)
        self._scores[node] = _Score(0.0, mono, mono + min(rest_s, self._ban_s * 2.0 ** (bans - 1)), bans)

    def _prune(self, mono: float) -> None:
        """Makes room: who has been forgiven goes, else who was struck longest ago."""
        if len(self._scores) < _ENTRIES:
            return
        forgiven = self._most * self._forgive_s
        self._scores = {
            node: score for node, score in self._scores.items() if mono < max(score.at + forgiven, score.banned_until)
        }
        if len(self._scores) >= _ENTRIES:
            del self._scores[min(self._scores, key=lambda node: self._scores[node].at)]


class Offenders:
    """Members and strangers who break the protocol. Keys cost strangers nothing, so those are counted apart.

    Args:
        members: Patience with members.
        strangers: Patience with those whose membership is not proved: each break ended a link.
    """

    def __init__(self, members: Strikes, strangers: Strikes) -> None:
        self._members = members
        self._strangers = strangers

    def is_banned(self, mono: float, node: NodeId) -> bool:
        """Says whether a node is kept out now."""
        return self._members.is_banned(mono, node) or self._strangers.is_banned(mono, node)

    def member(self, now: Now, node: NodeId) -> Store | None:
        """Counts what a member broke; returns what is to be kept over restarts if it is banned from now on."""
        if not self._members.strike(now.mono, node):
            return None
        rest_s, bans = self._members.sentence(now.mono, node)
        return Store(f"{BAN_PREFIX}{node}", _KEPT.pack(now.wall + rest_s, bans))

    def stranger(self, mono: float, node: NodeId) -> bool:
        """Counts what a stranger broke; returns whether it is banned from now on."""
        return self._strangers.strike(mono, node)

    def load(self, now: Now, kept: Iterable[tuple[str, bytes]]) -> list[Store]:
        """Goes on with the bans of members from before a restart; returns what need not be kept any more.

        Args:
            now: The clocks.
            kept: Keys and values of what `member` returned.
        """
        over = []
        for key, value in kept:
            try:
                node = NodeId.parse(key.removeprefix(BAN_PREFIX))
                until, bans = _KEPT.unpack(value)
            except (WireError, struct.error):
                until = -math.inf
            if until > now.wall:
                self._members.resume(now.mono, node, until - now.wall, bans)
            else:
                over.append(Store(key, None))
        return over
