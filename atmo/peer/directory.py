"""What the records of the mesh say, decoded once: who is there, who holds which models, who can run what."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import Annotated, TypeVar

from atmo.errors import WireError
from atmo.gossip import records as kinds
from atmo.gossip.records import ModelRecord, ModelsBody, NodeRecord, Record
from atmo.gossip.sync import RecordChanged
from atmo.identity import NodeId
from atmo.peer.presence import ABSENT, AbsentBody
from atmo.router.capability import Capability
from atmo.wire import limits
from atmo.wire.schema import Most, unpack_untrusted


@dataclass(frozen=True, slots=True)
class CapabilitiesBody:
    """The body of a `capabilities` record: one page of what a node offers."""

    capabilities: Annotated[tuple[Capability, ...], Most(512)]


T = TypeVar("T", NodeRecord, ModelsBody, CapabilitiesBody)

_BODIES = 4_096  # remembered; frozen, so they may be shared


class Directory:
    """The decoded bodies of live records, kept in step by `changed`.

    Args:
        most_gone: How many members in `gone` are no surplus.

    Attributes:
        nodes: Members whose record is alive; the table of records bounds them.
        gone: Members nobody has heard of for a record's lifetime, as they were last; who has been gone longest first.
        issued_s: Unix seconds of the last record of each of both.
        heard: When something last came over a link to a member of either that is down now, in monotonic seconds.
    """

    def __init__(self, most_gone: int = limits.AUTHORS) -> None:
        self._most_gone = most_gone
        self.nodes: dict[NodeId, NodeRecord] = {}
        self.gone: dict[NodeId, NodeRecord] = {}
        self.issued_s: dict[NodeId, int] = {}
        self.heard: dict[NodeId, float] = {}
        self._models: dict[tuple[NodeId, str], tuple[ModelRecord, ...]] = {}
        self._capabilities: dict[tuple[NodeId, str], tuple[Capability, ...]] = {}

    def changed(self, change: RecordChanged) -> None:
        """Takes over what a slot says now; its body was checked when the record was accepted."""
        page = (change.author, change.key)
        body = change.record.body if change.record else b""
        match change.kind:
            case kinds.NODE:
                self._changed_node(change)
            case kinds.MODELS:
                self._models.pop(page, None)
                if body:
                    self._models[page] = open_body_untrusted(ModelsBody, body).models
            case kinds.CAPABILITIES:
                self._capabilities.pop(page, None)
                if body:
                    self._capabilities[page] = open_body_untrusted(CapabilitiesBody, body).capabilities

    def _changed_node(self, change: RecordChanged) -> None:
        node = change.author
        if change.record:
            self.remember(node, change.record)
            self.nodes[node] = self.gone.pop(node)
        else:
            self.gone[node] = self.nodes.pop(node)

    def remember(self, node: NodeId, record: Record) -> None:
        """Takes over a node record that has expired: who is gone may come back."""
        self.gone[node] = open_body_untrusted(NodeRecord, record.body)
        self.issued_s[node] = record.issued_s

    def surplus(self) -> list[NodeId]:
        """Returns who has been gone longest, as many as there are too many of; the caller forgets them."""
        return list(islice(self.gone, max(0, len(self.gone) - self._most_gone)))

    def forget(self, node: NodeId) -> None:
        """Forgets a member that is gone."""
        del self.gone[node], self.issued_s[node]
        self.heard.pop(node, None)

    def name(self, node: NodeId) -> str:
        """Returns what a node calls itself, else the start of its id."""
        record = self.nodes.get(node) or self.gone.get(node)
        return record.name if record else node.short

    def models(self) -> Iterator[tuple[NodeId, ModelRecord]]:
        """Yields every model of every node, alive or not."""
        for (node, _), page in self._models.items():
            for model in page:
                yield node, model

    def models_of(self, node: NodeId) -> Iterator[ModelRecord]:
        """Yields the models of one node."""
        number = 0
        while (page := self._models.get((node, str(number)))) is not None:
            yield from page
            number += 1

    def capabilities_of(self, node: NodeId) -> Iterator[Capability]:
        """Yields the capabilities of one node."""
        number = 0
        while (page := self._capabilities.get((node, str(number)))) is not None:
            yield from page
            number += 1

    def capabilities(self) -> Iterator[tuple[NodeId, Capability]]:
        """Yields every capability of every node, alive or not."""
        for (node, _), page in self._capabilities.items():
            for capability in page:
                yield node, capability


@lru_cache(maxsize=_BODIES)
def open_body_untrusted(kind: type[T], body: bytes) -> T:
    """Reads the body of a record; the same one is read when it is judged and when it is used, and seldom changes.

    Raises:
        WireError: It is not what its kind promises.
    """
    return unpack_untrusted(kind, body)


def check_body_untrusted(record: Record) -> None:
    """Checks that a record's body is what its kind promises; unknown kinds may say anything.

    Raises:
        WireError: It is not.
    """
    if record.kind == kinds.MODELS:
        open_body_untrusted(ModelsBody, record.body)
    elif record.kind == kinds.CAPABILITIES:
        open_body_untrusted(CapabilitiesBody, record.body)
    elif record.kind == ABSENT:
        if record.key or record.near:
            raise WireError("a record of absences has a key or is not for everyone")
        open_body_untrusted(AbsentBody, record.body)
