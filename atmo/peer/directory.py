"""What the records of the mesh say, decoded once: who is there, who holds which models, who can run what."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import Annotated, Any, TypeVar

from atmo.errors import WireError
from atmo.gossip import records as kinds
from atmo.gossip.catalog import CatalogBody
from atmo.gossip.records import DeprecationBody, ModelRecord, ModelsBody, NodeRecord, ProfileBody, Record
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


T = TypeVar("T", NodeRecord, ModelsBody, CatalogBody, CapabilitiesBody, ProfileBody, DeprecationBody)

_BODIES = 4_096  # remembered; frozen, so they may be shared
_PAGES = frozenset(str(number) for number in range(8))
"""Keys of records of models that are read: twice as many as a node writes before it tells a digest instead. So one
node has others arrange some 3,000 models at most whenever they look at the catalog."""

_ANSWERED = 4_096  # models of one node, of those with digests, that are remembered; source: guess
_ANSWERED_NODES = 64  # of so many nodes; source: guess


class Directory:
    """The decoded bodies of live records, kept in step by `changed`.

    Args:
        most_gone: How many members in `gone` are no surplus.
        own: This node: its models are not forgotten for those of others.

    Attributes:
        nodes: Members whose record is alive; the table of records bounds them.
        gone: Members nobody has heard of for a record's lifetime, as they were last; who has been gone longest first.
        issued_s: Unix seconds of the last record of each of both.
        catalogs: Digests of nodes that have more models than they tell one by one.
        profiles: What nodes have beside their hardware.
        deprecations: What is advised against, by author and key of the record.
        heard: When something last came over a link to a member of either that is down now, in monotonic seconds.
        offer_changes: How often it changed which nodes are alive, what they are called, or what they can run.
    """

    def __init__(self, most_gone: int = limits.AUTHORS, own: NodeId | None = None) -> None:
        self._most_gone = most_gone
        self._own = own
        self.nodes: dict[NodeId, NodeRecord] = {}
        self.gone: dict[NodeId, NodeRecord] = {}
        self.issued_s: dict[NodeId, int] = {}
        self.heard: dict[NodeId, float] = {}
        self.offer_changes = 0
        self.catalogs: dict[NodeId, CatalogBody] = {}
        self.profiles: dict[NodeId, ProfileBody] = {}
        self.deprecations: dict[tuple[NodeId, str], DeprecationBody] = {}
        self._answered: dict[NodeId, dict[bytes, ModelRecord]] = {}
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
                if body and change.key in _PAGES:
                    self._models[page] = open_body_untrusted(ModelsBody, body).models
            case kinds.CAPABILITIES:
                held = self._capabilities.pop(page, None)
                if body:
                    self._capabilities[page] = open_body_untrusted(CapabilitiesBody, body).capabilities
                self.offer_changes += held != self._capabilities.get(page)
            case kinds.CATALOG:
                self._changed_catalog(change.author, open_body_untrusted(CatalogBody, body) if body else None)
            case kinds.PROFILE:
                self.profiles.pop(change.author, None)
                if body:
                    self.profiles[change.author] = open_body_untrusted(ProfileBody, body)
            case kinds.DEPRECATION:
                self.deprecations.pop(page, None)
                if body:
                    self.deprecations[page] = open_body_untrusted(DeprecationBody, body)

    def _changed_catalog(self, node: NodeId, body: CatalogBody | None) -> None:
        """What a node answered holds for as long as its catalog is the same."""
        held = self.catalogs.pop(node, None)
        if body:
            self.catalogs[node] = body
        if held is None or body is None or held.hash != body.hash:
            self._answered.pop(node, None)

    def answered(self, node: NodeId, models: Iterable[ModelRecord], most: int = _ANSWERED) -> None:
        """Remembers what a node that tells a digest answered, the latest of it: until its catalog changes."""
        if node not in self.catalogs:
            return
        known = self._answered.pop(node, {})
        known.update((model.manifest, model) for model in models)
        while len(known) > most:
            del known[next(iter(known))]
        self._answered[node] = known
        if len(self._answered) > _ANSWERED_NODES:
            del self._answered[next(other for other in self._answered if other != self._own)]

    def _changed_node(self, change: RecordChanged) -> None:
        node = change.author
        held = self.nodes.get(node)
        if change.record:
            self.remember(node, change.record)
            self.nodes[node] = self.gone.pop(node)
            self.offer_changes += held is None or held.name != self.nodes[node].name
        else:
            self.gone[node] = self.nodes.pop(node)
            self.offer_changes += 1

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
        for node, answered in self._answered.items():
            for model in answered.values():
                yield node, model

    def models_of(self, node: NodeId) -> Iterator[ModelRecord]:
        """Yields the models of one node."""
        number = 0
        while (page := self._models.get((node, str(number)))) is not None:
            yield from page
            number += 1
        yield from self._answered.get(node, {}).values()

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
    if body := _BODY.get(record.kind):
        open_body_untrusted(body, record.body)
    elif record.kind == ABSENT:
        if record.key or record.near:
            raise WireError("a record of absences has a key or is not for everyone")
        open_body_untrusted(AbsentBody, record.body)


_BODY: dict[str, Any] = {
    kinds.MODELS: ModelsBody,
    kinds.CATALOG: CatalogBody,
    kinds.CAPABILITIES: CapabilitiesBody,
    kinds.PROFILE: ProfileBody,
}
"""Of kinds about which nothing but their form is to be checked."""
