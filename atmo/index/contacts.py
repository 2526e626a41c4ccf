"""The routing table: buckets of contacts by the leading bits that their positions share with ours.

Only who answered or linked itself gets a place. A full bucket keeps its old contacts, as who has lived long lives on
(Kademlia, section 2.2); newcomers wait as spares until a check of an old contact fails. Those that were only told of
wait as rumours until they are asked. In each dict the contact heard least lately comes first.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from functools import lru_cache
from random import Random

from atmo.identity import NodeId
from atmo.index.config import IndexConfig
from atmo.index.keys import KEY_BITS, bucket_of, position
from atmo.wire.address import Contact


@lru_cache(maxsize=2**15)
def shared(contact: Contact) -> Contact:
    """Returns one object for all equal contacts: thousands of tables in one simulation hold the same ones."""
    return contact


@lru_cache(maxsize=2**14)
def network_group(host: str) -> str | None:
    """Returns what addresses of one owner have in common: the IPv4 /24 or IPv6 /48; None where that means nothing, as
    for private addresses."""
    address = ipaddress.ip_address(host)
    if not address.is_global:
        return None
    return str(ipaddress.ip_network((int(address), 24 if address.version == 4 else 48), strict=False))


def groups_of(contact: Contact) -> list[str]:
    """Returns the network groups of a contact, each once."""
    groups: dict[str, None] = {}
    for address in contact.addresses:
        group = network_group(address.host)
        if group is not None:
            groups[group] = None
    return list(groups)


class Entry:
    """A contact with a place in the table.

    Attributes:
        contact: Who and where.
        place: Its position.
        heard: Monotonic seconds of its last sign of life.
        failures: Requests without an answer since.
    """

    __slots__ = ("contact", "failures", "heard", "place")

    def __init__(self, contact: Contact, place: int, heard: float) -> None:
        self.contact = contact
        self.place = place
        self.heard = heard
        self.failures = 0


@dataclass(slots=True)
class _Bucket:
    entries: dict[NodeId, Entry] = field(default_factory=dict)
    spares: dict[NodeId, Contact] = field(default_factory=dict)
    rumours: dict[NodeId, Contact] = field(default_factory=dict)


class Table:
    """Who is known, by distance.

    Args:
        config: Bounds.
        own: This node.
        mesh: The mesh id, a part of all positions.
    """

    def __init__(self, config: IndexConfig, own: NodeId, mesh: bytes) -> None:
        self._config = config
        self._own = own
        self._mesh = mesh
        self._buckets: dict[int, _Bucket] = {}
        self._heard = 0.0
        self._count = 0
        self.place = position(mesh, own)

    def __len__(self) -> int:
        return self._count

    def __contains__(self, node: object) -> bool:
        return isinstance(node, NodeId) and self.get(node) is not None

    def get(self, node: NodeId) -> Entry | None:
        """Returns a node's place."""
        bucket = self._buckets.get(self._index(node))
        return bucket.entries.get(node) if bucket else None

    def entries(self) -> list[Entry]:
        """Returns everyone in the table, the nearest buckets first."""
        return [
            entry for index in sorted(self._buckets, reverse=True) for entry in self._buckets[index].entries.values()
        ]

    def _index(self, node: NodeId) -> int:
        return bucket_of(position(self._mesh, node) ^ self.place)

    def _bucket(self, index: int) -> _Bucket:
        bucket = self._buckets.get(index)
        if bucket is None:
            bucket = self._buckets[index] = _Bucket()
        return bucket

    # --- who was heard ------------------------------------------------------------------------------------------------

    def seen(self, mono: float, contact: Contact, *, own_word: bool = False) -> None:
        """A contact answered or linked itself: it gets a place, or waits for one.

        Args:
            mono: Monotonic seconds now.
            contact: Who and where.
            own_word: It says so itself, so its addresses replace what was known.
        """
        node = contact.node
        if node == self._own or not contact.addresses:
            return
        self._heard = mono
        place = position(self._mesh, node)
        bucket = self._bucket(bucket_of(place ^ self.place))
        entry = bucket.entries.pop(node, None)
        if entry is not None and (not own_word or entry.contact == contact):
            entry.heard, entry.failures = mono, 0
            bucket.entries[node] = entry
            return
        if entry is not None:
            self._count -= 1
        bucket.spares.pop(node, None)
        bucket.rumours.pop(node, None)
        contact = shared(contact)
        if len(bucket.entries) < self._config.k and self._fits(bucket, contact):
            bucket.entries[node] = Entry(contact, place, mono)
            self._count += 1
        elif not self._replace_failing(bucket, Entry(contact, place, mono)):
            _keep_last(bucket.spares, contact, self._config.spares)

    def _replace_failing(self, bucket: _Bucket, newcomer: Entry) -> bool:
        for node, entry in bucket.entries.items():
            if entry.failures:
                del bucket.entries[node]
                self._count -= 1
                if self._fits(bucket, newcomer.contact):
                    bucket.entries[newcomer.contact.node] = newcomer
                    self._count += 1
                    return True
                bucket.entries[node] = entry
                self._count += 1
                return False
        return False

    def known(self, contact: Contact) -> Contact:
        """Returns a contact of others' telling, with the addresses that it proved itself where it did."""
        entry = self.get(contact.node)
        return entry.contact if entry else contact

    def told(self, contact: Contact) -> bool:
        """A contact was told of by another: where its bucket has room, it may be asked one day. Returns whether."""
        node = contact.node
        if node == self._own or not contact.addresses:
            return False
        bucket = self._bucket(self._index(node))
        if len(bucket.entries) >= self._config.k or node in bucket.entries or node in bucket.spares:
            return False
        _keep_last(bucket.rumours, shared(contact), self._config.rumours)
        return True

    def failed(self, node: NodeId) -> None:
        """A contact did not answer: a spare takes its place, or it stays on trial."""
        bucket = self._buckets.get(self._index(node))
        if bucket is None:
            return
        bucket.spares.pop(node, None)
        bucket.rumours.pop(node, None)
        entry = bucket.entries.pop(node, None)
        if entry is None:
            return
        entry.failures += 1
        self._count -= 1
        if self._promote(bucket) or (entry.failures >= self._config.failures and self._heard > entry.heard):
            return
        bucket.entries[node] = entry
        self._count += 1

    def _promote(self, bucket: _Bucket) -> bool:
        """Gives the spare that was heard last the free place."""
        for node in reversed(list(bucket.spares)):
            contact = bucket.spares.pop(node)
            if self._fits(bucket, contact):
                bucket.entries[node] = Entry(contact, position(self._mesh, node), self._heard)
                self._count += 1
                return True
        return False

    def drop(self, node: NodeId) -> None:
        """Forgets a node for good."""
        bucket = self._buckets.get(self._index(node))
        if bucket is not None:
            bucket.spares.pop(node, None)
            bucket.rumours.pop(node, None)
            if bucket.entries.pop(node, None) is not None:
                self._count -= 1
                self._promote(bucket)

    def _fits(self, bucket: _Bucket, contact: Contact) -> bool:
        """Says whether the network groups of a contact have room: one owner of many addresses does not fill a table."""
        groups = groups_of(contact)
        if not groups:
            return True
        near, all_over = dict.fromkeys(groups, 0), dict.fromkeys(groups, 0)
        for other in self._buckets.values():
            for entry in other.entries.values():
                for group in groups_of(entry.contact):
                    if group in all_over:
                        all_over[group] += 1
                        near[group] += other is bucket
        return max(near.values()) < self._config.bucket_group and max(all_over.values()) < self._config.table_group

    # --- who is close -------------------------------------------------------------------------------------------------

    def closest(self, target: int, count: int, *, skip: NodeId | None = None) -> list[Entry]:
        """Returns up to `count` contacts that did not fail last, the closest to `target` first.

        Bucket by bucket: those that share more bits with the target than we do, then those closer to us than it, then
        the others from near to far.
        """
        first = bucket_of(target ^ self.place)
        found = self._sorted([first], target, skip)
        if len(found) < count:
            found += self._sorted([index for index in self._buckets if index > first], target, skip)
        if len(found) < count:
            for index in sorted((index for index in self._buckets if index < first), reverse=True):
                found += self._sorted([index], target, skip)
                if len(found) >= count:
                    break
        return found[:count]

    def _sorted(self, indices: list[int], target: int, skip: NodeId | None) -> list[Entry]:
        rows = [
            (entry.place ^ target, entry)
            for index in indices
            if (bucket := self._buckets.get(index)) is not None
            for node, entry in bucket.entries.items()
            if not entry.failures and node != skip
        ]
        rows.sort(key=_distance)
        return [entry for _, entry in rows]

    def closer(self, target: int, most: int) -> int:
        """Returns how many contacts are closer to `target` than we are, counting no further than `most`."""
        own = self.place ^ target
        return sum(entry.place ^ target < own for entry in self.closest(target, most))

    # --- who is to be checked -----------------------------------------------------------------------------------------

    def doubtful(self, mono: float) -> Contact | None:
        """Returns whom to check next: a rumour where there is room, the nearest bucket first, else the contact heard
        least lately, None when all were heard a moment ago."""
        stalest: Entry | None = None
        oldest = mono - self._config.fresh_s
        for index in sorted(self._buckets, reverse=True):
            bucket = self._buckets[index]
            if bucket.rumours and len(bucket.entries) < self._config.k:
                return bucket.rumours.pop(next(reversed(bucket.rumours)))
            bucket.rumours.clear()
            entry = next(iter(bucket.entries.values()), None)
            if entry is not None and entry.heard <= oldest:
                stalest, oldest = entry, entry.heard
        return stalest.contact if stalest else None

    def target_beside(self, node: NodeId, rng: Random) -> int:
        """Returns a random position in the bucket of `node`."""
        index = min(self._index(node), KEY_BITS - 1)
        bits = KEY_BITS - 1 - index
        return (((self.place >> bits) ^ 1) << bits) | rng.getrandbits(bits) if bits else self.place ^ 1


def _distance(row: tuple[int, Entry]) -> int:
    return row[0]


def _keep_last(rows: dict[NodeId, Contact], contact: Contact, most: int) -> None:
    rows.pop(contact.node, None)
    rows[contact.node] = contact
    if len(rows) > most:
        del rows[next(iter(rows))]
