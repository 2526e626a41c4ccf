"""The `rag` backend: quoting, writing through a language model, and saying that there is nothing."""

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from atmo.backends.base import Backend, Call, Object, as_object
from atmo.backends.embedder import Embedder
from atmo.backends.rag import RECHECK_PENDING_S, RECHECK_S, RagBackend, RagProject, builtin_docs
from atmo.backends.rag_texts import describe, examples
from atmo.errors import RequestError
from atmo.router.capability import CHAT, Capability
from atmo.wire.schema import pack, unpack_untrusted

EMBEDDER = Embedder()
ON_TOPIC = "When is the library open?"
OFF_TOPIC = "Which enzyme splits lactose?"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "town.md").write_text(
        "# The town\n\n## Library\n\nThe library is open from nine to six, on Saturdays until noon.\n\n"
        "## Swimming pool\n\nThe pool is closed for repairs until June."
    )
    return tmp_path


Backends = Callable[..., RagBackend]


@pytest.fixture
def backend(folder: Path) -> Backends:
    def build(generate: Any = None) -> RagBackend:
        return RagBackend([RagProject("town", folder, "Opening hours in our town")], EMBEDDER, generate)

    return build


class Model:
    """Stands for the mesh's language model: hands out prepared parts and keeps what it was asked."""

    def __init__(self, *parts: Object | RequestError) -> None:
        self.parts = parts
        self.asked: list[tuple[dict[str, Any], bool]] = []
        self.closed = 0

    def __call__(self, body: dict[str, Any], stream: bool, trace: str) -> AsyncGenerator[Object, None]:
        self.asked.append((body, stream))
        return self._answer()

    async def _answer(self) -> AsyncGenerator[Object, None]:
        try:
            for part in self.parts:
                if isinstance(part, RequestError):
                    raise part
                yield part
        finally:
            self.closed += 1


def completion(text: str | None) -> Object:
    message = {"role": "assistant", "content": text}
    return {
        "id": "theirs",
        "object": "chat.completion",
        "created": 1,
        "model": "llama",
        "choices": [{"index": 0, "message": message, "finish_reason": "length"}],
        "usage": {"prompt_tokens": 100, "completion_tokens": 7, "total_tokens": 107},
    }


def chunk(delta: dict[str, Any] | None, finish_reason: str | None = None, **more: Any) -> Object:
    choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": finish_reason}]
    return {
        "id": "theirs",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "llama",
        "choices": choices,
        **more,
    }


DOWN = RequestError(502, "n2: llama failed.")


async def ask(backend: RagBackend, text: Any = ON_TOPIC, *, stream: bool = False, **body: Any) -> list[Object]:
    (capability,) = await backend.discover()
    messages = body.pop("messages", [{"role": "user", "content": text}])
    call = Call(capability, {"messages": messages, **body}, stream, "r1")
    async with aclosing(backend.execute(call)) as parts:
        return [as_object(part) async for part in parts]


async def answer(backend: RagBackend, text: Any = ON_TOPIC, **body: Any) -> str:
    (part,) = await ask(backend, text, **body)
    content = ChatCompletion.model_validate(part).choices[0].message.content
    assert content is not None
    return content


def joined(parts: list[Object]) -> str:
    chunks = [ChatCompletionChunk.model_validate(part) for part in parts]
    assert {chunk.id for chunk in chunks} == {"chatcmpl-r1"}
    assert {chunk.model for chunk in chunks} == {"town"}
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)


async def test_the_capability(backend: Backends) -> None:
    rag: Backend = backend()
    (capability,) = await rag.discover()
    assert (capability.id, capability.operation, capability.model) == ("rag:town", CHAT, "town")
    assert capability.description == "Opening hours in our town It covers: The town; Library; Swimming pool."
    assert capability.examples == ("The town", "Swimming pool")
    assert not capability.general
    assert unpack_untrusted(Capability, pack(capability)) == capability


async def test_adverts_hold_no_paths(backend: Backends, folder: Path) -> None:
    (capability,) = await backend().discover()
    assert str(folder) not in str(capability)
    assert "town.md" not in str(capability)


async def test_quotes_with_sources_where_there_is_no_language_model(backend: Backends) -> None:
    text = await answer(backend())
    assert text.startswith("No language model is available in the mesh, so I quote what town says:")
    assert "> The library is open from nine to six" in text
    assert text.endswith("Sources:\n[1] town.md#Library")


async def test_the_mesh_may_have_no_language_model_at_the_moment(backend: Backends) -> None:
    assert "No language model is available" in await answer(backend(lambda body, stream, trace: None))


async def test_says_that_nothing_was_found_and_asks_no_model(backend: Backends) -> None:
    model = Model(completion("invented"))
    text = await answer(backend(model), OFF_TOPIC)
    assert text == (
        "I found nothing about this in the documents of town. They are about: The town; Library; Swimming pool."
    )
    assert model.asked == []


