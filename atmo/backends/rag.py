"""The backend `rag`: chat models that answer from folders of documents, always with their sources.

A general language model of the mesh writes the answer from the passages that were found. Where there is none, the
answer quotes the passages and says so; where nothing fits, it says that.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trio

from atmo.backends.base import Backend, Call, Part
from atmo.backends.chat_answer import ChatAnswer, text_of, usage_of
from atmo.backends.embedder import Embedder
from atmo.backends.honoured import unhonoured
from atmo.backends.passage_index import RELEVANT, Hit, PassageIndex
from atmo.backends.rag_texts import (
    Question,
    describe,
    examples,
    nothing_found_text,
    prompt_messages,
    question_of,
    quoting_text,
    sources_text,
)
from atmo.errors import RequestError
from atmo.router.capability import CHAT, Capability

Generate = Callable[[dict[str, Any], bool, str], AsyncGenerator[dict[str, Any], None] | None]
"""Asks a general language model of the mesh: takes a chat body without `model`, whether to stream, and the trace.

Returns None where the mesh has no such model, else the parts: one body, or chunks. The generator may raise
`RequestError`, and is closed when its user is.
"""

FORWARDED = (
    "temperature",
    "top_p",
    "max_tokens",
    "max_completion_tokens",
    "stop",
    "seed",
    "presence_penalty",
    "frequency_penalty",
    "user",
    "atmosphere",
)
"""Fields of the client's body that the language model gets. Tools and answer formats are not: sources are appended."""

PASSAGES_FOR_A_MODEL = 5
PASSAGES_QUOTED = 3
QUOTED_SHARE = 0.75
"""A further passage is quoted if its score is at least this share of the best one's. Source: guess."""

EMBED_S = 1.0
"""Time that one discovery spends on embedding. The pool waits 2 s for the first one."""

WAIT_FOR_INDEX_S = 10.0
"""How long a question waits for documents that are not embedded yet, as right after the start."""

RECHECK_S = 10.0
RECHECK_PENDING_S = 0.5

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RagProject:
    """A folder of documents under a name.

    Attributes:
        name: The model name of requests.
        folder: Markdown and text files, read anew when they change.
        description: What they are about, for routing by meaning.
        examples: Questions they answer, at most 32; headings are added by themselves.
    """

    name: str
    folder: Path
    description: str = ""
    examples: tuple[str, ...] = ()


DOCS_EXAMPLES = (
    "What is Atmosphere and what can it do?",
    "How do I install Atmosphere and start a node?",
    "How do I add another machine to the mesh?",
    "What is a join code, and how long is it valid?",
    "The join code is refused or has expired.",
    "How do I remove a lost or stolen machine from the mesh?",
    "List the nodes of the mesh and their roles.",
    "The nodes do not see each other.",
    "Which ports must the firewall let through?",
    "The port of the endpoint is already in use.",
    "How do I import an ONNX or scikit-learn model?",
    "How do I pull a model from another machine?",
    "Which versions of a model are there, and where is it stored?",
    "Why was this request routed to that node?",
    "How does the model name auto choose a model and a node for my request?",
    "How do I use the OpenAI client and the Responses API with the local endpoint?",
    "What does an error 401, 404, 429 or 503 of the endpoint mean?",
    "How do I connect Ollama, vLLM or a cloud provider with an API key?",
    "Ollama's models are missing in the mesh.",
    "How do I make sentence embeddings with the built-in embedder?",
    "How do I train a classifier or a forecast on my data?",
    "How do I detect anomalies in sensor readings?",
    "How can I ask questions about my own documents and notes?",
    "Is the traffic between nodes encrypted, and who can join?",
    "Are pickle model files dangerous?",
    "Where are the settings of a node, config.json, and its home folder, ATMO_HOME?",
    "What can I do in the atmo shell?",
    "How do I make, limit or revoke an API key of the endpoint?",
    "How do I open the endpoint to the network or my phone?",
    "How do I run a GGUF model with llama.cpp?",
    "What are the modes of a node: provider, standalone, headless?",
    "How do I watch a node: metrics for Prometheus, access log, traces?",
)
"""What people ask; headings of the guide fill the rest of what a capability may tell."""


def builtin_docs() -> RagProject | None:
    """Returns the project `atmosphere-docs`, the user guide in the package; None where somebody left it out."""
    folder = Path(__file__).parent / "data" / "docs"
    if not folder.is_dir():
        return None
    return RagProject(
        "atmosphere-docs",
        folder,
        "Answers questions about Atmosphere, this mesh of machines, and its command atmo, from the user guide.",
        DOCS_EXAMPLES,
    )


