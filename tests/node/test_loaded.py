"""The registry's word on what is loaded, where the disk fails."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest
import trio

from atmo.errors import UserError
from atmo.node.loaded import LoadedModels
from atmo.services.models import ModelService
from atmo.storage.registry import LocalModel
from tests.storage.stores import add, open_store


class Models:
    """A store's models, of which the marks cannot be written at first."""

    def __init__(self, root: Path) -> None:
        self.store = open_store(root)
        add(self.store)
        self.store.set_loaded("iris", "1.0.0", True)  # as an earlier run left it
        self.failures = 2

    def local_models(self) -> list[LocalModel]:
        return self.store.models()

    async def mark_loaded(self, name: str, version: str, loaded: bool) -> None:
        await trio.lowlevel.checkpoint()
        if self.failures:
            self.failures -= 1
            raise UserError("The disk is full.")
        self.store.set_loaded(name, version, loaded)


async def test_a_disk_that_is_full_does_not_end_the_node(
    tmp_path: Path, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    models = Models(tmp_path)
    nursery.start_soon(LoadedModels(cast(ModelService, models)).run)
    await trio.sleep(100)
    assert models.store.models()[0].loaded_at is None
    assert len([row for row in caplog.records if "is not noted" in row.message]) == 2
