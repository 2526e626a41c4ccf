"""What a node remembers of its mesh over restarts: genesis, certificate, epoch, and the records of others."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from atmo.engine import Store
from atmo.gossip.sync import STORE_PREFIX
from atmo.peer.renewal import CERTIFICATE_KEY, ISSUER_KEY
from atmo.peer.strikes import BAN_PREFIX
from atmo.storage.database import Database
from atmo.transfer.scores import SCORES_KEY
from atmo.trust.records import SUCCESSION

_GENESIS, _EPOCH = "mesh/genesis", "mesh/epoch"


@dataclass(frozen=True, slots=True)
class MeshCredentials:
    """What makes this node a member.

    Attributes:
        genesis: Sealed.
        certificate: This node's own, sealed.
        issuer_certificate: Sealed, where the issuer is not a founder.
    """

    genesis: bytes
    certificate: bytes
    issuer_certificate: bytes | None


class MeshState:
    """The mesh's part of the database. Methods block on the disk: call them from a worker thread."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def credentials(self) -> MeshCredentials | None:
        """Returns what was joined, None where this node belongs to no mesh."""
        genesis, certificate = self._database.kv_get(_GENESIS), self._database.kv_get(CERTIFICATE_KEY)
        if genesis is None or certificate is None:
            return None
        return MeshCredentials(genesis, certificate, self._database.kv_get(ISSUER_KEY))

    def save(self, credentials: MeshCredentials, stores: Iterable[Store] = ()) -> None:
        """Remembers the mesh and how to reach its members, all of it or, when it is cut, nothing."""
        with self._database.transaction():
            self.apply(stores)
            if credentials.issuer_certificate:
                self._database.kv_put(ISSUER_KEY, credentials.issuer_certificate)
            self._database.kv_put(CERTIFICATE_KEY, credentials.certificate)
            self._database.kv_put(_GENESIS, credentials.genesis)

    def next_epoch(self, wall: float) -> int:
        """Returns an epoch larger than any before, and remembers it.

        The wall clock is its floor, so that a home restored from a backup does not fall behind its own past.
        """
        held = self._database.kv_get(_EPOCH)
        epoch = max(int.from_bytes(held or b"", "big") + 1, int(wall))
        self._database.kv_put(_EPOCH, epoch.to_bytes(8, "big"))
        return epoch

    def records(self) -> list[bytes]:
        """Returns the sealed records kept from earlier runs."""
        return [value for _, value in self._database.kv_items(STORE_PREFIX)]

    def bans(self) -> list[tuple[str, bytes]]:
        """Returns who was kept out in earlier runs, as the peer asked to keep it."""
        return self._database.kv_items(BAN_PREFIX)

    def scores(self) -> bytes | None:
        """Returns what was known of sources of models in earlier runs, as the peer asked to keep it."""
        return self._database.kv_get(SCORES_KEY)

    def successions(self) -> list[bytes]:
        """Returns those among them that may say who has a founder's rights: without them no certificate is judged."""
        return [value for key, value in self._database.kv_items(STORE_PREFIX) if key.endswith(f"/{SUCCESSION}/")]

    def apply(self, stores: Iterable[Store]) -> None:
        """Keeps or forgets what the peer asked for, all in one transaction: each costs a sync of the disk."""
        with self._database.transaction():
            for store in stores:
                if store.value is None:
                    self._database.kv_delete(store.key)
                else:
                    self._database.kv_put(store.key, store.value)
