"""Tables and comparing engines for tests of anti-entropy: entries that need no signature, and who takes them in."""

from __future__ import annotations

from random import Random

from atmo.clock import Now
from atmo.gossip.entry import Entry, entry_of
from atmo.gossip.messages import Digest, Listing, Records, Want
from atmo.gossip.reconcile import Reconciler
from atmo.gossip.reconcile_config import ReconcileConfig
from atmo.gossip.table import RecordTable, TableLimits
from atmo.identity import NodeId
from atmo.trust.records import REVOCATION
from tests.gossip.kit import record

ROOMY = TableLimits(10**6, 10**6, 10**12, 10**12)
_BY_ENVELOPE: dict[bytes, Entry] = {}


def entry(
    author: NodeId,
    key: str = "",
    version: int = 1,
    *,
    kind: str = "note",
    size: int = 200,
    lifetime_s: int = 100_000,
    near: bool = False,
) -> Entry:
    """Returns an entry whose envelope says in plain words what it is."""
    envelope = f"{author} {kind} {key} {version} {lifetime_s} {near}".encode().ljust(size, b".")
    made = entry_of(author, record(kind, key, (1, version), lifetime_s=lifetime_s, near=near), envelope)
    return _BY_ENVELOPE.setdefault(envelope, made)


def known_as(changed: Entry) -> None:
    """From now on the envelope of this entry is read as it."""
    _BY_ENVELOPE[changed.envelope] = changed


class Keeper:
    """A table, its engine, and what a peer does for both."""

    def __init__(self, seed: str = "keeper", config: ReconcileConfig = ReconcileConfig()) -> None:
        self.table = RecordTable(ROOMY)
        self.engine = Reconciler(config, self.table, Random(seed))
        self.known = 0

    def put(self, *entries: Entry) -> int:
        """Takes entries in as `RecordSync` does; returns how many were news."""
        news = 0
        for each in entries:
            held = self.table.get(each.slot)
            if held is None or (held.record.version < each.record.version and each.slot[1] != REVOCATION):
                self.table.put(each)
                news += 1
        self.known += len(entries) - news
        return news

    def receive(self, now: Now, source: NodeId, message: Digest | Listing | Want | Records) -> None:
        """Takes a message in as the peer does."""
        if isinstance(message, Records):
            news = self.put(*(_BY_ENVELOPE[envelope] for envelope in message.envelopes))
            self.engine.took(now, source, len(message.envelopes), news)
        else:
            self.engine.receive(now, source, message)

    def fingerprint(self) -> bytes:
        """Returns the one of the whole table."""
        return self.table.fingerprints.range("", b"").fingerprint
