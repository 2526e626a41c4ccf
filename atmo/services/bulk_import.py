"""Importing all models of a folder, such as LlamaFarm's: one bad file does not keep the next from being tried."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import trio

from atmo.errors import UserError
from atmo.services.catalog import ModelRow
from atmo.services.progress import Progress, Report
from atmo.storage.formats import Detected, detect
from atmo.storage.registry import LocalModel
from atmo.transfer.names import name_from

FILES_MOST, DEPTH_MOST = 10_000, 8
"""Of one folder. Source: guess; a folder of models has hundreds of files."""

MODEL_SUFFIXES = (
    ".onnx",
    ".gguf",
    ".safetensors",
    ".joblib",
    ".pkl",
    ".pickle",
    ".pt",
    ".pth",
    ".keras",
    ".h5",
    ".mlx",
)
"""A file of another name is only a model if its content is one; of these it is told why they are left out."""

FOLDER_TYPES = {"anomaly": "anomaly_detector", "classifier": "classifier", "embedder": "embedder", "router": "router"}
"""What LlamaFarm calls the folder of a kind of models. Source: seed 000."""


class Importing(Protocol):
    """What importing in bulk needs of the models."""

    def local_models(self) -> list[LocalModel]: ...

    async def import_model(
        self, path: Path, *, name: str | None = None, kind: str | None = None, progress: Report | None = None
    ) -> ModelRow: ...


@dataclass(slots=True)
class BulkImport:
    """What became of the files of a folder.

    Attributes:
        imported: New models.
        here: Those that were here already.
        skipped: Files that could not be imported, and why.
        ignored: How many files are no models.
    """

    imported: list[ModelRow] = field(default_factory=list)
    here: list[ModelRow] = field(default_factory=list)
    skipped: list[tuple[Path, str]] = field(default_factory=list)
    ignored: int = 0

    def to_json(self) -> dict[str, Any]:
        """Returns it as plain values."""
        return {
            "imported": [row.to_json() for row in self.imported],
            "here": [row.to_json() for row in self.here],
            "skipped": [{"path": str(path), "why": why} for path, why in self.skipped],
            "ignored": self.ignored,
        }


async def import_folder(models: Importing, folder: Path, kind: str | None, report: Report | None) -> BulkImport:
    """Imports every model below a folder.

    Args:
        models: Where they go.
        folder: Absolute. Links to folders are not followed.
        kind: Only models of this type, by the folder that they lie in or by what they are; None for all.
        report: Told how far it is; the phase names the file.

    Raises:
        UserError: There is no such folder.
    """
    if not await trio.Path(folder).is_dir():
        raise UserError(f"There is no folder {folder}.", "Give it with --from DIR.")
    result = BulkImport()
    found = await trio.to_thread.run_sync(_found, folder, kind, result)
    before = {(model.name, model.version) for model in models.local_models()}
    names: dict[str, Path] = {}
    for number, (path, detected) in enumerate(found, 1):
        name = name_from(path.stem)
        if name in names:
            name = name_from(f"{path.parent.name}-{path.stem}")
        names.setdefault(name, path)
        label = f"{number} of {len(found)}, {path.name}"

        def told(progress: Progress, label: str = label) -> None:
            if report is not None:
                report(replace(progress, phase=f"{label}: {progress.phase}"))

        try:
            row = await models.import_model(path, name=name, kind=_type_in(path, detected), progress=told)
        except UserError as error:
            result.skipped.append((path, str(error)))
        except OSError as error:
            result.skipped.append((path, f"It cannot be read: {error.strerror}."))
        else:
            (result.here if (row.name, row.version) in before else result.imported).append(row)
    return result


def _found(folder: Path, kind: str | None, result: BulkImport) -> list[tuple[Path, Detected]]:
    """Looks at all files below a folder; what is no usable model goes into the result."""
    found = []
    for path in _files(folder):
        try:
            detected = detect(path)
        except UserError as error:
            if path.suffix.lower() not in MODEL_SUFFIXES:
                result.ignored += 1
            elif kind is None or _lies_in(path, folder, kind):
                result.skipped.append((path, str(error)))
            continue
        if kind is None or _lies_in(path, folder, kind) or detected.type.startswith(kind):
            found.append((path, detected))
    return found


def _files(folder: Path) -> Iterator[Path]:
    """Yields the plain files below a folder in order, hidden ones left out.

    Raises:
        UserError: There are too many.
    """
    count = 0
    for place, folders, files in os.walk(folder):
        depth = len(Path(place).relative_to(folder).parts)
        folders[:] = sorted(name for name in folders if not name.startswith(".")) if depth < DEPTH_MOST else []
        for name in sorted(files):
            path = Path(place, name)
            if name.startswith(".") or not path.is_file():
                continue
            count += 1
            if count > FILES_MOST:
                raise UserError(f"{folder} has more than {FILES_MOST} files.", "Import its folders one by one.")
            yield path


def _lies_in(path: Path, folder: Path, kind: str) -> bool:
    """Says whether a folder above a file, up to the one that is imported, is named after a kind of models."""
    kind = kind.casefold()
    parts = [part.casefold() for part in path.relative_to(folder).parts[:-1]]
    return any(part.startswith(kind) or (len(part) > 2 and kind.startswith(part)) for part in parts)


def _type_in(path: Path, detected: Detected) -> str | None:
    """Returns the type that the folder of a file tells where its content tells none."""
    return FOLDER_TYPES.get(path.parent.name.casefold()) if detected.type == "model" else None
