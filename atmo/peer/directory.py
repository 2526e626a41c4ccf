"""What the records of the mesh say, decoded once: who is there, who holds which models, who can run what."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from atmo.gossip import records as kinds
from atmo.gossip.records import ModelRecord, ModelsBody, NodeRecord, Record
from atmo.gossip.sync import RecordChanged
from atmo.identity import NodeId
from atmo.router.capability import Capability
from atmo.wire.address import Address
from atmo.wire.schema import Most, pack, unpack_untrusted

_PAGE_BYTES = 40 * 1024


@dataclass(frozen=True, slots=True)
class CapabilitiesBody:
    """The body of a `capabilities` record: one page of what a node offers."""

    capabilities: Annotated[tuple[Capability, ...], Most(512)]


@dataclass(frozen=True, slots=True)
class NodeView:
    """What is known of one member, for people.

    Attributes:
        path: `self`, `lan`, `direct`, `relay`, or empty without a link.
        rtt_s: Smoothed round trip, None without a link.
        last_seen_s: Seconds since it was heard, directly or by its record.
    """

    node: NodeId
    name: str
    roles: tuple[str, ...]
    path: str
    rtt_s: float | None
    last_seen_s: float
    version: str
    addresses: tuple[Address, ...]


class Directory:
    """The decoded bodies of live records, kept in step by `changed`."""

    def __init__(self) -> None:
        self.nodes: dict[NodeId, NodeRecord] = {}
        self._models: dict[tuple[NodeId, str], tuple[ModelRecord, ...]] = {}
        self._capabilities: dict[tuple[NodeId, str], tuple[Capability, ...]] = {}

    def changed(self, change: RecordChanged) -> None:
        """Takes over what a slot says now; its body was checked when the record was accepted."""
        page = (change.author, change.key)
        body = change.record.body if change.record else b""
        match change.kind:
            case kinds.NODE:
                self.nodes.pop(change.author, None)
                if body:
                    self.nodes[change.author] = unpack_untrusted(NodeRecord, body)
            case kinds.MODELS:
                self._models.pop(page, None)
                if body:
                    self._models[page] = unpack_untrusted(ModelsBody, body).models
            case kinds.CAPABILITIES:
                self._capabilities.pop(page, None)
                if body:
                    self._capabilities[page] = unpack_untrusted(CapabilitiesBody, body).capabilities

    def name(self, node: NodeId) -> str:
        """Returns what a node calls itself, else the start of its id."""
        record = self.nodes.get(node)
        return record.name if record else node.short

    def models(self) -> Iterator[tuple[NodeId, ModelRecord]]:
        """Yields every model of every node, alive or not."""
        for (node, _), page in self._models.items():
            for model in page:
                yield node, model

    def capabilities(self) -> Iterator[tuple[NodeId, Capability]]:
        """Yields every capability of every node, alive or not."""
        for (node, _), page in self._capabilities.items():
            for capability in page:
                yield node, capability


def check_body_untrusted(record: Record) -> None:
    """Checks that a record's body is what its kind promises; unknown kinds may say anything.

    Raises:
        WireError: It is not.
    """
    if record.kind == kinds.MODELS:
        unpack_untrusted(ModelsBody, record.body)
    elif record.kind == kinds.CAPABILITIES:
        unpack_untrusted(CapabilitiesBody, record.body)


def pages(items: Sequence[Any]) -> list[tuple[Any, ...]]:
    """Cuts adverts into pages that fit a record."""
    cut: list[list[Any]] = []
    size = _PAGE_BYTES
    for item in items:
        item_size = len(pack(item))
        if size + item_size > _PAGE_BYTES or len(cut[-1]) >= 512:
            cut.append([])
            size = 0
        cut[-1].append(item)
        size += item_size
    return [tuple(page) for page in cut]
