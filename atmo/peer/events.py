"""What a peer tells its observers."""

from __future__ import annotations

from dataclasses import dataclass

from atmo.identity import NodeId


@dataclass(frozen=True, slots=True)
class LinkReady:
    """A neighbour proved its membership."""

    node: NodeId


@dataclass(frozen=True, slots=True)
class LinkLost:
    """A verified neighbour is gone."""

    node: NodeId
    reason: str


@dataclass(frozen=True, slots=True)
class AdvertLeftOut:
    """The mesh does not learn of a model or capability of this node, for no node would accept what it says."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class Revoked:
    """A node was put out of the mesh."""

    node: NodeId


@dataclass(frozen=True, slots=True)
class Unreachable:
    """A link to this node was wanted, and nobody answers as this node at any of its addresses."""

    node: NodeId
