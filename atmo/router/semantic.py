"""What capabilities do, as vectors: how near a request is to each of them.

The index never computes a vector itself. It names the texts it lacks, somebody embeds them, and it answers with the
similarity of a request to the nearest text of every capability. Below a thousand texts a matrix product is faster than
a graph (138 against 156 microseconds), above them hnswlib searches, with one thread and a fixed seed so that the same
texts always give the same answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atmo.identity import NodeId
from atmo.router.capability import CapabilityKey, key_of
from atmo.router.offers import Offers

Vectors = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class SemanticConfig:
    """Bounds of the index.

    Attributes:
        dimensions: Numbers in one vector; all-MiniLM-L6-v2 has 384.
        max_texts: Texts over all nodes; more are left out, this machine's come first.
        max_texts_per_node: Texts of one node, so that no node fills the index alone.
        graph_from: Number of texts from which hnswlib searches. Source: measured, see the module's text.
        neighbours: Texts that the graph returns for one request. Source: guess.
        links: hnswlib's M. ef_construction: its build effort. Source: hnswlib's defaults.
        seed: Of the graph's levels.
    """

    dimensions: int = 384
    max_texts: int = 20_000
    max_texts_per_node: int = 1_024
    graph_from: int = 1_000
    neighbours: int = 64
    links: int = 16
    ef_construction: int = 200
    seed: int = 100


class SemanticIndex:
    """Vectors of capability texts, bounded; told what is on offer, it forgets what is not."""

    def __init__(self, config: SemanticConfig | None = None) -> None:
        self._config = config or SemanticConfig()
        self._offers: Offers | None = None
        self._keys: dict[CapabilityKey, None] = {}
        self._wanted: dict[str, None] = {}
        self._rows: dict[str, int] = {}
        self._matrix: Vectors = np.zeros((0, self._config.dimensions), np.float32)
        self._graph: Any = None
        self._layout: tuple[list[CapabilityKey], NDArray[np.intp], NDArray[np.intp]] | None = None
        self._owners: dict[int, list[CapabilityKey]] = {}

    def __len__(self) -> int:
        return len(self._rows)

    def track(self, offers: Offers) -> None:
        """Takes what is on offer now; texts of anything else are forgotten in time."""
        if offers is self._offers:
            return
        self._offers = offers
        used: dict[NodeId, int] = {}
        keys: dict[CapabilityKey, None] = {}
        for offer in sorted(offers.lasting, key=lambda one: not one.local):
            key = key_of(offer.capability)
            texts = used.get(offer.node, 0) + len(key)
            if key not in keys and texts <= self._config.max_texts_per_node:
                used[offer.node] = texts
                keys[key] = None
        if keys == self._keys:
            return
        self._keys = {}
        self._wanted = {}
        for key in keys:
            if len(self._wanted) + len(key) <= self._config.max_texts:
                self._keys[key] = None
                self._wanted.update(dict.fromkeys(key))
        self._layout = None
        self._forget()

    def missing_texts(self, most: int = 1_000) -> list[str]:
        """Returns at most `most` texts whose vectors are not known yet, in the order of the offers."""
        missing: list[str] = []
        for text in self._wanted:
            if len(missing) >= most:
                break
            if text not in self._rows:
                missing.append(text)
        return missing

    def add(self, texts: Sequence[str], vectors: Vectors) -> None:
        """Takes the vectors of texts that were missing; those no longer wanted are ignored.

        Args:
            texts: n texts.
            vectors: float32[n, dimensions], of any length but finite.

        Raises:
            ValueError: The shape is wrong or a number is not finite.
        """
        if vectors.shape != (len(texts), self._config.dimensions) or not np.isfinite(vectors).all():
            raise ValueError(f"want {len(texts)} finite vectors of {self._config.dimensions}, got {vectors.shape}")
        fresh = {text: at for at, text in enumerate(texts) if text in self._wanted and text not in self._rows}
        if not fresh:
            return
        start = len(self._rows)
        self._rows.update({text: start + place for place, text in enumerate(fresh)})
        rows = _unit(np.asarray(vectors[list(fresh.values())], np.float32))
        self._matrix = np.concatenate([self._matrix, rows])
        self._layout = None
        if self._graph is not None:
            self._graph.resize_index(len(self._rows))
            self._graph.add_items(rows, np.arange(start, len(self._rows)), num_threads=1)

    def vector(self, text: str) -> Vectors | None:
        """Returns float32[dimensions] of length 1 for a text that was added, None for one that was not."""
        row = self._rows.get(text)
        return None if row is None else self._matrix[row]

    def scores(self, query: Vectors) -> dict[CapabilityKey, float]:
        """Returns the cosine of `query` with the nearest text of each capability.

        Args:
            query: float32[dimensions].

        Returns:
            Capabilities that have vectors; with more than `graph_from` texts, those near to the query only.
        """
        unit = _unit(np.asarray(query, np.float32).reshape(1, -1))[0]
        if not self._arranged()[0]:
            return {}
        return self._compare_all(unit) if len(self._rows) < self._config.graph_from else self._search(unit)

    def _compare_all(self, unit: Vectors) -> dict[CapabilityKey, float]:
        keys, order, starts = self._arranged()
        best = np.maximum.reduceat((self._matrix @ unit)[order], starts)
        return dict(zip(keys, map(float, best), strict=True))

    def _search(self, unit: Vectors) -> dict[CapabilityKey, float]:
        if self._graph is None:
            self._graph = self._build()
        count = min(self._config.neighbours, len(self._rows))
        try:
            rows, distances = self._graph.knn_query(unit, k=count, num_threads=1)
        except RuntimeError:  # equal vectors cut the graph apart, it finds fewer than `count`
            return self._compare_all(unit)
        found: dict[CapabilityKey, float] = {}
        for row, distance in zip(rows[0], distances[0], strict=True):
            for key in self._owners.get(int(row), ()):
                found[key] = max(found.get(key, -1.0), 1.0 - float(distance))
        return found

    def _build(self) -> Any:
        import hnswlib  # where nobody has so many texts it takes no memory

        graph = hnswlib.Index(space="ip", dim=self._config.dimensions)
        graph.init_index(
            max_elements=len(self._rows),
            M=self._config.links,
            ef_construction=self._config.ef_construction,
            random_seed=self._config.seed,
        )
        graph.set_ef(2 * self._config.neighbours)
        graph.add_items(self._matrix, np.arange(len(self._rows)), num_threads=1)
        return graph

    def _arranged(self) -> tuple[list[CapabilityKey], NDArray[np.intp], NDArray[np.intp]]:
        """Returns the capabilities that have vectors, their rows in one array, and where each one's rows begin."""
        if self._layout is None:
            keys: list[CapabilityKey] = []
            order: list[int] = []
            starts: list[int] = []
            self._owners = {}
            for key in self._keys:
                rows = [self._rows[text] for text in key if text in self._rows]
                if rows:
                    keys.append(key)
                    starts.append(len(order))
                    order.extend(rows)
                    for row in rows:
                        self._owners.setdefault(row, []).append(key)
            self._layout = (keys, np.array(order, np.intp), np.array(starts, np.intp))
        return self._layout

    def _forget(self) -> None:
        """Drops the vectors of unwanted texts once they outnumber the others."""
        kept = [text for text in self._rows if text in self._wanted]
        if len(self._rows) - len(kept) <= max(len(kept), 256):
            return
        self._matrix = self._matrix[[self._rows[text] for text in kept]]
        self._rows = {text: row for row, text in enumerate(kept)}
        self._graph = None


def _unit(vectors: Vectors) -> Vectors:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(lengths, 1e-12), np.float32)
