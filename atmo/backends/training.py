"""Fitting models for `/v1/ml/*`: the request is checked here, a child process does the work, the store keeps it."""

from __future__ import annotations

import errno
import importlib.util
import tempfile
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import trio
from numpy.typing import NDArray

from atmo.backends.child import ChildLimits, run_child
from atmo.backends.ml_cluster import parse_k
from atmo.backends.ml_data import (
    Label,
    Table,
    has_texts,
    invalid,
    parse_labels,
    parse_model_name,
    parse_names,
    parse_number,
    parse_rows,
    parse_text,
    parse_texts,
)
from atmo.backends.ml_forecast import parse_season, parse_series
from atmo.backends.ml_model import generated_description
from atmo.errors import RequestError, UserError
from atmo.router.capability import ANOMALY, CLASSIFY, CLUSTER, FORECAST

MIN_ANOMALY_ROWS = 8
"""Fewer rows say nothing of what is normal. Source: guess."""

CONTAMINATION = 0.1
"""Share of the training rows that count as anomalies when nothing is said. Source: PyOD's default."""

Embed = Callable[[Sequence[str]], Awaitable[NDArray[np.float32]]]
"""Turns texts into float32[n, 384]."""

MAX_WAITING = 4
BUILTIN_PREFIX = "builtin-"


@dataclass(frozen=True, slots=True)
class TrainedModel:
    """A fitted model on its way into the store.

    Attributes:
        name: As the client named it.
        type: `classifier`, `anomaly_detector`, `clusterer` or `forecaster`.
        onnx_path: The file, gone after `save` returned.
        config: For the manifest; see `ml_model`.
        capabilities: What it is good for: the type's own word, then the client's.
        description: For people and for routing by meaning.
        metrics: How well it does, as the client reads it.
    """

    name: str
    type: str
    onnx_path: Path
    config: dict[str, Any]
    capabilities: tuple[str, ...]
    description: str
    metrics: dict[str, Any]


KINDS = {
    ANOMALY: ("anomaly_detector", "anomaly_detection"),
    CLASSIFY: ("classifier", "classification"),
    CLUSTER: ("clusterer", "clustering"),
    FORECAST: ("forecaster", "forecasting"),
}
"""Of what is fitted for an operation: the manifest's type, and the word for what it does."""

TRAINING, CLUSTERING, FORECASTING = (f"atmo.backends.{name}_child" for name in ("train", "cluster", "forecast"))


@dataclass(frozen=True, slots=True)
class _Job:
    """What the child `module` gets, and what of the manifest is known before."""

    module: str
    arrays: dict[str, NDArray[Any]]
    order: dict[str, Any]
    config: dict[str, Any]


