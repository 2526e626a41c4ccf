"""Whom this node serves: a few at once, at full rate, in turn.

Partners of all swarms wait for slots as long as they lack something that is here. A free slot goes to one of those who
owe this node least, in coarse steps: who only takes waits until nobody else does, and to have given much gains nothing,
or those who are behind would get ever less. Of two of them, drawn at random, it goes to who has less, so that all
finish together; would it go to who has least, all nodes would serve the same few, whose lines cannot take more. (That
two are enough is the power of two choices: Mitzenmacher, 2001.) A slot ends when its turn is over and somebody waits,
when nothing is asked for, or when there is nothing to ask for.

Cohen (2003) has slots that follow what the other gives and one that is tried out; here everybody serves in any case.
There are as many slots as the line is seen to send, so that a chunk is through in about half a second and can be passed
on.
"""

from __future__ import annotations

import math

from atmo.clock import Now
from atmo.engine import Send
from atmo.identity import NodeId
from atmo.transfer.common import Common
from atmo.transfer.handouts import listed
from atmo.transfer.messages import SwarmSlot
from atmo.transfer.meter import Meter
from atmo.transfer.partner import Partner
from atmo.transfer.swarm import Swarm

Row = tuple[Swarm, NodeId, Partner]


class Slots:
    """The slots of this node, over all swarms.

    Args:
        common: What the engine's parts share.
        swarms: All swarms by name; the engine keeps them.
    """

    def __init__(self, common: Common, swarms: dict[str, Swarm]) -> None:
        self._common = common
        self._config = common.config.slots
        self._swarms = swarms
        self._meter = Meter()
        self._held: dict[tuple[str, NodeId], Row] = {}
        self._guests: dict[NodeId, float] = {}  # until when
        self._look_at = math.inf

    # --- what happens ---------------------------------------------------------------------------------------------

    def consider(self, now: Now, swarm: Swarm) -> None:
        """Somebody of this swarm may want a slot now."""
        before = len(self._held)
        self._open_free(now)
        if len(self._held) > before and not swarm.handouts.is_over:
            for of, node, partner in self._held.values():
                if of is swarm and not partner.advised:
                    self._advise(now, swarm, node, partner)
        self._look_at = min(self._look_at, now.mono + self._config.look_s)

    def greeted(self, now: Now, swarm: Swarm, node: NodeId, *, anew: bool) -> None:
        """A partner said hello; if `anew`, it has lost its link and knows of no slot, which this node may not know."""
        partner = swarm.partners[node]
        if anew and partner.slot:
            partner.pending = 0
            self._tell(swarm, node, partner)
        self.consider(now, swarm)

    def gained(self, now: Now, swarm: Swarm, node: NodeId, partner: Partner) -> None:
        """A partner has more than before: it may want nothing any more, or something else."""
        if not partner.slot:
            return
        if not swarm.lacks(partner):
            if self._best() is not None:
                self._close(now, swarm, node, partner)
                self._open_free(now)
        elif partner.advised and (partner.advised & ~partner.has).bit_count() <= self._config.advice_least:
            self._advise(now, swarm, node, partner)

    def gone(self, now: Now, name: str, node: NodeId) -> None:
        """Somebody is no partner any more."""
        row = self._held.pop((name, node), None)
        if row is not None:
            row[2].slot = False
            row[0].handouts.back(row[2].advised & ~row[2].has)
            self._open_free(now)

    def admit(self, now: Now, node: NodeId, size: int) -> float | None:
        """A node asks for a chunk of so many bytes.

        Returns:
            How many seconds to wait before it is sent, as a limit is set; None where the node has no slot, or the wait
            would be so long that it would not stay for it: what it gives up is owed all the same.
        """
        waits_s = self._common.limits.upload_at(now) - now.mono
        rows = [swarm.partners[node] for swarm in self._swarms.values() if node in swarm.partners]
        grace = now.mono - self._config.grace_s
        served = [partner for partner in rows if partner.slot or partner.slot_at >= grace]
        if waits_s > self._config.wait_most_s or (not served and (rows or not self._admits_guest(now, node))):
            self._common.stats.choked += 1
            return None
        for partner in served[:1]:
            partner.used_at = now.mono
            partner.pending += 1
            partner.given += size
            partner.chunk_bytes = size
        self._common.limits.sent(now, size)
        return waits_s

    def served(self, now: Now, node: NodeId, size: int, spared: int = 0) -> None:
        """A chunk that was admitted is sent, so many bytes of it, or was given up; what a delta spared is not owed."""
        self._common.limits.sent(now, -spared)
        for swarm in self._swarms.values():
            partner = swarm.partners.get(node)
            if partner is not None and partner.pending:
                partner.pending -= 1
                partner.used_at = now.mono
                break
        self._meter.add(now.mono, size)
        self._common.stats.served_bytes += size

    def handle_timer(self, now: Now) -> None:
        """Ends turns that are over while somebody waits."""
        if now.mono < self._look_at:
            return
        self._guests = {node: until for node, until in self._guests.items() if until > now.mono}
        config = self._config
        surplus = len(self._held) - self._most(now)
        for swarm, node, partner in list(self._held.values()):
            idle = self._is_idle(now, partner)
            if not (idle or self._is_over(now, partner) or not swarm.lacks(partner)):
                continue
            best = self._best()
            if best is None:
                break
            if not idle and swarm.lacks(partner) and self._rank(best[2]) >= self._rank(partner):
                partner.slot_at = now.mono  # another turn
                continue
            self._close(now, swarm, node, partner)
            surplus -= 1
            if surplus < 0:
                self._open(now, *best)
        self._open_free(now)
        self._look_at = now.mono + config.look_s if self._held or self._guests else math.inf

    def _is_idle(self, now: Now, partner: Partner) -> bool:
        """Says whether nothing is asked for; what has been under way for ever will not come: its link may be lost."""
        if partner.pending:
            return now.mono - partner.used_at >= self._config.void_s
        return now.mono - max(partner.used_at, partner.slot_at) >= self._config.idle_s

    def _is_over(self, now: Now, partner: Partner) -> bool:
        """Says whether a turn is over: of whom a first seed advises as soon as it keeps too much to itself."""
        config = self._config
        if not partner.advised:
            return now.mono - partner.slot_at >= config.turn_s
        kept = partner.given - partner.taken >= config.kept * partner.chunk_bytes
        return kept or now.mono - partner.slot_at >= config.advised_turn_s

    def next_timer(self) -> float:
        """Returns when `handle_timer` wants to be called."""
        return self._look_at

    # --- slots ----------------------------------------------------------------------------------------------------

    def _most(self, now: Now) -> int:
        fitting = round(self._meter.rate(now.mono) / self._config.bytes_s)
        return min(max(fitting, self._config.least), self._config.most)

    def _open_free(self, now: Now) -> None:
        most = self._most(now)
        while len(self._held) + len(self._guests) < most and (best := self._best()) is not None:
            self._open(now, *best)

    def _best(self) -> Row | None:
        """Returns who should be served next, in part at random."""
        waiting = [
            (swarm, node, partner)
            for swarm in self._swarms.values()
            if swarm.serves
            for node, partner in swarm.partners.items()
            if not partner.slot and swarm.lacks(partner)
        ]
        least = min((self._owes(row[2]) for row in waiting), default=0)
        equal = [row for row in waiting if self._owes(row[2]) == least]
        drawn = self._common.random.sample(equal, min(2, len(equal)))
        return min(drawn, key=lambda row: self._rank(row[2]), default=None)

    def _owes(self, partner: Partner) -> int:
        return max(0, partner.given - partner.taken) // self._config.step_bytes

    def _rank(self, partner: Partner) -> tuple[int, int]:
        return self._owes(partner), partner.has.bit_count()

    def _admits_guest(self, now: Now, node: NodeId) -> bool:
        """Lets a node that is no partner have a slot that is free."""
        if node not in self._guests and len(self._held) + len(self._guests) >= self._most(now):
            return False
        self._guests[node] = now.mono + self._config.guest_s
        self._look_at = min(self._look_at, now.mono + self._config.look_s)
        return True

    def _open(self, now: Now, swarm: Swarm, node: NodeId, partner: Partner) -> None:
        self._common.stats.slots_opened += 1
        partner.slot, partner.slot_at, partner.advised = True, now.mono, 0
        self._held[swarm.name, node] = (swarm, node, partner)
        if swarm.is_whole and not swarm.handouts.is_over and self._advise(now, swarm, node, partner):
            return
        self._tell(swarm, node, partner)

    def _close(self, now: Now, swarm: Swarm, node: NodeId, partner: Partner) -> None:
        del self._held[swarm.name, node]
        swarm.handouts.back(partner.advised & ~partner.has)
        partner.slot, partner.slot_at, partner.advised, partner.pending = False, now.mono, 0, 0
        self._tell(swarm, node, partner)

    def _advise(self, now: Now, swarm: Swarm, node: NodeId, partner: Partner) -> bool:
        """Tells a partner what to fetch, where this is a first seed and there are others; says whether it was told."""
        lacks = swarm.lacks(partner)
        if not swarm.is_whole or sum(1 for other in swarm.partners.values() if swarm.lacks(other)) < 2:
            return False
        before = partner.advised
        partner.advised = swarm.handouts.advice(now.mono, lacks, before, self._config.advice, node)
        self._common.stats.advised += (partner.advised & ~before).bit_count()
        if partner.advised == before & lacks and partner.advised:
            return False
        if not partner.advised and not before:
            return False
        self._tell(swarm, node, partner)
        return True

    def _tell(self, swarm: Swarm, node: NodeId, partner: Partner) -> None:
        self._common.out.put(Send(node, SwarmSlot(bytes.fromhex(swarm.name), partner.slot, listed(partner.advised))))
