"""Keeps the registry's word on which models are loaded in step with what the backends of the store hold."""

from __future__ import annotations

import logging

import trio

from atmo.backends.gguf_runners import Runners
from atmo.backends.onnx_session import SessionCache
from atmo.errors import UserError
from atmo.services.models import ModelService

log = logging.getLogger(__name__)

AGAIN_S = 30.0
"""After a try that failed, as where the disk is full. Source: guess; what is loaded is only shown."""


class LoadedModels:
    """Watches the loaded models.

    Args:
        models: Whose registry is kept in step.

    Attributes:
        sessions: Of ONNX models.
        runners: Of GGUF models.
    """

    def __init__(self, models: ModelService) -> None:
        self.sessions = SessionCache(changed=self._from_thread)
        self.runners = Runners(changed=self._wake)
        self._models = models
        self._changed = trio.Event()

    def _from_thread(self) -> None:
        trio.from_thread.run_sync(self._wake)

    def _wake(self) -> None:
        self._changed.set()

    async def run(self) -> None:
        """Writes what differs, first what an earlier run left behind; until cancelled."""
        while True:
            self._changed = trio.Event()
            try:
                await self._write()
            except UserError as error:
                log.warning("which models are loaded is not noted: %s", error)
                await trio.sleep(AGAIN_S)
            else:
                await self._changed.wait()

    async def _write(self) -> None:
        loaded = {path for path, *_ in (*self.sessions.loaded(), *self.runners.loaded())}
        for model in self._models.local_models():
            if (model.loaded_at is not None) != (str(model.path) in loaded):
                await self._models.mark_loaded(model.name, model.version, str(model.path) in loaded)
