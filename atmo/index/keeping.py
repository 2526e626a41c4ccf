"""What a node does with provider records of others: it judges them, keeps those that count, and answers with some."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from atmo.clock import Now
from atmo.identity import NodeId
from atmo.index.config import IndexConfig
from atmo.index.contacts import Table
from atmo.index.keys import to_int
from atmo.index.messages import PROVIDERS_MOST
from atmo.index.records import Open, ProviderStore, SealedProvider

Admit = Callable[[Now, NodeId, bytes, bytes | None], bool]
"""Says whether a node is a member by the sealed certificate and issuer's certificate that it shows."""


class Keeper:
    """Stands between messages and the store.

    Args:
        config: Periods and bounds.
        mesh: The mesh id.
        rng: Chooses among records.
        admit: Judges membership.
        opens: Opens provider records.
        table: Who is known.
        store: Of the records.
    """

    def __init__(
        self,
        config: IndexConfig,
        mesh: bytes,
        rng: Random,
        admit: Admit,
        opens: Open,
        table: Table,
        store: ProviderStore,
    ) -> None:
        self._config = config
        self._mesh = mesh
        self._rng = rng
        self._admit = admit
        self._opens = opens
        self._table = table
        self._store = store

    def some(self, now: Now, key: bytes) -> tuple[bytes, ...]:
        """Returns as many records as an answer has room for, chosen at random so that the load is spread."""
        rows = self._store.of(key, now.wall)
        most = min(self._config.answer_providers, PROVIDERS_MOST)
        if len(rows) > most:
            rows = self._rng.sample(rows, most)
        size, chosen = 0, []
        for row in rows:
            size += len(row.envelope)
            if size > self._config.answer_bytes:
                break
            chosen.append(row.envelope)
        return tuple(chosen)

    def judged(self, now: Now, envelope: bytes) -> SealedProvider | None:
        """Returns a record that counts now by a member; None where that may be due to clocks or to what we know.

        Raises:
            WireError: It can never count.
        """
        sealed = self._opens(envelope, self._mesh)
        provider, skew_s = sealed.provider, self._config.skew_s
        if provider.issued_s > now.wall + skew_s or sealed.expires_s(skew_s) < now.wall:
            return None
        return sealed if self._admit(now, sealed.author, provider.certificate, provider.issuer_certificate) else None

    def keep(self, now: Now, sealed: SealedProvider, source: NodeId) -> int:
        """Stores a record here: for its lifetime where we are among the closest to its key, else for a moment.

        What others than its author ask to keep are copies of one that they found, of many that there may be: they never
        stay, and nobody takes them for all that there is.

        Returns:
            Seconds for which it is kept.
        """
        config = self._config
        expires_s = sealed.expires_s(config.skew_s)
        far = self._table.closer(to_int(sealed.provider.key), config.slack) >= config.slack
        cached = far or source != sealed.author
        if cached:
            expires_s = min(expires_s, now.wall + config.cache_s)
        kept = self._store.put(sealed, expires_s, cached=cached)
        return max(1, int(expires_s - now.wall)) if kept else 0