class Trainer:
    """Fits models, one at a time.

    Args:
        embed: Turns texts into float32[n, 384].
        save: Puts the model into the store as the next version of its name and returns the row with its `version`.
        work_dir: For files on their way; must exist.
        limits: Of the child that fits.
    """

    def __init__(
        self,
        embed: Embed,
        save: Callable[[TrainedModel], Awaitable[Mapping[str, Any]]],
        work_dir: Path,
        limits: ChildLimits = ChildLimits(wall_s=300.0, cpu_s=300),
    ) -> None:
        self._embed = embed
        self._save = save
        self._work_dir = work_dir
        self._limits = limits
        self._turn = trio.CapacityLimiter(1)

    async def fit(self, operation: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Fits a model and saves it.

        Args:
            operation: `anomaly`, `classify`, `cluster` or `forecast`.
            body: `model` and `data` (rows of numbers); for `classify` also `labels`, with `data` or `texts`; for
                `cluster` also `k`; for `forecast` also `season`, and `data` is one series. Optional:
                `feature_columns`, `contamination` (a share, or "auto"), `capabilities`, `description`.

        Returns:
            {"object": "ml.fit", "model", "version", "type", "samples", "metrics"}.

        Raises:
            RequestError: 400 for what is wrong with the request or cannot be fitted, 429 when too many wait,
            507 or 503 when the disk is full or does not work.
        """
        if operation not in KINDS:
            raise invalid(f"Nothing can be fitted for '{operation[:64]}'; {', '.join(KINDS)} can.", "action")
        if self._turn.statistics().tasks_waiting >= MAX_WAITING:
            raise RequestError(429, "Too many models are being fitted here. Try again later.", kind="rate_limit_error")
        name = parse_model_name(body)
        if name.startswith(BUILTIN_PREFIX):
            raise invalid(f"Names that start with '{BUILTIN_PREFIX}' are taken. Choose another.", "model")
        words = parse_names(body, "capabilities", 32)
        description = parse_text(body, "description", 1_000)
        kind, own_word = KINDS[operation]
        async with self._turn:
            job = await self._job(operation, body)
            try:
                model, version = await self._fit_and_save(job, name, kind, (own_word, *words), description)
            except (OSError, UserError) as error:
                raise _not_kept(error, self._work_dir) from error
        return {
            "object": "ml.fit",
            "model": name,
            "version": version,
            "type": kind,
            "samples": len(next(iter(job.arrays.values()))),
            "metrics": model.metrics,
        }

    async def _job(self, operation: str, body: Mapping[str, Any]) -> _Job:
        make = {
            ANOMALY: self._anomaly,
            CLASSIFY: self._classifier,
            CLUSTER: self._clusterer,
            FORECAST: self._forecaster,
        }
        return await make[operation](body)

    async def _fit_and_save(
        self, job: _Job, name: str, kind: str, words: Sequence[str], description: str
    ) -> tuple[TrainedModel, str]:
        with tempfile.TemporaryDirectory(prefix="fit-", dir=self._work_dir) as folder_name:
            folder = Path(folder_name)
            result = await self._run(job, folder, name)
            config = job.config | dict(result["config"])
            model = TrainedModel(
                name=name,
                type=kind,
                onnx_path=folder / "model.onnx",
                config=config,
                capabilities=tuple(dict.fromkeys(words)),
                description=description or generated_description(name, kind, config, words[1:]),
                metrics=dict(result["metrics"]),
            )
            saved = await self._save(model)
        return model, str(saved.get("version", ""))

    async def _anomaly(self, body: Mapping[str, Any]) -> _Job:
        _check_backend(body)
        if has_texts(body):
            raise invalid("An anomaly detector is fitted on rows of numbers, not on texts.", "data")
        contamination = body.get("contamination")
        if contamination != "auto":
            contamination = parse_number(body, "contamination", CONTAMINATION, 0, 0.5)
        table = await trio.to_thread.run_sync(_fit_table, body)
        if len(table.rows) < MIN_ANOMALY_ROWS:
            raise invalid(f"'data' has {len(table.rows)} rows; at least {MIN_ANOMALY_ROWS} are needed to fit.", "data")
        return _Job(TRAINING, {"x": table.rows}, {"contamination": contamination}, _numeric_config(table))

    async def _classifier(self, body: Mapping[str, Any]) -> _Job:
        labels = None
        if has_texts(body):
            labels = parse_labels(body, len(parse_texts(body)))
        rows, config = await fit_rows(body, self._embed)
        classes, indices = _encode(labels or parse_labels(body, len(rows)))
        order = {"text": config["input"] == "text", "classes": classes}
        return _Job(TRAINING, {"x": rows, "y": indices}, order, config | {"labels": classes})

    async def _clusterer(self, body: Mapping[str, Any]) -> _Job:
        rows, config = await fit_rows(body, self._embed)
        order = {"k": parse_k(body, len(rows)), "text": config["input"] == "text", "save": True}
        return _Job(CLUSTERING, {"x": rows}, order, config)

    async def _forecaster(self, body: Mapping[str, Any]) -> _Job:
        check_forecasting()
        series = await trio.to_thread.run_sync(parse_series, body)
        order = {"season": parse_season(body), "horizon": 0, "test": True}
        return _Job(FORECASTING, {"y": series}, order, {"input": "series"})

    async def _run(self, job: _Job, folder: Path, name: str) -> dict[str, Any]:
        return await run_fit(job.module, job.arrays, job.order, folder, self._limits, f"Fitting {name}")


async def run_fit(
    module: str,
    arrays: dict[str, Any],
    order: Mapping[str, Any],
    folder: Path,
    limits: ChildLimits,
    what: str,
) -> dict[str, Any]:
    """Has the child `module` work on `arrays` in an empty `folder`.

    Raises:
        RequestError: 400, the data cannot be fitted, or not within the limits.
    """
    await trio.to_thread.run_sync(lambda: np.savez(folder / "data.npz", **arrays))
    try:
        return await run_child(module, order, folder, limits, what)
    except UserError as error:
        raise RequestError(400, str(error), code="fit_failed") from error


async def fit_rows(body: Mapping[str, Any], embed: Embed) -> tuple[NDArray[np.float32], dict[str, Any]]:
    """Returns the rows of a request, float32[n, d], of texts their vectors, and what a manifest says of them.

    Raises:
        RequestError: 400 naming what is wrong.
    """
    if not has_texts(body):
        table = await trio.to_thread.run_sync(_fit_table, body)
        return table.rows, _numeric_config(table)
    rows = await embed(parse_texts(body))
    return rows, {"input": "text", "embedder": "all-minilm-l6-v2", "n_features": rows.shape[1]}


def can_forecast() -> bool:
    """Says whether what fits forecasting models is installed."""
    return importlib.util.find_spec("statsmodels") is not None


def check_forecasting() -> None:
    """Raises a `RequestError` where forecasting models cannot be fitted here."""
    if not can_forecast():
        message = (
            "This node cannot fit forecasting models: install what it needs there "
            "(pip install 'atmosphere-mesh[forecast]'), or send the request to a node that has it."
        )
        raise RequestError(503, message, kind="api_error", code="not_installed")


def _not_kept(error: OSError | UserError, work_dir: Path) -> RequestError:
    """Returns the error of a fit that this machine's disk ended, or that the store refused."""
    cause = error if isinstance(error, OSError) else error.__cause__
    if not isinstance(cause, OSError):
        return RequestError(400, str(error))
    if cause.errno in (errno.ENOSPC, errno.EDQUOT):
        message = f"The disk of {work_dir} is full, the model was not kept: make room and send the request again."
        return RequestError(507, message, kind="api_error", code="disk_full")
    if isinstance(cause, FileNotFoundError):
        message = f"A folder that this node works in is gone (it needs {work_dir}): start the node again."
    else:
        message = f"The model was not kept: {cause.strerror or cause} ({cause.filename or work_dir})."
    return RequestError(503, message, kind="api_error", code="storage_failed")


def _fit_table(body: Mapping[str, Any]) -> Table:
    columns = parse_names(body, "feature_columns", 4_096)
    return parse_rows(body, columns=columns)


def _numeric_config(table: Table) -> dict[str, Any]:
    config: dict[str, Any] = {"input": "numeric", "n_features": table.rows.shape[1]}
    return config | ({"feature_columns": list(table.columns)} if table.columns else {})


def _encode(labels: Sequence[Label]) -> tuple[list[Label], NDArray[np.int64]]:
    """Returns the classes in order, and the index of each row's class."""
    whole: list[Label] = [int(label) if isinstance(label, float) else label for label in labels]
    classes = sorted(set(whole), key=lambda label: (str(type(label)), label))
    places = {label: index for index, label in enumerate(classes)}
    return classes, np.array([places[label] for label in whole], dtype=np.int64)


def _check_backend(body: Mapping[str, Any]) -> None:
    if body.get("backend") not in (None, "auto", "isolation_forest", "iforest"):
        raise invalid("'backend' can be 'isolation_forest' only.", "backend")