class RagBackend(Backend):
    """Offers one chat capability for each project that has documents.

    Args:
        projects: With distinct names.
        embedder: Shared.
        generate: Asks a language model; see `Generate`.
        cache: A folder for vectors, so that a restart does not embed all documents again.
    """

    name = "rag"
    delegates = True  # a general model writes the answer, which takes a place where it runs

    def __init__(
        self,
        projects: Sequence[RagProject],
        embedder: Embedder,
        generate: Generate | None = None,
        cache: Path | None = None,
    ) -> None:
        self.recheck_s = RECHECK_S
        self._embedder = embedder
        self._generate = generate
        self._projects = {f"rag:{project.name}": project for project in projects}
        self._indexes = {
            key: PassageIndex(project.folder, embedder, cache / f"{project.name}.npz" if cache else None)
            for key, project in self._projects.items()
        }
        assert len(self._projects) == len(projects), "two projects share a name"

    async def discover(self) -> Sequence[Capability]:
        """Reads what changed in the folders; a project with nothing to read is not offered."""
        deadline = trio.current_time() + EMBED_S
        for index in self._indexes.values():
            await index.refresh(max(0.0, deadline - trio.current_time()))
        pending = any(index.pending for index in self._indexes.values())
        self.recheck_s = RECHECK_PENDING_S if pending else RECHECK_S
        return [self._capability(key) for key, index in self._indexes.items() if index.passages]

    def execute(self, call: Call) -> AsyncGenerator[Part, None]:
        """Answers the last thing the user said; see the module.

        Raises:
            RequestError: 400 without a question, 404 for an unknown project, or what the language model says.
        """
        return self._stream(call) if call.stream else self._whole(call)

    def ignored(self, call: Call) -> tuple[str, ...]:
        """Returns what the request asks for beyond what is forwarded; what is quoted is the same each time anyway."""
        return unhonoured(call.body, FORWARDED)

    def _capability(self, key: str) -> Capability:
        project = self._projects[key]
        headings = [passage.headings for passage in self._indexes[key].passages]
        return Capability(
            id=key,
            operation=CHAT,
            model=project.name,
            description=describe(project.name, project.description, headings),
            examples=examples(project.examples, headings),
            concurrency=4,
            backend=self.name,
        )

    async def _whole(self, call: Call) -> AsyncGenerator[Part, None]:
        answer = ChatAnswer(call)
        question, hits = await self._find(call)
        written = self._ask(call, answer, question, hits)
        trouble = ""
        if written is not None:
            try:
                async with aclosing(written):
                    body = _with_sources(await anext(written, {}), sources_text(hits))
            except RequestError as error:
                trouble = self._note(call, error)
            else:
                yield answer.stamped(body)
                return
        text, reason = await self._text(call, hits, trouble)
        yield answer.body(text, await self._usage(question, text), reason)

    async def _stream(self, call: Call) -> AsyncGenerator[Part, None]:
        answer = ChatAnswer(call)
        question, hits = await self._find(call)
        written = self._ask(call, answer, question, hits)
        trouble = ""
        if written is not None:
            relay = _Relay(answer, sources_text(hits))
            try:
                async for part in written:
                    for chunk in relay.passed_on(part):
                        yield chunk
                for chunk in relay.end():
                    yield chunk
            except RequestError as error:
                if relay.begun:
                    raise
                trouble = self._note(call, error)
            else:
                return
            finally:
                await written.aclose()
        text, reason = await self._text(call, hits, trouble)
        for words in answer.text_chunks(text, reason):
            await trio.lowlevel.checkpoint()
            yield words
        if answer.wants_usage:
            yield answer.usage_chunk(await self._usage(question, text))

    def _note(self, call: Call, error: RequestError) -> str:
        log.warning("%s quotes, for the language model failed: %s", call.capability.model, error.message)
        return error.message

    async def _find(self, call: Call) -> tuple[Question, list[Hit]]:
        index = self._indexes.get(call.capability.id)
        if index is None:
            message = f"{call.capability.model} is not a project of this machine any more. See /v1/models."
            raise RequestError(404, message, code="model_not_found", param="model")
        question = question_of(call.body)
        with trio.move_on_after(WAIT_FOR_INDEX_S):
            while index.pending:
                await index.refresh(EMBED_S)
        hits = await index.search(question.search, PASSAGES_FOR_A_MODEL)
        return question, [hit for hit in hits if hit.score >= RELEVANT]

    def _ask(
        self, call: Call, answer: ChatAnswer, question: Question, hits: Sequence[Hit]
    ) -> AsyncGenerator[dict[str, Any], None] | None:
        """Asks a language model; None where there is none or nothing to write from."""
        if self._generate is None or not hits:
            return None
        body: dict[str, Any] = {name: call.body[name] for name in FORWARDED if call.body.get(name) is not None}
        body["messages"] = prompt_messages(self._projects[call.capability.id].name, question, hits)
        if call.stream:
            body["stream"] = True
            if answer.wants_usage:
                body["stream_options"] = {"include_usage": True}
        return self._generate(body, call.stream, call.trace)

    async def _text(self, call: Call, hits: Sequence[Hit], trouble: str) -> tuple[str, str]:
        """Returns the answer of a machine without a language model, and why it ends where it does."""
        return await trio.to_thread.run_sync(self._limited, call.body, self._quoted(call, hits, trouble))

    def _limited(self, body: Mapping[str, Any], text: str) -> tuple[str, str]:
        stop = body.get("stop") or ()
        found = [text.find(word) for word in ([stop] if isinstance(stop, str) else stop) if word]
        text = text[: min((at for at in found if at >= 0), default=len(text))]
        most = body.get("max_completion_tokens") or body.get("max_tokens")
        short = text if most is None else self._embedder.beginning(text, most)
        return short, "stop" if short == text else "length"

    def _quoted(self, call: Call, hits: Sequence[Hit], trouble: str) -> str:
        key = call.capability.id
        if not hits:
            headings = [passage.headings for passage in self._indexes[key].passages]
            return nothing_found_text(self._projects[key].name, headings, self._indexes[key].pending)
        near = [hit for hit in hits if hit.score >= hits[0].score * QUOTED_SHARE][:PASSAGES_QUOTED]
        return quoting_text(self._projects[key].name, near, trouble)

    async def _usage(self, question: Question, text: str) -> dict[str, int]:
        def count() -> tuple[int, int]:
            return self._embedder.count_tokens(question.text), self._embedder.count_tokens(text)

        return usage_of(*await trio.to_thread.run_sync(count))


