"""Prefetch: popular models come here while the node is idle, under a limit, before anybody asks for them.

What is popular is decided by a pure function from the catalog and from what was asked for here. One model is fetched at
a time; when the node is no longer idle the fetch stops and goes on later. Models that came so and that nobody used are
the first to make room for others.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence

import trio

from atmo.errors import RemoteError, UserError
from atmo.services.catalog import Version
from atmo.services.downloads import TRAVELLING
from atmo.services.models import ModelService
from atmo.services.transfer import Wanted
from atmo.services.transfers import INTERRUPTED
from atmo.services.vetting import Allowed
from atmo.storage.chunks import ModelStorage
from atmo.storage.transfers import StoredTransfer
from atmo.transfer.names import version_key

log = logging.getLogger(__name__)

LOOK_S = 60.0
"""How often it is looked whether something should come. Source: guess; it costs a look at the catalog."""

IDLE_S = 30.0
"""The node is idle when it has done nothing for so long. Source: guess."""

IDLE_LOOK_S = 1.0
"""How soon a fetch gives way once the node has something to do. Source: guess."""

HOLDERS_LEAST = 3
"""A model that fewer nodes hold, and that was never asked for here, is not popular. Source: guess."""

ASKED_WEIGHT = 4.0
"""One request here says as much as so many holders in the mesh. Source: guess."""

FADE_S = 7 * 86_400.0
"""What was asked for counts half as much after this time. Source: guess."""

AGAIN_S, REFUSED_S = 86_400.0, 30 * 86_400.0
"""What failed is tried again after the former time, what a person cancelled after the latter. Source: guess."""

ASKED_MOST = 1_000
"""Names that are remembered. Source: guess."""


def choose_prefetch(
    versions: Sequence[Version],
    asked: Mapping[str, float],
    interests: Collection[str],
    room_bytes: int,
    may_come: Callable[[Version], bool],
) -> Version | None:
    """Returns the most popular model that should come here, None where none should.

    Only the newest version of a name counts, only where none of the name's versions is here, and only formats that
    travel. One that has a capability of the owner's interests counts twice; where the owner has interests, one that has
    none of them only comes if it was asked for.

    Args:
        versions: Of the catalog; of each name the newest first.
        asked: How often each name was asked for here, as of now.
        interests: Capabilities.
        room_bytes: How large it may be.
        may_come: Whether it fits this node and its publisher is trusted.
    """
    here = {version.record.name for version in versions if version.local is not None}
    newest: dict[str, Version] = {}
    for version in versions:
        if version.record.name not in here and version.deprecation is None:
            newest.setdefault(version.record.name, version)
    rated = []
    for name, version in newest.items():
        record, wanted = version.record, asked.get(name, 0.0)
        liked = not interests or any(capability in interests for capability in record.capabilities)
        popular = len(version.holders) >= HOLDERS_LEAST and liked
        if record.format not in TRAVELLING or record.size_bytes > room_bytes or not (popular or wanted >= 0.5):
            continue
        rating = len(version.holders) + ASKED_WEIGHT * wanted
        rated.append((-rating * (2 if interests and liked else 1), record.size_bytes, name))
    for _, _, name in sorted(rated):
        if newest[name].holders and may_come(newest[name]):
            return newest[name]
    return None


class Asked:
    """How often models were asked for here; what is long ago fades.

    Args:
        clock: Seconds that only grow.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._counts: dict[str, tuple[float, float]] = {}

    def note(self, name: str) -> None:
        """A request named a model."""
        count = self._faded(name) + 1.0
        self._counts.pop(name, None)
        self._counts[name] = count, self._clock()
        if len(self._counts) > ASKED_MOST:
            del self._counts[next(iter(self._counts))]

    def counts(self) -> dict[str, float]:
        """Returns how often each name was asked for, as it counts now."""
        return {name: self._faded(name) for name in self._counts}

    def _faded(self, name: str) -> float:
        count, then = self._counts.get(name, (0.0, 0.0))
        return count * math.exp2((then - self._clock()) / FADE_S)


class Prefetch:
    """Fetches popular models while the node is idle.

    Args:
        models: Of this node.
        storage: Where they go; its limits say how much may come.
        busy: Says whether the node has anything to do, its transfers left out.
        wall: Unix seconds.

    Attributes:
        asked: To be told what is asked for.
    """

    def __init__(
        self,
        models: ModelService,
        storage: ModelStorage,
        busy: Callable[[], bool],
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.asked = Asked(trio.current_time)
        self._models = models
        self._storage = storage
        self._busy = busy
        self._wall = wall

    async def run(self) -> None:
        """Looks now and then, until cancelled; does nothing where nothing may come."""
        if not self._storage.limits.prefetch_bytes:
            return
        while True:
            await trio.sleep(LOOK_S)
            if await self._stays_idle(IDLE_S):
                try:
                    await self.look()
                except UserError as error:
                    log.warning("nothing is fetched in advance: %s", error)

    async def look(self) -> bool:
        """Fetches the most popular model that should come, for as long as the node is idle.

        Returns:
            Whether one came.
        """
        wanted = await self._choose()
        if wanted is None:
            return False
        came = False
        async with trio.open_nursery() as nursery:

            async def fetch() -> None:
                nonlocal came
                came = await self._fetch(wanted)
                nursery.cancel_scope.cancel()

            nursery.start_soon(fetch)
            while await self._stays_idle(IDLE_LOOK_S):
                pass
            nursery.cancel_scope.cancel()
        return came

    async def _fetch(self, wanted: Wanted) -> bool:
        try:
            await self._models.transfers.pull(wanted, purpose="prefetch")
        except (UserError, RemoteError) as error:
            log.info("%s is not fetched in advance: %s", wanted, error)
            return False
        log.info("%s was fetched in advance", wanted)
        return True

    async def _stays_idle(self, seconds: float) -> bool:
        until = trio.current_time() + seconds
        while not self._busy():
            if trio.current_time() >= until:
                return True
            await trio.sleep(min(IDLE_LOOK_S, seconds))
        await trio.lowlevel.checkpoint()
        return False

    async def _choose(self) -> Wanted | None:
        room = await self._room_bytes()
        if room <= 0 or self._models.transfers.pursued:
            return None
        history = await self._models.transfers.history()
        barred = {row.key for row in history if _is_barred(row, self._wall())}

        def may_come(version: Version) -> bool:
            return version.key[:2] not in barred and self._fits(version)

        interests = self._models.vetting.profile().interests
        version = choose_prefetch(self._models.versions(), self.asked.counts(), interests, room, may_come)
        if version is None:
            return None
        record = version.record
        return Wanted(record.name, record.version, record.manifest, record.size_bytes)

    async def _room_bytes(self) -> int:
        """What may still come: the limit, less what came so and is still here."""
        prefetched = await trio.to_thread.run_sync(self._storage.transfers.prefetched)
        models = self._models.local_models()
        held = [model for model in models if (model.name, version_key(model.version)) in prefetched]
        return self._storage.limits.prefetch_bytes - sum(model.manifest.size_bytes for model in held)

    def _fits(self, version: Version) -> bool:
        try:
            self._models.vetting.preferred([version], Allowed(), len(self._models.local_models()))
        except UserError:
            return False
        return True


def _is_barred(row: StoredTransfer, now: float) -> bool:
    """Says whether a former transfer keeps a version from being fetched again: it failed, or a person stopped it."""
    if row.state == "paused":
        return row.reason != INTERRUPTED
    age_s = now - row.changed_at
    return (row.state == "failed" and age_s < AGAIN_S) or (row.state == "cancelled" and age_s < REFUSED_S)
