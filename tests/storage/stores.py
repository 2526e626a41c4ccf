"""Stores with models in them, for tests."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

import pytest

from atmo.storage.chunks import ModelStorage
from atmo.storage.database import Database
from atmo.storage.partial import PartialDownload
from atmo.storage.registry import LocalModel
from atmo.transfer.manifest import Manifest, seal_manifest
from tests.transfer.samples import SIGNER, manifest_of

DATA = Random(1).randbytes(256_000)  # four chunks


def open_store(root: Path) -> ModelStorage:
    return ModelStorage(root, Database(root / "atmosphere.db"))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def add(store: ModelStorage, data: bytes = DATA, **said: Any) -> LocalModel:
    """Puts bytes into the store as a model."""
    with store.incoming(len(data)) as path:
        path.write_bytes(data)
        return store.register(path, seal_manifest(SIGNER, manifest_of(data, **said)), "central-01")


def download(store: ModelStorage, manifest: Manifest, data: bytes = DATA, count: int = 1_000) -> PartialDownload:
    """Starts a download and writes its first chunks."""
    partial = store.open_partial(seal_manifest(SIGNER, manifest))
    for index, place in list(enumerate(partial.places))[:count]:
        assert partial.write(index, data[place.offset : place.offset + place.size])
    return partial


def pull(store: ModelStorage, data: bytes = DATA, **said: Any) -> LocalModel:
    """Downloads bytes into the store as a model."""
    return store.finish(download(store, manifest_of(data, **said), data), "gateway-01")


@contextmanager
def mounted(folder: Path, *arguments: str) -> Iterator[Path]:
    """Mounts a file system at `folder`; skips the test where this user may not."""
    folder.mkdir(exist_ok=True)
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("only root mounts")
    done = subprocess.run(["mount", *arguments, str(folder)], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"cannot mount here: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=False, capture_output=True)


def remount(folder: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(folder)], check=True, capture_output=True)