def _with_sources(body: Mapping[str, Any], sources: str) -> dict[str, Any]:
    """Returns a completion with the sources at the end of each choice's text."""
    choices = []
    for choice in _choices(body):
        message = choice.get("message")
        message = dict(message) if isinstance(message, Mapping) else {"role": "assistant"}
        message["content"] = text_of(message.get("content")).rstrip() + sources
        choices.append({**choice, "message": message})
    if not choices:
        raise _no_text()
    return {"object": "chat.completion", **body, "choices": choices}


class _Relay:
    """Passes the stream of a language model on, with the sources before the chunk that ends it."""

    def __init__(self, answer: ChatAnswer, sources: str) -> None:
        self.begun = False
        self._answer = answer
        self._sources = sources
        self._ended = False

    def passed_on(self, part: Mapping[str, Any]) -> Iterator[Part]:
        """Yields what the client gets for one chunk of the language model."""
        choices = _choices(part)
        if not choices:
            if self._answer.wants_usage and isinstance(part.get("usage"), Mapping):
                yield self._answer.stamped(part)
            return
        self.begun = True
        reason = choices[0].get("finish_reason")
        if reason is None or self._ended:
            yield self._answer.stamped(part)
            return
        self._ended = True
        if choices[0].get("delta"):
            yield self._answer.stamped({**part, "choices": [{**choices[0], "finish_reason": None}]})
        yield self._answer.chunk({"content": self._sources})
        yield self._answer.stamped({**part, "choices": [{**choices[0], "delta": {}}]})

    def end(self) -> Iterator[Part]:
        """Yields what is missing when the language model's stream has ended.

        Raises:
            RequestError: 502, there was nothing in it.
        """
        if not self.begun:
            raise _no_text()
        if not self._ended:
            yield self._answer.chunk({"content": self._sources})
            yield self._answer.chunk({}, "stop")


def _no_text() -> RequestError:
    return RequestError(502, "the language model sent an empty answer", kind="api_error", code="bad_answer")


def _choices(part: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    choices = part.get("choices")
    return [choice for choice in choices if isinstance(choice, Mapping)] if isinstance(choices, list) else []
