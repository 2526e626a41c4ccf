"""Who may get which chunk: the lists of roles in the manifests of what is here, and what is private.

A chunk may be had by whoever may read some model here that contains it. Models that everybody may read cost nothing:
only what is restricted is remembered.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

import trio

from atmo.identity import NodeId
from atmo.storage.chunks import ModelStorage
from atmo.storage.registry import LocalModel
from atmo.transfer.manifest import Manifest

NOBODY: frozenset[str] = frozenset()

EXPECTED_MOST = 64
"""Downloads that began and are not on the disk yet. Source: guess; a few run at once."""


class Access:
    """Answers the holder's side of requests.

    Args:
        storage: Where the models and the downloads under way are.
        standing: Returns the roles of a member that have effect now.
    """

    def __init__(self, storage: ModelStorage, standing: Callable[[NodeId], Collection[str]]) -> None:
        self._storage = storage
        self._standing = standing
        self._rules: Mapping[bytes, frozenset[str]] = {}
        self._expected: dict[bytes, Manifest] = {}
        self._lock = threading.Lock()
        self._others: Sequence[LocalModel] = ()
        self.refresh()

    def may_read(self, node: NodeId, name: bytes) -> bool:
        """Says whether a member may get a chunk or a sealed manifest.

        Args:
            node: Who asks.
            name: BLAKE3 of what it asks for, whether or not it is here.
        """
        readers = self._rules.get(name)
        return readers is None or not readers.isdisjoint(self._standing(node))

    def is_open(self, name: bytes) -> bool:
        """Says whether every member may get it; in any thread."""
        return name not in self._rules

    def refresh(self, others: Sequence[LocalModel] | None = None) -> None:
        """Takes over what is here now; blocks on the disk.

        What is here is read within, one refresh after the other: rules that were made of what was read before would
        open what has come since.

        Args:
            others: Models that are here and not in the store; None for the same as before.
        """
        with self._lock:
            self._others = self._others if others is None else others
            self._rules = _rules(self._held([*self._storage.models(), *self._others]))

    def _held(self, models: Sequence[LocalModel]) -> list[tuple[bytes, Manifest, bool]]:
        decisions = self._storage.decisions
        held: list[tuple[bytes, Manifest, bool]] = [
            (model.manifest_id, model.manifest, decisions.is_private(model.manifest_id, model.added_at))
            for model in models
        ]
        partials = {identity: manifest for identity, (_, manifest) in self._storage.partials().items()}
        known = {identity for identity, *_ in held} | set(partials)
        expected = [(name, manifest) for name, manifest in self._expected.items() if name not in known]
        self._expected = dict(expected[-EXPECTED_MOST:])
        return held + [(identity, manifest, False) for identity, manifest in (partials | self._expected).items()]

    async def expect(self, identity: bytes, manifest: Manifest) -> None:
        """A download of this manifest begins: its chunks are to be kept from whom it may not be given to."""

        def note() -> None:
            with self._lock:
                self._expected[identity] = manifest
            self.refresh()

        if manifest.access.read:
            await trio.to_thread.run_sync(note)


def _rules(held: Iterable[tuple[bytes, Manifest, bool]]) -> dict[bytes, frozenset[str]]:
    """Returns which roles may read what; what everybody may read is not in it."""
    rules: dict[bytes, frozenset[str]] = {}
    open_to_all: list[tuple[bytes, Manifest]] = []
    for identity, manifest, private in held:
        if not private and not manifest.access.read:
            open_to_all.append((identity, manifest))
            continue
        readers = NOBODY if private else frozenset(manifest.access.read)
        for name in _names(identity, manifest):
            known = rules.get(name)
            rules[name] = readers if known is None or known == readers else known | readers
    if rules:
        for identity, manifest in open_to_all:
            for name in _names(identity, manifest):
                rules.pop(name, None)
    return rules


def _names(identity: bytes, manifest: Manifest) -> Iterable[bytes]:
    yield identity
    for file in manifest.files:
        yield from file.chunks
