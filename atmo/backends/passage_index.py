"""Searches the passages of one folder by meaning and by words, and follows changes of its files."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import trio

from atmo.backends.embedder import DIMENSIONS, Embedder, Vectors
from atmo.backends.keywords import Keywords, count_terms
from atmo.backends.passages import Document, Passage, find_documents, read_passages
from atmo.backends.vector_cache import VectorCache

MAX_PASSAGES = 10_000
"""About 8 MB of text. All are compared with a question, which takes 2 ms: an approximate index would not pay."""

KEYWORD_WEIGHT = 0.35
"""What full agreement of words adds to the cosine. Source: tests/backends/test_rag_quality.py."""

RELEVANT = 0.34
"""Score from which a passage counts as an answer. Source: tests/backends/test_rag_quality.py."""

EMBED_AT_ONCE = 8
MAX_QUESTION_CHARS = 4_000

T = TypeVar("T")

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Hit:
    """A passage that was found.

    Attributes:
        passage: The passage.
        score: Cosine plus weighted agreement of words; relevant from `RELEVANT`, which a passage that has the words
            of the question reaches in any case.
    """

    passage: Passage
    score: float


@dataclass(slots=True)
class _File:
    document: Document
    passages: list[Passage]
    counts: list[Counter[str]]
    vectors: Vectors

    @classmethod
    def read(cls, name: str, document: Document, cache: VectorCache | None) -> _File:
        passages = read_passages(name, document)
        texts = [passage.full_text for passage in passages]
        vectors = cache.known(texts) if cache else np.zeros((0, DIMENSIONS), np.float32)
        return cls(document, passages, [count_terms(text) for text in texts], vectors)


@dataclass(frozen=True, slots=True)
class _Snapshot:
    """What searches read while files are read anew. `vectors` has a row of zeros for what is not embedded yet."""

    passages: list[Passage]
    vectors: Vectors
    keywords: Keywords


class PassageIndex:
    """The passages of one folder.

    Args:
        folder: May be missing; then it has no passages.
        embedder: Shared.
        cache: A file that keeps the vectors over a restart; without it they are made anew.
    """

    def __init__(self, folder: Path, embedder: Embedder, cache: Path | None = None) -> None:
        self._folder = folder
        self._cache = VectorCache(cache, embedder) if cache else None
        self._embedder = embedder
        self._files: dict[str, _File] = {}
        self._read: dict[str, _File] = {}
        self._stale = False
        self._snapshot = _Snapshot([], np.zeros((0, DIMENSIONS), np.float32), Keywords([]))
        self._lock = trio.Lock()
        self._told = ""

    @property
    def passages(self) -> list[Passage]:
        """All passages, in the order of files."""
        return self._snapshot.passages

    @property
    def pending(self) -> int:
        """Passages that are found by their words only, for they are not embedded yet."""
        return sum(len(file.passages) - len(file.vectors) for file in self._files.values())

    async def refresh(self, embed_s: float) -> None:
        """Reads what changed, then embeds for about `embed_s` seconds; the rest is left for the next time.

        Cancelling it loses no work: the next call goes on.
        """
        async with self._lock:
            await self._read_changes()
            if self._stale:
                await self._take_snapshot()
            deadline = trio.current_time() + embed_s
            before = self.pending
            try:
                for file in self._files.values():
                    while len(file.vectors) < len(file.passages) and trio.current_time() < deadline:
                        some = file.passages[len(file.vectors) : len(file.vectors) + EMBED_AT_ONCE]
                        vectors = await self._embedder.embed([passage.full_text for passage in some])
                        file.vectors = np.concatenate([file.vectors, vectors])
            finally:
                if self.pending < before:
                    self._snapshot = replace(self._snapshot, vectors=self._joined())
            if before and not self.pending and self._cache:
                texts = [passage.full_text for passage in self.passages]
                await trio.to_thread.run_sync(self._cache.save, texts, self._snapshot.vectors)

    async def search(self, question: str, most: int) -> list[Hit]:
        """Returns the best passages, best first, relevant or not."""
        snapshot = self._snapshot
        if not snapshot.passages:
            return []
        question = question[:MAX_QUESTION_CHARS]
        vector = (await self._embedder.embed([question]))[0]
        scores = snapshot.vectors @ vector + KEYWORD_WEIGHT * snapshot.keywords.scores(question)
        # In a long passage one sentence moves neither the vector nor the agreement of words much.
        scores = np.where(snapshot.keywords.literal(question), np.maximum(scores, RELEVANT), scores)
        best = np.argsort(-scores, kind="stable")[:most]
        return [Hit(snapshot.passages[place], float(scores[place])) for place in best]

    async def _read_changes(self) -> None:
        try:
            documents, left_out = await _in_thread(find_documents, self._folder)
            problem = f"{left_out} documents in {self._folder} are too large or too many" if left_out else ""
        except OSError as error:
            documents, problem = {}, f"cannot read the documents in {self._folder}: {error.strerror}"
        files: dict[str, _File] = {}
        count = 0
        for name, document in documents.items():
            file = self._read.get(name)
            if file is None or file.document != document:
                file = self._read[name] = await _in_thread(_File.read, name, document, self._cache)
            if count + len(file.passages) > MAX_PASSAGES:
                problem = f"the documents in {self._folder} have over {MAX_PASSAGES} passages; the rest is left out"
                break
            count += len(file.passages)
            files[name] = file
        if list(files) != list(self._files) or any(self._files[name] is not files[name] for name in files):
            self._stale = True
        self._files = files
        self._read = dict(files)
        self._tell(problem)

    async def _take_snapshot(self) -> None:
        files = list(self._files.values())
        keywords = await _in_thread(Keywords, [count for file in files for count in file.counts])
        passages = [passage for file in files for passage in file.passages]
        self._snapshot = _Snapshot(passages, self._joined(), keywords)
        self._stale = False

    def _joined(self) -> Vectors:
        rows = [np.zeros((0, DIMENSIONS), np.float32)]
        for file in self._files.values():
            missing = len(file.passages) - len(file.vectors)
            rows += [file.vectors, np.zeros((missing, DIMENSIONS), np.float32)]
        return np.concatenate(rows)

    def _tell(self, problem: str) -> None:
        if problem and problem != self._told:
            log.warning("%s", problem)
        self._told = problem


async def _in_thread(function: Callable[..., T], *arguments: Any) -> T:
    """Runs what only reads in a thread that may be left behind, for a disk may hang."""
    return await trio.to_thread.run_sync(function, *arguments, abandon_on_cancel=True)