async def test_usage_is_counted(backend: Backends) -> None:
    (part,) = await ask(backend())
    usage = part["usage"]
    assert usage["prompt_tokens"] == EMBEDDER.count_tokens(ON_TOPIC)
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert usage["completion_tokens"] > 20


async def test_streaming_gives_the_same_text(backend: Backends) -> None:
    parts = await ask(backend(), stream=True)
    assert joined(parts) == await answer(backend())
    assert parts[0]["choices"][0]["delta"]["role"] == "assistant"
    assert parts[-1]["choices"][0] == {"index": 0, "delta": {}, "logprobs": None, "finish_reason": "stop"}
    assert not any("usage" in part for part in parts)


async def test_usage_of_a_stream_when_asked_for(backend: Backends) -> None:
    *parts, last = await ask(backend(), stream=True, stream_options={"include_usage": True})
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] > 20
    assert not any("usage" in part for part in parts)


async def test_a_language_model_writes_the_answer(backend: Backends) -> None:
    model = Model(completion("From nine to six [1]."))
    (part,) = await ask(backend(model), temperature=0.2, max_tokens=50, tools=[{}], n=3, model="town")
    assert part["choices"][0]["message"]["content"] == "From nine to six [1].\n\nSources:\n[1] town.md#Library"
    assert part["choices"][0]["finish_reason"] == "length"
    assert (part["id"], part["model"], part["usage"]["total_tokens"]) == ("chatcmpl-r1", "town", 107)
    ((body, stream),) = model.asked
    assert not stream
    assert set(body) == {"messages", "temperature", "max_tokens"}
    system, question = body["messages"]
    assert system["role"] == "system"
    assert "[1] town.md#Library\nThe library is open from nine to six" in system["content"]
    assert question == {"role": "user", "content": ON_TOPIC}
    assert model.closed == 1


