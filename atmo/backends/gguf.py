"""Runs the GGUF models of the local store by llama.cpp: chats, completions, embeddings. Needs the extra `gguf`."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import replace

import trio

from atmo.backends.base import Backend, Call, Object, Part, as_object
from atmo.backends.gguf_file import BadGguf, GgufFacts, Plan, plan_for, read_facts_untrusted
from atmo.backends.gguf_process import GgufProcess, Order, sweep_folders
from atmo.backends.gguf_request import ignored_fields, plain_logprobs, request_body, too_long
from atmo.backends.gguf_runners import GIB, Runners
from atmo.backends.gguf_whole import Whole
from atmo.backends.llm_capabilities import Terms, capabilities_of
from atmo.backends.llm_names import ModelFacts
from atmo.backends.onnx_session import FileKey, file_key
from atmo.backends.pool import FOREVER
from atmo.backends.store import GGUF, RUN_TYPES, StoredModel, what_to_install
from atmo.errors import RequestError
from atmo.router.capability import CHAT, COMPLETIONS, EMBEDDINGS, JSON_SCHEMA, TOOLS, Capability
from atmo.wire import limits

log = logging.getLogger(__name__)

TOLD_MOST = 1_000
THREADS_MOST = 16
"""More do not help: memory is what limits. Source: guess."""


def threads_here() -> int:
    """Returns how many processors a model may use: one is left to the node and to others.

    Threads of llama.cpp spin while they wait for each other, so one that shares its processor holds up all: beside
    other work on two processors a model gave 21 to 1,078 tokens a second with two threads, and 371 to 752 with one.
    """
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:
        cores = os.cpu_count() or 1
    return max(1, min(THREADS_MOST, cores - 1))


class GgufBackend(Backend):
    """The backend `gguf`.

    Each version of each model is one capability. A model is loaded when it is first asked.

    Args:
        models: Lists the models of the store; called in a worker thread.
        runners: Keeps models loaded.
    """

    name = "gguf"

    def __init__(self, models: Callable[[], Sequence[StoredModel]], runners: Runners | None = None) -> None:
        self._stored = models
        self._runners = runners or Runners()
        self._facts: dict[FileKey, GgufFacts | None] = {}
        self._offered: dict[str, tuple[FileKey, Order]] = {}
        self._told: set[str] = set()
        self._swept = False
        self.recheck_s = FOREVER

    async def discover(self) -> Sequence[Capability]:
        """Lists the models of the store that can run here, and ends those that nobody uses."""
        found = await trio.to_thread.run_sync(self._look, abandon_on_cancel=True)
        await self._runners.tidy({key for key, *_ in found})
        offered: dict[str, tuple[FileKey, Order]] = {}
        capabilities = []
        for key, model, facts in found:
            if capability := self._offer(key, model, facts, offered):
                capabilities.append(capability)
        self._offered = offered
        # Only somebody who loads a model makes something that is to be ended later.
        self.recheck_s = self._runners.config.look_s if offered else FOREVER
        return capabilities

    def _look(self) -> list[tuple[FileKey, StoredModel, GgufFacts]]:
        """Runs in a worker thread."""
        if not self._swept:
            self._swept = True
            sweep_folders()
        models = [model for model in self._stored() if model.format == GGUF]
        if models and (missing := what_to_install(GGUF)):
            self._tell(f"{len(models)} models in GGUF files are kept and not run here: pip install '{missing}'")
            return []
        found = []
        for model in models:
            try:
                key = file_key(model.path)
                facts = self._facts_of(key, model) if model.type in RUN_TYPES[GGUF] else None
            except OSError as error:
                self._leave_out(model, error.strerror or "it cannot be read")
                continue
            if facts is not None:
                found.append((key, model, facts))
        here = {key for key, *_ in found}
        self._facts = {key: facts for key, facts in self._facts.items() if key in here or facts is None}
        return found

    def _facts_of(self, key: FileKey, model: StoredModel) -> GgufFacts | None:
        if key not in self._facts:
            try:
                self._facts[key] = read_facts_untrusted(model.path)
            except BadGguf as error:
                self._facts[key] = None
                self._leave_out(model, str(error))
        return self._facts[key]

    def _offer(
        self, key: FileKey, model: StoredModel, facts: GgufFacts, offered: dict[str, tuple[FileKey, Order]]
    ) -> Capability | None:
        budget = self._runners.budget_bytes
        plan = plan_for(facts, budget)
        if plan.need_bytes > budget:
            need, most = plan.need_bytes / GIB, budget / GIB
            self._leave_out(model, f"it needs {need:.1f} GiB of memory, and models may have {most:.1f} GiB here")
            return None
        if why := self._runners.why_not(key):
            self._leave_out(model, why)
            return None
        capability = describe(model, facts, plan)
        if capability is not None:
            label = f"The model {model.name} {model.version}"
            offered[capability.id] = key, Order(label, model.path, facts, plan, threads_here())
        return capability

    def _leave_out(self, model: StoredModel, why: str) -> None:
        self._tell(f"model {model.name} {model.version} is left out: {why}")

    def _tell(self, text: str) -> None:
        """Logs something once."""
        if text not in self._told and len(self._told) < TOLD_MOST:
            self._told.add(text)
            log.warning("%s", text)

    def ignored(self, call: Call) -> tuple[str, ...]:
        """Returns the fields that llama.cpp does not honour."""
        return ignored_fields(call.operation, call.body)

    async def prepare(self, call: Call) -> None:
        """Loads the model."""
        await self._runners.prepare(*self._wanted(call))

    async def execute(self, call: Call) -> AsyncGenerator[Part, None]:
        """Runs one request."""
        key, order = self._wanted(call)
        body = request_body(call.operation, call.body, order.plan.slots)
        async with self._runners.lease(key, order) as process:
            try:
                async with aclosing(_parts(process, replace(call, body=body))) as parts:
                    async for part in parts:
                        yield part  # noqa: ASYNC119 - whoever executes closes the generator
            except RequestError as error:
                raise await self._told_better(error, call, process) from error

    def _wanted(self, call: Call) -> tuple[FileKey, Order]:
        wanted = self._offered.get(call.capability.id)
        if wanted is None:
            raise RequestError(404, f"The model {call.capability.model} was removed.", code="model_not_found")
        return wanted

    async def _told_better(self, error: RequestError, call: Call, process: GgufProcess) -> RequestError:
        """Returns an error of the server with what the node knows of its process."""
        if better := too_long(call.operation, call.capability.model, error.message):
            return better
        if error.status == 504:
            await self._runners.end(process)
        elif error.status == 502 and await process.has_ended():
            text = f"The process that runs {call.capability.model} {process.how_it_ended()}. Try again."
            return RequestError(502, text, kind="server_error", code="model_process_ended", retry_s=1)
        return error

    def loads(self) -> list[Object]:
        """Returns what is loaded, with its memory and how long its load took; the others are loaded when asked."""
        rows = []
        for capability, (key, order) in self._offered.items():
            process = self._runners.loaded().get(key)
            rows.append(
                {
                    "capability": capability,
                    "loaded": process is not None,
                    "need_bytes": order.plan.need_bytes,
                    "resident_bytes": process.resident_bytes() if process else 0,
                    "load_ms": self._runners.load_ms.get(key),
                }
            )
        return rows

    async def aclose(self) -> None:
        """Ends all models."""
        await self._runners.aclose()


async def _parts(process: GgufProcess, call: Call) -> AsyncGenerator[Part, None]:
    if call.operation == EMBEDDINGS:
        yield await process.upstream.embed(call)
        return
    text = call.operation == COMPLETIONS
    older = text and call.body.get("logprobs") is not None
    offsets: dict[int, int] = {}
    whole = None if call.stream else Whole(text)
    if whole is not None:
        call = replace(call, stream=True, body={**call.body, "stream_options": {"include_usage": True}})
    async with aclosing(process.upstream.chat(call)) as parts:
        async for part in parts:
            if older:
                part = plain_logprobs(as_object(part), offsets)
            if whole is None:
                yield part  # noqa: ASYNC119 - the caller closes it
            else:
                whole.add(as_object(part))
    if whole is not None:
        yield whole.answer()


def describe(model: StoredModel, facts: GgufFacts, plan: Plan) -> Capability | None:
    """Returns what the mesh hears of a model; None where its name is too long for an advert."""
    features = {JSON_SCHEMA} | ({TOOLS} if facts.takes_tools else set())
    told = ModelFacts(
        operations=frozenset({EMBEDDINGS if facts.embeds else CHAT}),
        features=frozenset(features),
        family=facts.architecture,
        size=_size(facts.parameters),
        context=plan.context,
        quantisation=facts.quantization,
        device="cpu",
        note=model.description,
    )
    terms = Terms("llama.cpp", "gguf", "gguf", plan.slots)
    found = capabilities_of(model.name, told, terms)
    return replace(found[0], id=_capability_id(model), version=model.version) if found else None


def _size(parameters: int) -> str:
    return f"{parameters / 1e9:.2f}B" if parameters >= 1e8 else f"{parameters / 1e6:.3g}M"


def _capability_id(model: StoredModel) -> str:
    name = f"{model.name}@{model.version}"
    if len(name) > limits.NAME_CHARS - len("gguf:"):
        name = hashlib.blake2b(name.encode(), digest_size=16).hexdigest()
    return f"gguf:{name}"
