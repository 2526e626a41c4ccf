"""Whatever JSON a server sends, it is read or refused; nothing else happens."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atmo.backends.found import _is_model_list
from atmo.backends.llamafarm import _device, _is_runtime, _is_server
from atmo.backends.llamafarm_ml import classifiers, detectors
from atmo.backends.llamafarm_names import disk_models, loaded_models, projects_of
from atmo.backends.llm_capabilities import Terms, capabilities_of
from atmo.backends.llm_names import ModelFacts
from atmo.backends.model_rows import facts_of, props_facts, rows_of
from atmo.backends.ollama_native import NativeAnswer
from atmo.backends.openai_shapes import BadAnswer, ChunkStream, parse_json, usage_in
from atmo.backends.text_shapes import TextStream, text_completion

WORDS = (
    "id", "object", "data", "models", "projects", "name", "namespace", "config", "type", "labels", "filename",
    "capabilities", "architecture", "input_modalities", "output_modalities", "meta", "n_params", "max_model_len",
    "datasets", "databases", "mcp", "servers", "message", "content", "thinking", "tool_calls", "function", "rag",
    "done", "done_reason", "arguments", "backend", "eval_count", "logprobs", "choices", "text", "index",
    "finish_reason", "usage", "error", "response", "modalities", "default_generation_settings",
    "chat_template_caps", "n_ctx", "supported_parameters", "model", "list", "vlm", "chat", "language", "device",
    "health", "status", "loaded_models", "components", "vision",
)  # fmt: skip
texts = st.sampled_from(WORDS) | st.text(max_size=8)
anything: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=6),
    max_leaves=25,
)
TERMS = Terms("a server", "openai:x", "openai", 1)


@given(anything)
def test_lists_of_models(value: Any) -> None:
    try:
        rows = rows_of(value)
    except BadAnswer:
        rows = []
    for row in [*rows, *([{**value, "id": "m"}] if isinstance(value, dict) else [])]:
        facts = facts_of(row)
        capabilities_of(str(row["id"]), facts, TERMS)
        props_facts(facts, value)
    props_facts(ModelFacts(), value)
    assert _is_model_list(value) in (True, False)


@given(anything)
def test_what_llamafarm_may_say(value: Any) -> None:
    for read in (projects_of, disk_models, loaded_models, detectors, classifiers, _is_server, _is_runtime):
        read(value)
        read({"data": [value], "projects": [value]})
    if isinstance(value, dict):
        assert _device(value) in ("", "cpu", "gpu")


@given(st.lists(anything, max_size=4), st.booleans())
def test_answers_of_ollama_and_completions(values: list[Any], chat: bool) -> None:
    answer, stream = NativeAnswer("m", "r", chat=chat), TextStream("m", "r", wants_usage=True)
    for value in values:
        for read in (
            lambda body: list(answer.chunks(body)),
            lambda body: NativeAnswer("m", "r", chat=chat).whole(body),
            lambda body: text_completion(body, "m", "r"),
            stream.chunk,
        ):
            try:
                read(value)
            except BadAnswer:
                continue
    answer.usage_chunk()
    stream.ending()


def test_a_flood_of_tool_calls_is_refused_at_once() -> None:
    stream = ChunkStream("m", "r", wants_usage=False)
    flood = {"choices": [{"index": 0, "delta": {"tool_calls": [{} for _ in range(250_000)]}}]}
    with pytest.raises(BadAnswer, match="more than 1024 tools"):
        stream.chunk(flood)
    pieces = {"choices": [{"index": 0, "delta": {"tool_calls": [{"index": 0, "function": {}}] * 250_000}}]}
    assert ChunkStream("m", "r", wants_usage=False).chunk(pieces) is not None


def test_numbers_that_nobody_can_mean_are_not_believed() -> None:
    stream = ChunkStream("m", "r", wants_usage=False)
    for index in (10**400, 10**9, -1, True, 2.0, None):
        part = stream.chunk({"created": 10**400, "choices": [{"index": index, "delta": {"content": "a"}}]})
        assert part is not None
        assert part["choices"][0]["index"] == 0
        assert part["created"] < 2**53
    called = stream.chunk({"choices": [{"delta": {"tool_calls": [{"index": 10**400, "id": "a", "function": {}}]}}]})
    assert called is not None
    assert called["choices"][0]["delta"]["tool_calls"][0]["index"] == 0
    (last,) = stream.ending()
    assert len(last["choices"]) == 1


def test_names_that_are_too_long_are_not_looked_at() -> None:
    assert rows_of({"data": [{"id": "x" * 4_000_000}, {"id": "m"}]}) == [{"id": "m"}]


def test_tool_calls_are_counted_over_all_choices() -> None:
    stream = ChunkStream("m", "r", wants_usage=False)
    for choice in range(512):
        stream.chunk({"choices": [{"index": choice, "delta": {"tool_calls": [{"index": 0}, {"index": 1}]}}]})
    with pytest.raises(BadAnswer, match="more than 1024 tools"):
        stream.chunk({"choices": [{"index": 600, "delta": {"tool_calls": [{"index": 0}]}}]})


@pytest.mark.parametrize("count", [10**400, 2**53, -1, 1.5, True, "7", None])
def test_counts_that_no_client_can_read_are_not_passed_on(count: Any) -> None:
    usage = usage_in({"usage": {"prompt_tokens": count, "completion_tokens": 3, "total_tokens": count}})
    assert (usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]) == (0, 3, 3)


@pytest.mark.parametrize("word", ["NaN", "Infinity", "-Infinity"])
def test_numbers_that_json_does_not_know_are_null(word: str) -> None:
    assert parse_json(f'{{"logprob": {word}}}'.encode()) == {"logprob": None}
    assert parse_json(f'{{"text": "{word}"}}'.encode()) == {"text": word}
