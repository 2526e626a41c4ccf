"""joblib and pickle files of scikit-learn estimators become ONNX files, in a child process: reading them runs code."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trio

from atmo.backends.child import ChildLimits, run_child
from atmo.backends.ml_model import config_labels, feature_columns
from atmo.backends.onnx_file import BadModelFile, check_onnx_file
from atmo.errors import UserError

TYPES = ("classifier", "anomaly_detector", "regressor")
TOO_MUCH = "Export the model to ONNX where it was made, for instance with skl2onnx, and import that file."
MAX_FILE_BYTES = 1024**3
"""The largest file that is read. Source: choice; it grows several times in the child's memory."""


@dataclass(frozen=True, slots=True)
class ConvertedModel:
    """What is known of a model after its conversion.

    Attributes:
        type: `classifier`, `anomaly_detector` or `regressor`, as the manifest has it.
        n_features: Columns that it takes.
        classes: Labels of a classifier, else empty.
        feature_names: Names of the columns, where it was fitted on named ones.
        sklearn_version: Who saved it.
        threshold: Of an anomaly detector, in the units of its score output; None for others.
        config: For the manifest: the keys that `ml_model` reads, with `estimator`, `n_features`, `sklearn_version` and
            `agreement` (share of sample rows on which the ONNX form answers as the original does).
    """

    type: str
    n_features: int
    classes: tuple[str | int | float, ...]
    feature_names: tuple[str, ...]
    sklearn_version: str
    threshold: float | None
    config: Mapping[str, Any]

    @property
    def capabilities(self) -> tuple[str, ...]:
        """What the manifest says that it can do, where nobody said it, in the usual words (docs/manifest.md)."""
        words = {"classifier": "classification", "anomaly_detector": "anomaly_detection", "regressor": "regression"}
        return (words[self.type],)


async def convert(
    path: Path, target: Path, *, deadline_s: float = 120, memory_bytes: int = 4 * 1024**3
) -> ConvertedModel:
    """Writes the estimator in `path` as ONNX to `target`, whose folder must exist.

    Args:
        path: A joblib or pickle file, compressed or not.
        target: Replaced whole, or not at all.
        deadline_s: After this the child and everything it started are killed.
        memory_bytes: Address space of the child.

    Raises:
        UserError: The file cannot be read, is no fitted estimator, has no ONNX form, or took too much.
    """
    what = f"Converting {path.name}"
    try:
        state = await trio.Path(path).stat()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.", "Check the path.") from error
    if not stat.S_ISREG(state.st_mode):
        raise UserError(f"{path} is no file.", "Give the path of a joblib or pickle file.")
    size = state.st_size
    if size > MAX_FILE_BYTES:
        raise UserError(
            f"{path} has {size / 1024**3:.1f} GiB; models of at most 1 GiB are converted.", "Export to ONNX."
        )
    limits = ChildLimits(memory_bytes=memory_bytes, wall_s=deadline_s, cpu_s=max(1, int(deadline_s)), advice=TOO_MUCH)
    with tempfile.TemporaryDirectory(prefix=".convert-", dir=target.parent) as folder_name:
        folder = Path(folder_name)
        request = {"path": str(await trio.Path(path).resolve())}
        try:
            result = await run_child("atmo.backends.convert_child", request, folder, limits, what)
        except UserError as error:
            message = error.message if error.message.startswith(what) else f"{path.name}: {error.message}"
            raise UserError(message, error.hint) from error
        model = _checked(result, path)
        await trio.to_thread.run_sync(_publish, folder / "model.onnx", target, path)
        return model


def _publish(made: Path, target: Path, path: Path) -> None:
    try:
        check_onnx_file(made)
    except (OSError, BadModelFile) as error:
        raise UserError(f"{path.name}: the conversion gave no usable ONNX file ({error}).") from error
    with made.open("rb") as file:
        os.fsync(file.fileno())
    made.replace(target)


def _checked(result: Mapping[str, Any], path: Path) -> ConvertedModel:
    """What a child says after it ran foreign code is looked at as if a stranger had sent it."""
    config, kind = result.get("config"), result.get("type")
    if not isinstance(config, dict) or kind not in TYPES:
        raise UserError(f"{path.name}: the conversion gave no valid description.", "Do not trust this file.")
    n_features, threshold = config.get("n_features"), config.get("threshold")
    if not isinstance(n_features, int) or not isinstance(threshold, int | float | None):
        raise UserError(f"{path.name}: the conversion gave no valid description.", "Do not trust this file.")
    return ConvertedModel(
        type=kind,
        n_features=n_features,
        classes=tuple(config_labels(config)),
        feature_names=feature_columns(config),
        sklearn_version=str(config.get("sklearn_version", ""))[:64],
        threshold=threshold,
        config=config,
    )
