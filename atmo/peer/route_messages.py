"""The messages and events of the search for routes; `atmo.peer.routes` is the engine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Final

from atmo.identity import NodeId
from atmo.wire.schema import Most

ROUTE_MOST: Final = 4
"""Links on a route, which are as many nodes after the one that asks. Source: the aim of this protocol, feature N13."""

QUERY_BYTES: Final = 8
"""Of the random name of a query."""


@dataclass(frozen=True, slots=True)
class RouteQuery:
    """Asks for a way to `target`.

    Attributes:
        query: Random, so that nobody answers or suppresses what it has not seen.
        target: The node that is looked for.
        ttl: How often the query may still be passed on.
        visited: The nodes that it came through: who asks first, the sender last.
    """

    query: Annotated[bytes, Most(QUERY_BYTES)]
    target: NodeId
    ttl: Annotated[int, Most(ROUTE_MOST)]
    visited: Annotated[tuple[NodeId, ...], Most(ROUTE_MOST)]


@dataclass(frozen=True, slots=True)
class RouteAnswer:
    """A way to the target of a query, on its way back to who asked.

    Attributes:
        query: Of the `RouteQuery`.
        route: The nodes after the one that asks, the target last.
    """

    query: Annotated[bytes, Most(QUERY_BYTES)]
    route: Annotated[tuple[NodeId, ...], Most(ROUTE_MOST)]


MESSAGES: Final[Mapping[str, type]] = {"route-query": RouteQuery, "route-answer": RouteAnswer}


@dataclass(frozen=True, slots=True)
class RouteFound:
    """There is a way; up to a few of these come for one search, the quickest first.

    Attributes:
        search: What `find` returned.
        route: The nodes after this one, the target last.
    """

    search: int
    route: tuple[NodeId, ...]


@dataclass(frozen=True, slots=True)
class RouteEnded:
    """A search is over, and there is no (further) way; comes last for each that was not cancelled."""

    search: int
