"""Runs the ONNX models of the local store: classifiers, anomaly detectors, and embedders that take plain strings."""

from __future__ import annotations

import base64
import hashlib
import logging
import math
import time
from collections.abc import AsyncGenerator, Callable, Sequence

import numpy as np
import trio
from numpy.typing import NDArray
from packaging.version import InvalidVersion, Version

from atmo.backends.base import Backend, Call, Part
from atmo.backends.ml_cluster import cluster_answer, read_clusters
from atmo.backends.ml_data import has_texts, invalid, parse_number, parse_rows, parse_texts
from atmo.backends.ml_forecast import (
    DEVIATION_OUTPUT,
    MEAN_OUTPUT,
    check_forecaster,
    forecast_answer,
    forecaster_feeds,
    parse_horizon,
    parse_levels,
    read_forecast,
)
from atmo.backends.ml_model import (
    Plan,
    anomaly_answer,
    classification_answer,
    feed_strings,
    generated_description,
    plan_embedder,
    plan_model,
    read_anomalies,
    read_classes,
)
from atmo.backends.onnx_file import BadModelFile, check_onnx_file
from atmo.backends.onnx_session import FileKey, Loaded, SessionCache, file_key, run_session
from atmo.backends.pool import FOREVER
from atmo.backends.store import StoredModel, TextEmbedder
from atmo.errors import RequestError
from atmo.router.capability import ANOMALY, CLASSIFY, CLUSTER, EMBEDDINGS, FORECAST, Capability
from atmo.wire import limits

log = logging.getLogger(__name__)

OPERATION_OF_TYPE = {
    "classifier": CLASSIFY,
    "anomaly_detector": ANOMALY,
    "clusterer": CLUSTER,
    "forecaster": FORECAST,
    "embedder": EMBEDDINGS,
}
CONCURRENCY = 4
"""Runs of one model at once. Source: guess; each uses one thread."""

TRIED_BYTES = 8 * 1024 * 1024
"""Models up to this size are loaded when they are discovered, so that what is offered is known to run."""

TRIED_S = 3.0
"""How long one discovery waits for models that are loaded for the first time. Source: guess, within the deadline of a
discovery; what is ready later is offered by the next look."""

LOAD_S = 20.0
"""A model whose first load takes longer is left out until the next start. Source: guess."""

LOADS = 2
"""First loads at once. Source: guess; a thread cannot be stopped, so this also bounds those that never end."""

LOOK_AGAIN_S = 0.5
"""How soon is looked again while models are being loaded. Source: guess."""

READY_S = 120.0
"""A request waits this long for the load of its model. Source: guess, some GB from a slow disk."""


