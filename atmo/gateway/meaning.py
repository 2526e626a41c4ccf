"""Keeps the semantic index: embeds what capabilities say they do, and what requests say."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import numpy as np
import trio
from numpy.typing import NDArray

from atmo.router.capability import Capability, key_of
from atmo.router.choice import Scores
from atmo.router.offers import Offers
from atmo.router.semantic import SemanticIndex

Embed = Callable[[Sequence[str]], Awaitable[NDArray[np.float32]]]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class MeaningConfig:
    """How much embedding is done when.

    Attributes:
        batch: Texts embedded at once; a request waits for at most one batch that is not its own.
        inline_s: How long one request may wait until new capability texts are embedded. Texts of remote nodes are
            bounded in number by the index, and here in time.
        query_s: How long one request may wait for its own vector.
    """

    batch: int = 16
    inline_s: float = 1.0
    query_s: float = 5.0


class Meaning:
    """How near a request is to what the capabilities do.

    Args:
        embed: Texts to float32[n, 384].
        index: Where the vectors are kept.
        config: Bounds.
    """

    def __init__(self, embed: Embed, index: SemanticIndex | None = None, config: MeaningConfig | None = None) -> None:
        self._embed = embed
        self._index = index or SemanticIndex()
        self._config = config or MeaningConfig()
        self._lock = trio.Lock()
        self._news = trio.Event()
        self.failures = 0

    def __len__(self) -> int:
        return len(self._index)

    async def run(self) -> None:
        """Embeds new capability texts in the background until cancelled."""
        while True:
            self._news = trio.Event()
            try:
                await self._catch_up()
            except Exception:
                self.failures += 1
                log.exception("cannot embed what capabilities do; routing goes on without them")
            await self._news.wait()

    def track(self, offers: Offers) -> None:
        """Takes what is on offer now."""
        self._index.track(offers)
        if self._index.missing_texts(1):
            self._news.set()

    def vector(self, capability: Capability) -> list[float] | None:
        """Returns the vector of the first text that tells what a capability does; None where it is not known yet."""
        vector = self._index.vector(key_of(capability)[0])
        return None if vector is None else [round(number, 6) for number in vector.tolist()]

    async def scores(self, text: str, offers: Offers) -> Scores | None:
        """Returns the similarity of `text` with what `offers` do; None where it cannot be computed now."""
        if not text:
            return None
        self._index.track(offers)
        try:
            with trio.move_on_after(self._config.inline_s):
                await self._catch_up()
            with trio.fail_after(self._config.query_s):
                vector = (await self._embed([text]))[0]
        except Exception:
            self.failures += 1
            log.exception("cannot embed a request; it is routed without its meaning")
            return None
        return self._index.scores(vector)

    async def _catch_up(self) -> None:
        while self._index.missing_texts(1):
            async with self._lock:
                texts = self._index.missing_texts(self._config.batch)
                if texts:
                    self._index.add(texts, await self._embed(texts))
