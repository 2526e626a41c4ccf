"""What this node tells the mesh of itself: who it is, which models it holds, what it can run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

from atmo.clock import Now
from atmo.engine import Emit, Outbox
from atmo.errors import WireError
from atmo.gossip import records as kinds
from atmo.gossip.catalog import digest
from atmo.gossip.records import (
    DEPRECATION,
    DEPRECATION_LIFETIME_S,
    DeprecationBody,
    Hardware,
    ModelRecord,
    ModelsBody,
    NodeRecord,
    ProfileBody,
    deprecation_key,
)
from atmo.gossip.sync import RecordSync
from atmo.peer.config import PeerStats
from atmo.peer.directory import CapabilitiesBody
from atmo.peer.events import AdvertLeftOut
from atmo.router.capability import Capability
from atmo.trust.certificate import valid_name
from atmo.trust.mesh import Member
from atmo.wire import limits
from atmo.wire.address import Address
from atmo.wire.schema import pack, pack_checked

_PAGE_BYTES = 40 * 1024
_ITEM_BYTES = 56 * 1024  # with the record around it under the message limit
_PAGES = 24  # of capabilities: with those of models under `SyncConfig.author_bytes`
_CATALOG_PAGES = 4
"""A catalog of more pages is told by its digest alone. Source: guess; some 800 models, 160 KiB in every table."""


class Adverts:
    """Writes this node's own records.

    Args:
        own: This node's membership.
        is_admin: Says whether this node may let others in: then everybody should know where it is.
        sync: Where records are written.
        stats: Counts what is left out.
        out: Tells what is left out.
    """

    def __init__(
        self, own: Member, is_admin: Callable[[Now], bool], sync: RecordSync, stats: PeerStats, out: Outbox
    ) -> None:
        self._own = own
        self._is_admin = is_admin
        self._sync = sync
        self._stats = stats
        self._out = out
        self._node: NodeRecord | None = None
        self._near = False

    def node(self, now: Now, name: str, addresses: Sequence[Address], version: str, hardware: Hardware) -> None:
        """See `Peer.publish_node`."""
        if not valid_name(name):
            raise WireError(f"a node's name has at most {limits.NAME_CHARS} printable characters")
        own, reached = self._own, tuple(addresses[: limits.ADDRESSES])
        relay = self._node.relay if self._node else None
        self._node = NodeRecord(name, reached, own.sealed, own.issuer_sealed, version, hardware, relay=relay)
        self.refresh_node(now)

    def relay(self, now: Now, url: str | None) -> None:
        """See `Peer.publish_relay`."""
        if self._node and self._node.relay != url:
            self._node = replace(self._node, relay=url)
            self.refresh_node(now)

    def adopt(self, now: Now, own: Member) -> None:
        """This node has a new certificate: it shows that one from now on."""
        self._own = own
        if self._node:
            self._node = replace(self._node, certificate=own.sealed, issuer_certificate=own.issuer_sealed)
            self.refresh_node(now)

    def refresh_node(self, now: Now) -> None:
        """Says again who this node is, in a newer record: it lives."""
        if self._node:
            near = self._near and not self._is_admin(now)
            self._sync.publish(now, kinds.NODE, "", pack(self._node), near=near)

    def leave(self, now: Now) -> None:
        """Says that this node is not there any more, and where it was."""
        if self._node:
            self._node = replace(self._node, leaving=True)
            self.refresh_node(now)

    def respread(self, now: Now, *, near: bool) -> None:
        """Says everything again, to the neighbours alone or to the whole mesh."""
        self._near = near
        self.refresh_node(now)
        own = self._own.certificate.subject
        for kind in (kinds.MODELS, kinds.CATALOG, kinds.CAPABILITIES, kinds.PROFILE):
            number = 0
            while (held := self._sync.record(own, kind, str(number))) is not None:
                if held.body:
                    self._sync.publish(now, kind, str(number), held.body, near=near)
                number += 1

    def models(self, now: Now, models: Sequence[ModelRecord]) -> tuple[tuple[ModelRecord, ...], bool]:
        """See `Peer.publish_models`.

        Returns:
            Those that readers accept, and whether only a digest tells of them.
        """
        cut, unfit = _pages(models, _model_size)
        self._leave_out((model.name, error) for model, error in unfit)
        fit = tuple(model for page in cut for model in page)
        if len(cut) > _CATALOG_PAGES:
            self._put_pages(now, kinds.CATALOG, [pack(digest(fit))])
            self._put_pages(now, kinds.MODELS, [])
            return fit, True
        self._put_pages(now, kinds.MODELS, [pack(ModelsBody(page)) for page in cut])
        self._put_pages(now, kinds.CATALOG, [])
        return fit, False

    def profile(self, now: Now, profile: ProfileBody) -> None:
        """See `Peer.publish_profile`."""
        self._put_pages(now, kinds.PROFILE, [pack_checked(profile)])

    def deprecation(self, now: Now, body: DeprecationBody, *, withdrawn: bool) -> None:
        """See `Peer.publish_deprecation`."""
        own = self._own
        proven = replace(body, certificate=own.sealed, issuer_certificate=own.issuer_sealed)
        said = b"" if withdrawn else pack_checked(proven)
        self._sync.publish(now, DEPRECATION, deprecation_key(body.name, body.versions), said, DEPRECATION_LIFETIME_S)

    def capabilities(self, now: Now, capabilities: Sequence[Capability]) -> None:
        """See `Peer.publish_capabilities`."""
        cut, unfit = _pages(capabilities, _item_size)
        if len(cut) > _PAGES:
            raise WireError(f"{len(capabilities)} adverts are more than one node may tell the mesh")
        self._leave_out((capability.id, error) for capability, error in unfit)
        self._put_pages(now, kinds.CAPABILITIES, [pack(CapabilitiesBody(page)) for page in cut])

    def _leave_out(self, adverts: Iterable[tuple[str, WireError]]) -> None:
        for name, error in adverts:
            self._stats.adverts_left_out += 1
            self._out.put(Emit(AdvertLeftOut(name, str(error))))

    def _put_pages(self, now: Now, kind: str, bodies: list[bytes]) -> None:
        own = self._own.certificate.subject
        for number, body in enumerate(bodies):
            held = self._sync.record(own, kind, str(number))
            if held is None or held.body != body:
                self._sync.publish(now, kind, str(number), body, near=self._near)
        number = len(bodies)
        while (held := self._sync.record(own, kind, str(number))) is not None:
            if held.body:
                self._sync.withdraw(now, kind, str(number))
            number += 1


def _pages(
    items: Sequence[Any], size_of: Callable[[Any], int]
) -> tuple[list[tuple[Any, ...]], list[tuple[Any, WireError]]]:
    """Cuts adverts into pages that fit a record.

    Args:
        items: The adverts.
        size_of: Returns the bytes of one; raises a `WireError` for one that no reader would accept.

    Returns:
        The pages, and the adverts that no reader would accept, which are in none, each with why.
    """
    cut: list[list[Any]] = []
    unfit: list[tuple[Any, WireError]] = []
    size = _PAGE_BYTES
    for item in items:
        try:
            item_size = size_of(item)
        except WireError as error:
            unfit.append((item, error))
            continue
        if size + item_size > _PAGE_BYTES or len(cut[-1]) >= 512:
            cut.append([])
            size = 0
        cut[-1].append(item)
        size += item_size
    return [tuple(page) for page in cut], unfit


def _item_size(item: Any) -> int:
    size = len(pack_checked(item))
    if size > _ITEM_BYTES:
        raise WireError(f"an advert of {size} bytes is over the limit of {_ITEM_BYTES}: shorten its texts")
    return size


@lru_cache(4_096)
def _model_size(model: ModelRecord) -> int:
    """As `_item_size`; all models are told anew with each that comes or goes, and each costs 0.2 ms."""
    return _item_size(model)
