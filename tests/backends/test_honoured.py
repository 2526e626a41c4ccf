"""Fields that a backend leaves aside are named; those that change nothing are not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from atmo.backends.base import Call
from atmo.backends.embedder import Embedder
from atmo.backends.embeddings import EmbeddingsBackend
from atmo.backends.honoured import MOST, MOST_CHARS, unhonoured
from atmo.backends.rag import RagBackend, RagProject

EMBEDDER = Embedder()
LOUD: list[tuple[str, Any]] = [
    ("n", 2),
    ("seed", 0),
    ("logprobs", True),
    ("logit_bias", {"5": -100}),
    ("tools", [{"type": "function"}]),
    ("response_format", {"type": "json_object"}),
    ("presence_penalty", 0.5),
    ("something_new", "x"),
    ("temperature", 0),
    ("top_p", 0.0),
    ("parallel_tool_calls", False),
    ("enable_thinking", False),
]
QUIET: list[tuple[str, Any]] = [
    ("model", "auto"),
    ("n", 1),
    ("seed", None),
    ("logprobs", False),
    ("logit_bias", {}),
    ("tools", []),
    ("response_format", {"type": "text"}),
    ("presence_penalty", 0),
    ("tool_choice", "auto"),
    ("metadata", {"a": "b"}),
    ("parallel_tool_calls", True),
    ("prompt_cache_retention", "24h"),
    ("stream_options", {"include_usage": True}),
]


@pytest.mark.parametrize(("name", "value"), LOUD)
def test_what_changes_meaning_is_named(name: str, value: Any) -> None:
    assert unhonoured({name: value}, ()) == (name,)
    assert unhonoured({name: value}, (name,)) == ()


@pytest.mark.parametrize(("name", "value"), QUIET)
def test_what_changes_nothing_is_not(name: str, value: Any) -> None:
    assert unhonoured({name: value}, ()) == ()


def test_names_are_the_clients_and_bounded() -> None:
    names = unhonoured({f"{number}" * 100: 1 for number in range(10, 99)}, ())
    assert len(names) == MOST
    assert {len(name) for name in names} == {MOST_CHARS}


async def test_the_backends_of_this_machine_name_them(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("# Library\n\nThe library is open from nine to six.")
    rag = RagBackend([RagProject("town", tmp_path)], EMBEDDER)
    (chat,) = await rag.discover()
    body = {"messages": [], "seed": 5, "stop": "x", "max_tokens": 5, "n": 2, "logprobs": True}
    assert rag.ignored(Call(chat, body)) == ("n", "logprobs")
    backend = EmbeddingsBackend(EMBEDDER)
    (embeddings,) = await backend.discover()
    asked = {"input": "a", "dimensions": 5, "encoding_format": "base64", "task": "query"}
    assert backend.ignored(Call(embeddings, asked)) == ("task",)


LIMITS: list[tuple[dict[str, Any], str, str]] = [
    ({"max_tokens": 5}, "No language model is available", "length"),
    ({"max_completion_tokens": 2}, "No language", "length"),
    ({"stop": ["nowhere", " model"]}, "No language", "stop"),
    ({"stop": "guage", "max_tokens": 1}, "No", "length"),
]


@pytest.mark.parametrize(("limits", "text", "reason"), LIMITS)
@pytest.mark.parametrize("stream", [True, False])
async def test_what_is_quoted_ends_where_the_request_says(
    tmp_path: Path, limits: dict[str, Any], text: str, reason: str, stream: bool
) -> None:
    (tmp_path / "a.md").write_text("# Library\n\nThe library is open from nine to six.")
    rag = RagBackend([RagProject("town", tmp_path)], EMBEDDER)
    (capability,) = await rag.discover()
    body = {"messages": [{"role": "user", "content": "When is the library open?"}], **limits}
    parts: list[Any] = [part async for part in rag.execute(Call(capability, body, stream))]
    choices = [part["choices"][0] for part in parts if part["choices"]]
    said = [choice["delta"].get("content", "") if stream else choice["message"]["content"] for choice in choices]
    assert "".join(said) == text
    assert choices[-1]["finish_reason"] == reason
