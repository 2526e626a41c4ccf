"""The bridge as a service: looks now and then, reads what is new in the background, tells who wants to know."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any

import trio

from atmo.errors import UserError
from atmo.services.models import ModelService
from atmo.storage.bridge import Bridge, BridgedModel
from atmo.storage.bridge_read import VerifiedFile
from atmo.storage.registry import LocalModel
from atmo.transfer.manifest import ModelFile
from atmo.transfer.names import newest_first

log = logging.getLogger(__name__)

TELL_S = 10.0
"""While many files are read one after the other, the mesh is told no more often than that. Source: guess."""

PAUSE_S = 1.0
"""Between two looks that files under change ask for. Source: guess."""

STORE = "store"
"""The source of models that are this node's own."""


class BridgeService:
    """Runs the bridge, and knows every model of this machine that can be downloaded over HTTP.

    Args:
        models: Lists the store's models, and tells the mesh.
        bridge: What is offered of other programs; None where nothing is.
        interval_s: Between two looks, after each of which the mesh is told again.
        wall: Returns Unix seconds.
    """

    def __init__(
        self,
        models: ModelService,
        bridge: Bridge | None,
        interval_s: float,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._models = models
        if bridge is not None:
            models.offer(bridge)
        self._bridge = bridge
        self._interval_s = interval_s
        self._wall = wall
        self._look = trio.Event()
        self._read = trio.Event()
        self._looked = trio.Event()
        self._begun = self._done = 0

    # --- in the background ----------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Looks and reads until cancelled."""
        bridge = self._bridge
        if bridge is None:
            return
        token = trio.lowlevel.current_trio_token()

        def wake() -> None:
            with suppress(trio.RunFinishedError):
                token.run_sync_soon(self._look.set)

        bridge.on_stale = wake
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._look_for_ever, bridge)
            nursery.start_soon(self._read_for_ever, bridge)

    async def rescan(self) -> None:
        """Looks now; returns when that is done, though what was found may still have to be read."""
        if self._bridge is not None:
            wanted = self._begun + 1  # one that is under way may have missed what the caller knows of
            self._look.set()
            while self._done < wanted:
                await self._looked.wait()

    async def _look_for_ever(self, bridge: Bridge) -> None:
        while True:
            self._look = trio.Event()
            self._begun += 1
            try:
                await trio.to_thread.run_sync(bridge.scan, self._wall())
            except UserError as error:
                log.error("models of other programs could not be looked for: %s", error)
            if bridge.cut:
                log.warning("%s", bridge.cut)
            await self._tell()
            self._done = self._begun
            self._looked.set()
            self._looked = trio.Event()
            self._read.set()
            with trio.move_on_after(self._interval_s):
                await self._look.wait()
                await trio.sleep(PAUSE_S)

    async def _read_for_ever(self, bridge: Bridge) -> None:
        told, changed = -TELL_S, False
        while True:
            await self._read.wait()
            self._read = trio.Event()
            while (learnt := await self._read_one(bridge)) is not None:
                changed = changed or learnt
                if changed and trio.current_time() - told >= TELL_S:
                    told, changed = trio.current_time(), False
                    await self._tell()
            if changed:
                told, changed = trio.current_time(), False
                await self._tell()

    async def _tell(self) -> None:
        try:
            await self._models.refresh()
        except UserError as error:
            log.error("the mesh does not learn of models of other programs: %s", error)

    async def _read_one(self, bridge: Bridge) -> bool | None:
        def check(done: int) -> None:
            trio.from_thread.check_cancelled()

        try:
            return await trio.to_thread.run_sync(bridge.work, check)
        except UserError as error:
            log.error("a model of another program could not be read: %s", error)
            return None

    # --- what there is --------------------------------------------------------------------------------------------

    def view(self) -> dict[str, Any]:
        """Tells what is offered and what is not, for the person at this machine."""
        bridge = self._bridge
        if bridge is None:
            return {"enabled": False, "offered": 0, "waiting": 0, "not_offered": [], "note": ""}
        left_out = [
            {"source": one.source, "source_ref": one.reference, "path": str(one.path), "reason": one.reason}
            for one in bridge.left_out()
        ]
        return {
            "enabled": True,
            "offered": len(bridge.models()),
            "waiting": bridge.waiting,
            "not_offered": left_out,
            "note": bridge.cut,
        }

    def summary(self) -> dict[str, Any]:
        """Tells the same in numbers."""
        view = self.view()
        return {**view, "not_offered": len(view["not_offered"])}

    def entries(self, public: bool = False) -> Iterator[LocalModel]:
        """Yields the models that can be downloaded: the store's, then those of other programs.

        Args:
            public: Everyone may ask, so only models that everyone may read.
        """
        own = self._models.local_models()
        taken = {(model.name, model.version) for model in own}
        offers = self._bridge.models() if self._bridge is not None else ()
        for model in (*own, *(model for model in offers if (model.name, model.version) not in taken)):
            if not public or self._models.is_public(model):
                yield model

    def newest(self, public: bool = False) -> dict[str, LocalModel]:
        """Returns the newest version of each model that can be downloaded, by name."""
        found: dict[str, dict[str, LocalModel]] = {}
        for model in self.entries(public):
            found.setdefault(model.name, {})[model.version] = model
        return {name: same[newest_first(same)[0]] for name, same in found.items()}

    def find(self, name: str, public: bool = False) -> LocalModel | None:
        """Returns the model called `NAME` or `NAME@VERSION`, the newest version of those that there are."""
        base, at, version = name.partition("@")
        same = {model.version: model for model in self.entries(public) if model.name == base}
        if at:
            return same.get(version)
        return same[newest_first(same)[0]] if same else None

    def open(self, model: LocalModel, file: ModelFile) -> VerifiedFile:
        """Opens one file of a model; blocks.

        Raises:
            Changed: It is not there any more, or is another one.
            OSError: It cannot be read.
        """
        number = model.manifest.files.index(file)
        places = [place for place in model.manifest.chunk_places() if place.file == number]
        if isinstance(model, BridgedModel):
            return VerifiedFile(model.path, places, model.key)
        above = len(PurePosixPath(model.manifest.file).parts)
        single = len(model.manifest.files) == 1
        path = model.path if single else model.path.parents[above - 1] / file.path
        return VerifiedFile(Path(path), places)

    def failed(self, model: LocalModel) -> None:
        """A file has other bytes than its manifest says: its offer ends; blocks."""
        if self._bridge is not None and isinstance(model, BridgedModel):
            self._bridge.distrust(model.path)


def source_of(model: LocalModel) -> tuple[str, str]:
    """Returns where a model is from: a source, and what it is called there."""
    if isinstance(model, BridgedModel):
        return model.source, model.reference
    return STORE, model.source_node