class OnnxBackend(Backend):
    """The backend `onnx`.

    Each version of each model is one capability; the router lets the newest answer the bare name.

    Args:
        models: Lists the models of the store; called in a worker thread.
        embedder: Embeds the texts of models that take MiniLM vectors.
        sessions: Keeps models loaded.
        clock: Monotonic seconds.
    """

    name = "onnx"

    def __init__(
        self,
        models: Callable[[], Sequence[StoredModel]],
        embedder: TextEmbedder,
        sessions: SessionCache | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._models = models
        self._embedder = embedder
        self._sessions = sessions or SessionCache()
        self._clock = clock
        self._bad: dict[FileKey, str] = {}
        self._fine: set[FileKey] = set()
        self._offered: dict[str, StoredModel] = {}
        self._loading: dict[FileKey, float] = {}
        self._loads = trio.CapacityLimiter(LOADS)
        self.recheck_s = FOREVER

    async def discover(self) -> Sequence[Capability]:
        """Lists the models of the store that can run here; why another cannot is logged once.

        A model that was never loaded is loaded in a thread that may outlast this: it is offered when that has ended.
        Where all threads are stuck in such loads, the rest is offered on the look into its file alone.
        """
        found = await trio.to_thread.run_sync(self._look, abandon_on_cancel=True)
        untried = [(model, key) for model, key in found if key not in self._fine and key not in self._loading]
        if self._loads.available_tokens:
            with trio.move_on_after(TRIED_S):
                async with trio.open_nursery() as nursery:
                    for model, key in untried:
                        nursery.start_soon(self._try_aside, model, key)
        stuck = not self._loads.available_tokens
        for model, key in found:
            if self._clock() - self._loading.get(key, math.inf) > LOAD_S and key not in self._bad:
                self._refuse(model, key, f"loading it takes longer than {LOAD_S:.0f} s")
        usable = [
            (describe(model), model)
            for model, key in found
            if key not in self._bad and (key in self._fine or (stuck and key not in self._loading))
        ]
        pending = any(key not in self._fine and key not in self._bad for _, key in found)
        hopeless = stuck and set(self._loading) <= set(self._bad)
        self.recheck_s = LOOK_AGAIN_S if pending and not hopeless else FOREVER
        self._offered = {capability.id: model for capability, model in usable}
        return [capability for capability, _ in usable]

    async def _try_aside(self, model: StoredModel, key: FileKey) -> None:
        await trio.to_thread.run_sync(self._try, model, key, abandon_on_cancel=True, limiter=self._loads)

    async def execute(self, call: Call) -> AsyncGenerator[Part, None]:
        """Runs one request; the answers are described in `ml_model`."""
        model = self._offered.get(call.capability.id)
        if model is None:
            raise RequestError(404, f"The model {call.capability.model} was removed.", code="model_not_found")
        loaded, plan = await self._ready(model)
        try:
            if plan is not None:
                yield await self._predict(loaded, plan, model, call)
            elif model.type == "forecaster":
                yield await _forecast(loaded, model, call)
            else:
                yield await self._embed(loaded, model, call)
        except BadModelFile as error:
            message = f"The model {model.name} {model.version} failed on this request: {error}"
            raise RequestError(500, message, kind="server_error", code="model_failed") from error

    async def _ready(self, model: StoredModel) -> tuple[Loaded, Plan | None]:
        """Loads a model; one that cannot be loaded is not offered any more."""
        try:
            with trio.move_on_after(READY_S):
                return await trio.to_thread.run_sync(self._plan, model, abandon_on_cancel=True)
            raise BadModelFile(f"loading it takes longer than {READY_S:.0f} s")
        except BadModelFile as error:
            if (key := _key(model)) is not None:
                self._refuse(model, key, str(error))
            message = (
                f"The model {model.name} {model.version} cannot run on this machine: {str(error).rstrip('.')}."
                " Import a corrected version under the same name."
            )
            raise RequestError(503, message, kind="server_error", code="model_unusable") from error

    def _look(self) -> list[tuple[StoredModel, FileKey]]:
        """Runs in a worker thread; returns what is not known to be bad."""
        found = [model for model in self._models() if model.format == "onnx" and model.type in OPERATION_OF_TYPE]
        found.sort(key=lambda model: (model.name, _rank(model.version)), reverse=True)
        keys = [(model, key) for model in found if (key := _key(model)) is not None]
        self._forget_all_but({key for _, key in keys})
        return [(model, key) for model, key in keys if self._may_run(model, key)]

    def _forget_all_but(self, here: set[FileKey]) -> None:
        """What is known of removed and replaced files would only grow."""
        self._fine &= here
        for key in set(self._bad) - here:
            self._bad.pop(key, None)

    def _may_run(self, model: StoredModel, key: FileKey) -> bool:
        """Looks into the file; a large model is not loaded before its first request."""
        if key in self._bad:
            return False
        if key in self._fine or key in self._loading:
            return True
        try:
            check_onnx_file(model.path)
        except (BadModelFile, OSError) as error:
            self._refuse(model, key, str(error))
            return False
        if model.type != "embedder" and key[2] > TRIED_BYTES:
            self._fine.add(key)
        return True

    def _try(self, model: StoredModel, key: FileKey) -> None:
        """Loads a model for the first time. Runs in a worker thread that nobody may wait for any more."""
        if key in self._fine or key in self._bad or key in self._loading:
            return
        self._loading[key] = self._clock()
        try:
            self._plan(model)
        except (BadModelFile, OSError) as error:
            if key not in self._bad:
                self._refuse(model, key, str(error))
        else:
            if key not in self._bad:
                self._fine.add(key)
        finally:
            del self._loading[key]

    def _plan(self, model: StoredModel) -> tuple[Loaded, Plan | None]:
        """Runs in a worker thread; the plan of an embedder and of a forecaster is in its signature."""
        loaded = self._sessions.load(model.path)
        if model.type == "forecaster":
            check_forecaster(loaded.signature)
            return loaded, None
        if model.type != "embedder":
            return loaded, plan_model(loaded.signature, model.config)
        if plan_embedder(loaded.signature) is None:
            raise BadModelFile("its graph does not turn strings into vectors; other embedders need a tokenizer")
        return loaded, None

    def _refuse(self, model: StoredModel, key: FileKey, reason: str) -> None:
        log.warning("model %s %s is left out: %s", model.name, model.version, reason)
        self._fine.discard(key)
        self._bad[key] = reason

    async def _predict(self, loaded: Loaded, plan: Plan, model: StoredModel, call: Call) -> Part:
        rows = await self._rows(plan, call)
        values = await run_session(loaded, plan.outputs, plan.feeds(rows))
        if model.type == "classifier":
            chosen, labels, scores = read_classes(plan, model.config, values)
            _check_count(len(chosen), len(rows))
            return classification_answer(call.capability.model, model.version, chosen, labels, scores)
        if model.type == "clusterer":
            groups, distances = read_clusters(plan, values)
            _check_count(len(groups), len(rows))
            about = {"k": values[1].shape[1], "silhouette": model.config.get("silhouette")}
            return cluster_answer(call.capability.model, model.version, groups.tolist(), distances.tolist(), about)
        anomaly_scores, threshold = read_anomalies(plan, model.config, values)
        _check_count(len(anomaly_scores), len(rows))
        chosen_threshold = parse_number(call.body, "threshold", threshold, -1e30, 1e30)
        assert chosen_threshold is not None
        return anomaly_answer(call.capability.model, model.version, anomaly_scores, chosen_threshold)

    async def _rows(self, plan: Plan, call: Call) -> NDArray[np.float32]:
        if not plan.text:
            if has_texts(call.body):
                width = f"rows of {plan.width} numbers" if plan.width else "rows of numbers"
                names = f" ({', '.join(plan.columns[:20])})" if plan.columns else ""
                raise invalid(f"The model {call.capability.model} takes {width}{names}, not texts.", "data")
            table = await trio.to_thread.run_sync(parse_rows, call.body, plan.width, plan.columns)
            return table.rows
        vectors = await self._embedder.embed(parse_texts(call.body))
        if plan.width not in (None, vectors.shape[1]):
            raise BadModelFile(f"it takes vectors of {plan.width}, the embedder gives {vectors.shape[1]}")
        return vectors

    async def _embed(self, loaded: Loaded, model: StoredModel, call: Call) -> Part:
        ports = plan_embedder(loaded.signature)
        assert ports is not None
        texts = parse_texts(call.body)
        values = await run_session(loaded, [ports[1].name], feed_strings(ports[0], texts))
        vectors = np.ascontiguousarray(values[0], dtype="<f4")
        if vectors.ndim != 2 or len(vectors) != len(texts) or not np.isfinite(vectors).all():
            raise BadModelFile("it does not give one finite vector for each text")
        return {
            "object": "list",
            "model": call.capability.model,
            "data": [
                {"object": "embedding", "index": index, "embedding": base64.b64encode(vector.tobytes()).decode()}
                for index, vector in enumerate(vectors)
            ],
            "usage": {"prompt_tokens": 0, "total_tokens": 0},
        }


async def _forecast(loaded: Loaded, model: StoredModel, call: Call) -> Part:
    horizon, levels = parse_horizon(call.body), parse_levels(call.body)
    feeds = await trio.to_thread.run_sync(forecaster_feeds, call.body)
    values = await run_session(loaded, [MEAN_OUTPUT, DEVIATION_OUTPUT], feeds)
    mean, deviation = read_forecast(values, horizon)
    return forecast_answer(call.capability.model, model.version, mean, deviation, levels, model.config)


def describe(model: StoredModel) -> Capability:
    """Returns what the mesh hears of a model."""
    examples = model.config.get("examples")
    usable = isinstance(examples, list | tuple) and all(isinstance(text, str) and len(text) <= 512 for text in examples)
    return Capability(
        id=_capability_id(model),
        operation=OPERATION_OF_TYPE[model.type],
        model=model.name,
        version=model.version,
        description=(
            model.description or generated_description(model.name, model.type, model.config, model.capabilities)
        )[:1_024],
        examples=tuple(examples[:32]) if examples and usable else (),
        concurrency=CONCURRENCY,
        backend="onnx",
    )


def _key(model: StoredModel) -> FileKey | None:
    try:
        return file_key(model.path)
    except OSError as error:
        log.warning("model %s %s is left out: %s", model.name, model.version, error.strerror)
        return None


def _capability_id(model: StoredModel) -> str:
    name = f"{model.name}@{model.version}"
    if len(name) > limits.NAME_CHARS - len("onnx:"):
        name = hashlib.blake2b(name.encode(), digest_size=16).hexdigest()
    return f"onnx:{name}"


def _check_count(answers: int, rows: int) -> None:
    if answers != rows:
        raise BadModelFile(f"it gave {answers} answers for {rows} rows")


def _rank(version: str) -> Version:
    try:
        return Version(version)
    except InvalidVersion:
        return Version("0.dev0")
