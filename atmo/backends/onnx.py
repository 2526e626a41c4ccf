"""Runs the ONNX models of the local store: classifiers, anomaly detectors, and embedders that take plain strings."""

from __future__ import annotations

import base64
import hashlib
import logging
import time
from collections.abc import AsyncGenerator, Callable, Sequence

import numpy as np
import trio
from numpy.typing import NDArray
from packaging.version import InvalidVersion, Version

from atmo.backends.base import Backend, Call, Part
from atmo.backends.ml_data import has_texts, invalid, parse_number, parse_rows, parse_texts
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
from atmo.router.capability import ANOMALY, CLASSIFY, EMBEDDINGS, Capability
from atmo.wire import limits

log = logging.getLogger(__name__)

OPERATION_OF_TYPE = {"classifier": CLASSIFY, "anomaly_detector": ANOMALY, "embedder": EMBEDDINGS}
CONCURRENCY = 4
"""Runs of one model at once. Source: guess; each uses one thread."""

TRIED_BYTES = 8 * 1024 * 1024
"""Models up to this size are loaded when they are discovered, so that what is offered is known to run."""

TRIED_S = 1.0
"""How long one discovery spends on loading; the rest is offered on the look into its file alone."""


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
    recheck_s = FOREVER

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

    async def discover(self) -> Sequence[Capability]:
        """Lists the models of the store that can run here; why another cannot is logged once."""
        offered = await trio.to_thread.run_sync(self._look)
        self._offered = {capability.id: model for capability, model in offered}
        return [capability for capability, _ in offered]

    async def execute(self, call: Call) -> AsyncGenerator[Part, None]:
        """Runs one request; the answers are described in `ml_model`."""
        model = self._offered.get(call.capability.id)
        if model is None:
            raise RequestError(404, f"The model {call.capability.model} was removed.", code="model_not_found")
        loaded, plan = await self._ready(model)
        try:
            if plan is None:
                yield await self._embed(loaded, model, call)
            else:
                yield await self._predict(loaded, plan, model, call)
        except BadModelFile as error:
            message = f"The model {model.name} {model.version} failed on this request: {error}"
            raise RequestError(500, message, kind="server_error", code="model_failed") from error

    async def _ready(self, model: StoredModel) -> tuple[Loaded, Plan | None]:
        """Loads a model; one that cannot be loaded is not offered any more."""
        try:
            return await trio.to_thread.run_sync(self._plan, model)
        except BadModelFile as error:
            self._refuse(model, str(error))
            message = (
                f"The model {model.name} {model.version} cannot run on this machine: {str(error).rstrip('.')}."
                " Import a corrected version under the same name."
            )
            raise RequestError(503, message, kind="server_error", code="model_unusable") from error

    def _look(self) -> list[tuple[Capability, StoredModel]]:
        """Runs in a worker thread."""
        deadline = self._clock() + TRIED_S
        found = [model for model in self._models() if model.format == "onnx" and model.type in OPERATION_OF_TYPE]
        found.sort(key=lambda model: (model.name, _rank(model.version)), reverse=True)
        keys = [(model, key) for model in found if (key := _key(model)) is not None]
        self._forget_all_but({key for _, key in keys})
        return [(describe(model), model) for model, key in keys if self._usable(model, key, self._clock() < deadline)]

    def _forget_all_but(self, here: set[FileKey]) -> None:
        """What is known of removed and replaced files would only grow."""
        self._fine &= here
        for key in set(self._bad) - here:
            self._bad.pop(key, None)

    def _usable(self, model: StoredModel, key: FileKey, time_left: bool) -> bool:
        if key in self._bad:
            return False
        if key in self._fine:
            return True
        try:
            if model.type == "embedder" or (key[2] <= TRIED_BYTES and time_left):
                self._plan(model)
            else:
                check_onnx_file(model.path)
        except (BadModelFile, OSError) as error:
            self._refuse(model, str(error))
            return False
        self._fine.add(key)
        return True

    def _plan(self, model: StoredModel) -> tuple[Loaded, Plan | None]:
        """Runs in a worker thread; the plan of an embedder is in its signature."""
        loaded = self._sessions.load(model.path)
        if model.type != "embedder":
            return loaded, plan_model(loaded.signature, model.config)
        if plan_embedder(loaded.signature) is None:
            raise BadModelFile("its graph does not turn strings into vectors; other embedders need a tokenizer")
        return loaded, None

    def _refuse(self, model: StoredModel, reason: str) -> None:
        log.warning("model %s %s is left out: %s", model.name, model.version, reason)
        try:
            key = file_key(model.path)
        except OSError:
            return
        self._fine.discard(key)
        self._bad[key] = reason

    async def _predict(self, loaded: Loaded, plan: Plan, model: StoredModel, call: Call) -> Part:
        rows = await self._rows(plan, call)
        values = await run_session(loaded, plan.outputs, plan.feeds(rows))
        if model.type == "classifier":
            chosen, labels, scores = read_classes(plan, model.config, values)
            _check_count(len(chosen), len(rows))
            return classification_answer(call.capability.model, model.version, chosen, labels, scores)
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
