"""Which version of a model counts here: going back to the one before, and going on to new ones."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import trio
from packaging.version import Version as Number

from atmo.errors import RemoteError, UserError
from atmo.gossip.records import CATALOG, DEPRECATION, MODELS
from atmo.gossip.sync import RecordChanged
from atmo.services.catalog import Version, parse
from atmo.services.models import ModelService
from atmo.services.progress import Report
from atmo.storage.decisions import Decisions
from atmo.storage.registry import LocalModel
from atmo.transfer.names import Spec, newest_first, version_key

log = logging.getLogger(__name__)

GATHER_S = 2.0
"""News of models is looked at so long after the first of it: more comes with it. Source: guess."""

AGAIN_FIRST_S, AGAIN_MOST_S = 60.0, 6 * 3_600.0
"""Between two tries to bring a model up to date that failed, doubling. Source: guess."""


class Versions:
    """Rolls back, updates, and keeps up to date.

    Args:
        models: What is here and in the mesh.
        decisions: Where choices are kept.
        auto: Of the settings: ranges of versions that are kept up to date, by the model's name.
        wall: Unix seconds.
    """

    def __init__(
        self,
        models: ModelService,
        decisions: Decisions,
        auto: Mapping[str, str] | None = None,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._models = models
        self._decisions = decisions
        self._auto = dict(auto or {})
        self._wall = wall
        self._news = trio.Event()
        self._failed: dict[str, tuple[int, float]] = {}

    # --- reading --------------------------------------------------------------------------------------------------

    def rows(self) -> list[dict[str, Any]]:
        """Lists the models that were rolled back or are kept up to date: `name`, `active`, `newest`, `auto`."""
        names = sorted({*self._decisions.active, *self._kept()})
        return [self.about(name) for name in names]

    def about(self, name: str) -> dict[str, Any]:
        """Tells which version of a model counts here, which one is the newest here, and what is kept up to date.

        `auto` is a range of versions, `latest` for all, None where the model is not kept up to date.
        """
        here = self._here(name)
        newest = next(iter(newest_first(here)), None)
        wanted = self._kept().get(name)
        return {
            "name": name,
            "active": self._models.active(name) or newest,
            "newest": newest,
            "rolled_back": self._models.active(name) is not None,
            "auto": None if wanted is None else wanted or "latest",
        }

    def _kept(self) -> dict[str, str]:
        """What is kept up to date; a person's word beats the settings."""
        kept = self._auto | self._decisions.auto
        return {name: wanted for name, wanted in kept.items() if wanted != OFF}

    def _here(self, name: str) -> dict[str, LocalModel]:
        return {model.version: model for model in self._models.local_models() if model.name == name}

    # --- commands -------------------------------------------------------------------------------------------------

    async def rollback(self, spec: str, progress: Report | None = None) -> dict[str, Any]:
        """Goes back to an older version, which counts as the newest here until `update`.

        Args:
            spec: A name, for the version before the one that counts now; or `NAME@RANGE`, for the newest in it. What is
                not here is pulled.
            progress: Told how far a pull is.

        Raises:
            UserError: There is no older version, or it cannot be had.
        """
        wanted = parse(spec)
        here = self._here(wanted.name)
        if not here:
            raise UserError(f"{wanted.name} is not on this machine.", "See `atmo model list`.")
        current = self._models.active(wanted.name) or newest_first(here)[0]
        target = self._older(wanted, here, current)
        if target not in here:
            await self._models.pull(f"{wanted.name}@=={target}", progress)
        newest = newest_first(self._here(wanted.name))[0]
        choice = None if version_key(target) == version_key(newest) else target
        await trio.to_thread.run_sync(self._decisions.set_active, wanted.name, choice)
        await self._models.refresh()
        return {**self.about(wanted.name), "before": current}

    def _older(self, wanted: Spec, here: Mapping[str, LocalModel], current: str) -> str:
        """Returns the version to go back to: one that is here, else one of the mesh."""
        in_mesh = [version.record.version for version in self._models.versions(wanted.name)]
        for known in (here, in_mesh):
            fitting = wanted.matching(known) if wanted.text not in ("", "latest") else newest_first(known)
            if wanted.text in ("", "latest"):
                fitting = [version for version in fitting if Number(version) < Number(current)]
            if fitting:
                return fitting[0]
        hint = f"See `atmo model info {wanted.name} --versions`."
        if wanted.text in ("", "latest"):
            raise UserError(f"There is no version of {wanted.name} before {current}.", hint)
        raise UserError(f"No version of {wanted.name} is in the range {wanted.text}.", hint)

    async def update(
        self, name: str, progress: Report | None = None, *, trust: bool | str = False, force: bool = False
    ) -> dict[str, Any]:
        """Goes on to the newest version, in the range that is kept up to date if there is one; undoes a roll-back.

        Args:
            name: Of a model that is here.
            progress, trust, force: As in `ModelService.pull`.

        Raises:
            UserError: It is not here, or the newest one cannot be had; the roll-back is undone all the same.
        """
        wanted = parse(name)
        here = self._here(wanted.name)
        if not here:
            raise UserError(f"{wanted.name} is not on this machine.", f"Pull it: atmo model pull {wanted.name}.")
        before = self._models.active(wanted.name) or newest_first(here)[0]
        await trio.to_thread.run_sync(self._decisions.set_active, wanted.name, None)
        await self._models.refresh()
        limits = wanted.text or self._kept().get(wanted.name, "")
        spec = f"{wanted.name}@{limits}" if limits else wanted.name
        row = await self._models.pull(spec, progress, trust=trust, force=force)
        return {**self.about(wanted.name), "before": before, "row": row.to_json()}

    async def keep(self, spec: str, *, on: bool) -> dict[str, Any]:
        """Has a model kept up to date from now on, within the range of `NAME[@RANGE]`, or no more.

        Raises:
            UserError: The name or the range is none.
        """
        wanted = parse(spec)
        text = "" if wanted.text == "latest" else wanted.text
        value = text if on else OFF if wanted.name in self._auto else None
        await trio.to_thread.run_sync(self._decisions.set_auto, wanted.name, value)
        self._failed.pop(wanted.name, None)
        self._news.set()
        return self.about(wanted.name)

    # --- in the background ----------------------------------------------------------------------------------------

    def on_event(self, event: Any) -> None:
        """Takes every event that the peer emits."""
        if isinstance(event, RecordChanged) and event.kind in (MODELS, CATALOG, DEPRECATION):
            self._news.set()

    async def run(self) -> None:
        """Notes what appears in the mesh, and pulls new versions of what is kept up to date, until cancelled."""
        while True:
            with trio.move_on_at(self._next_try()):
                await self._news.wait()
            await trio.sleep(GATHER_S)
            self._news = trio.Event()
            try:
                await self.look()
            except UserError as error:
                log.warning("new models are not noted: %s", error)

    async def look(self) -> None:
        """Looks once; `run` does so when there is news.

        Raises:
            UserError: The database fails.
        """
        everything = self._models.versions()
        manifests = [version.record.manifest for version in everything]
        await trio.to_thread.run_sync(self._decisions.note_seen, manifests, self._wall())
        due = {name: self._due(name, wanted, everything) for name, wanted in self._kept().items()}
        self._failed = {name: failed for name, failed in self._failed.items() if due.get(name)}
        for name, target in due.items():
            if target is not None and trio.current_time() >= self._failed.get(name, _NEVER)[1]:
                await self._bring(name, target)

    async def _bring(self, name: str, target: Version) -> None:
        failures, _ = self._failed.pop(name, _NEVER)
        try:
            await self._models.pull(f"{name}@=={target.record.version}", purpose="update")
        except (UserError, RemoteError) as error:
            log.warning("%s is not brought up to date: %s", name, error)
            pause_s = min(AGAIN_FIRST_S * 2**failures, AGAIN_MOST_S)
            self._failed[name] = (failures + 1, trio.current_time() + pause_s)
        else:
            log.info("%s was brought up to date: %s", name, target.record.version)

    def _next_try(self) -> float:
        return min((at for _, at in self._failed.values()), default=math.inf)

    def _due(self, name: str, wanted: str, everything: Sequence[Version]) -> Version | None:
        """Returns the version to which a model goes on: a newer one by the same publisher that nobody advises against.

        A model that was rolled back stays where it is.
        """
        spec = parse(f"{name}@{wanted}" if wanted else name)
        here = self._here(name)
        current = spec.best(here)
        if current is None or self._models.active(name) is not None:
            return None
        publisher = here[current].publisher
        newer = {
            version.record.version: version
            for version in everything
            if version.record.name == name
            and version.publisher == publisher
            and version.deprecation is None
            and version.local is None
            and Number(version.record.version) > Number(current)
        }
        best = spec.best(newer)
        return newer[best] if best is not None else None


_NEVER = (0, -math.inf)

OFF = "off"
"""In the table, where a person ended what the settings ask for; no range is written so."""