async def test_a_language_model_streams_the_answer(backend: Backends) -> None:
    model = Model(
        chunk({"role": "assistant", "content": ""}),
        chunk({"content": "From nine"}),
        chunk({"content": " to six."}, "length"),
        chunk(None, usage={"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}),
    )
    parts = await ask(backend(model), stream=True, stream_options={"include_usage": True})
    assert joined(parts) == "From nine to six.\n\nSources:\n[1] town.md#Library"
    assert [part["choices"][0]["finish_reason"] for part in parts[:-1]] == [None, None, None, None, "length"]
    assert parts[-1]["usage"]["total_tokens"] == 3
    ((body, stream),) = model.asked
    assert stream
    assert body["stream_options"] == {"include_usage": True}


async def test_usage_of_the_language_model_is_kept_from_who_did_not_ask(backend: Backends) -> None:
    model = Model(chunk({"content": "Yes."}), chunk({}, "stop"), chunk(None, usage={"total_tokens": 3}))
    parts = await ask(backend(model), stream=True)
    assert all(part["choices"] for part in parts)
    assert "stream_options" not in model.asked[0][0]


async def test_a_stream_without_an_end_gets_one(backend: Backends) -> None:
    parts = await ask(backend(Model(chunk({"content": "Yes."}))), stream=True)
    assert joined(parts).endswith("Sources:\n[1] town.md#Library")
    assert parts[-1]["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize("parts", [(DOWN,), (), ({},), ({"choices": []},), ({"choices": ["x"]},), ({"choices": 3},)])
@pytest.mark.parametrize("stream", [False, True])
async def test_quotes_when_the_language_model_fails_at_once(
    backend: Backends, parts: tuple[Any, ...], stream: bool
) -> None:
    model = Model(*parts)
    answered = await ask(backend(model), stream=stream)
    text = joined(answered) if stream else answered[0]["choices"][0]["message"]["content"]
    why = DOWN.message if parts == (DOWN,) else "the language model sent an empty answer"
    assert text.startswith(f"The language model could not answer ({why}), so I quote what town says:")
    assert "> The library is open" in text
    assert model.closed == 1


async def test_a_failure_in_mid_stream_is_told(backend: Backends) -> None:
    with pytest.raises(RequestError, match="llama failed"):
        await ask(backend(Model(chunk({"content": "From"}), DOWN)), stream=True)


async def test_closing_the_answer_closes_the_language_model(backend: Backends) -> None:
    model = Model(*[chunk({"content": "word "})] * 100)
    rag = backend(model)
    (capability,) = await rag.discover()
    parts = rag.execute(Call(capability, {"messages": [{"role": "user", "content": ON_TOPIC}]}, stream=True))
    await anext(parts)
    await parts.aclose()
    assert model.closed == 1


async def test_an_answer_without_text_is_the_sources(backend: Backends) -> None:
    assert await answer(backend(Model(completion(None)))) == "\n\nSources:\n[1] town.md#Library"


async def test_content_in_parts_and_short_follow_ups(backend: Backends) -> None:
    parts = [{"type": "text", "text": ON_TOPIC}, {"type": "image_url", "image_url": {"url": "x"}}]
    assert "[1] town.md#Library" in await answer(backend(), parts)
    model = Model(completion("Until noon."))
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": ON_TOPIC},
        {"role": "assistant", "content": "From nine to six."},
        {"role": "user", "content": "And on Saturdays?"},
    ]
    assert "town.md#Library" in await answer(backend(model), messages=messages)
    asked = model.asked[0][0]["messages"]
    assert [message["role"] for message in asked] == ["system", "user", "assistant", "user"]
    assert asked[-1]["content"] == "And on Saturdays?"
    assert "Be brief" not in asked[0]["content"]


async def test_a_long_conversation_is_cut(backend: Backends) -> None:
    model = Model(completion("Yes."))
    turn = [{"role": "user", "content": "x" * 9_000}, {"role": "assistant", "content": "y" * 9_000}]
    await answer(backend(model), messages=[*turn * 50, {"role": "user", "content": ON_TOPIC}])
    asked = model.asked[0][0]["messages"]
    assert len(asked) == 8
    assert max(len(message["content"]) for message in asked[1:]) == 2_000


@pytest.mark.parametrize(
    "messages",
    [
        None,
        [],
        "x",
        ["x"],
        [{"role": "system", "content": "x"}],
        [{"role": "user", "content": " "}],
        [{"role": "user", "content": [{"type": "image_url"}]}],
        [{"role": "user"}],
    ],
)
async def test_without_a_question(backend: Backends, messages: Any) -> None:
    with pytest.raises(RequestError, match="no text of the user") as info:
        await ask(backend(), messages=messages)
    assert (info.value.status, info.value.param) == (400, "messages")


async def test_a_project_that_is_gone(backend: Backends) -> None:
    call = Call(Capability("rag:other", CHAT, "other"), {"messages": [{"role": "user", "content": "x"}]})
    with pytest.raises(RequestError, match="not a project of this machine any more") as info:
        async with aclosing(backend().execute(call)) as parts:
            await anext(parts)
    assert info.value.status == 404


async def test_projects_without_documents_are_not_offered(tmp_path: Path) -> None:
    rag = RagBackend([RagProject("empty", tmp_path), RagProject("gone", tmp_path / "gone")], EMBEDDER)
    assert await rag.discover() == []
    (tmp_path / "a.md").write_text("hello")
    assert [item.model for item in await rag.discover()] == ["empty"]


async def test_what_is_left_to_embed_is_asked_for_soon(backend: Backends, monkeypatch: pytest.MonkeyPatch) -> None:
    rag = backend()
    monkeypatch.setattr("atmo.backends.rag.EMBED_S", 0.0)
    await rag.discover()
    assert rag.recheck_s == RECHECK_PENDING_S
    monkeypatch.setattr("atmo.backends.rag.EMBED_S", 60.0)
    await rag.discover()
    assert rag.recheck_s == RECHECK_S


async def test_a_question_waits_until_the_documents_are_embedded(
    backend: Backends, monkeypatch: pytest.MonkeyPatch
) -> None:
    rag = backend()
    monkeypatch.setattr("atmo.backends.rag.EMBED_S", 0.0)
    (capability,) = await rag.discover()
    monkeypatch.setattr("atmo.backends.rag.EMBED_S", 60.0)
    call = Call(capability, {"messages": [{"role": "user", "content": ON_TOPIC}]})
    async with aclosing(rag.execute(call)) as parts:
        assert "town.md#Library" in as_object(await anext(parts))["choices"][0]["message"]["content"]


async def test_it_says_when_the_documents_are_not_all_indexed(
    backend: Backends, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("atmo.backends.rag.EMBED_S", 0.0)
    monkeypatch.setattr("atmo.backends.rag.WAIT_FOR_INDEX_S", 0.0)
    assert (await answer(backend(), OFF_TOPIC)).endswith("2 passages are not indexed yet: ask again in a few minutes.")


async def test_vectors_are_kept_in_the_cache_folder(folder: Path, tmp_path: Path) -> None:
    rag = RagBackend([RagProject("town", folder)], EMBEDDER, cache=tmp_path / "cache")
    await rag.discover()
    assert (tmp_path / "cache" / "town.npz").is_file()


def test_descriptions_and_examples_are_bounded() -> None:
    headings = [("Top", f"A heading that is rather long, number {index}") for index in range(200)]
    text = describe("x", "About many things.", headings)
    assert text.startswith("About many things. It covers: Top; A heading")
    assert 900 < len(text) <= 1_024
    assert describe("x", "y" * 2_000, headings) == "y" * 1_024
    assert describe("x", "", []) == "Answers questions from the documents of the project x."
    given = examples(("What?", " ", "z" * 600), headings)
    assert given[:3] == ("What?", "z" * 512, headings[0][1])
    assert len(given) == 32


def test_the_documentation_is_shipped() -> None:
    project = builtin_docs()
    assert project is not None
    assert project.name == "atmosphere-docs"
    assert len(list(project.folder.glob("*.md"))) >= 8
