from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atmo.errors import RequestError
from atmo.gateway.prompt import MAX_CHARS, constraints_of, query_text
from tests.gateway.test_jsontext import JSON


def said(*texts: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text} for text in texts]}


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({}, ""),
        (said("how do I install it"), "how do I install it"),
        (said("how do I install it", "and on my old Mac at home"), "and on my old Mac at home"),
        (said("how do I install it", "and why?"), "how do I install it and why?"),
        (said("hi"), "hi"),
        (
            said([{"type": "text", "text": "what is"}, {"type": "image_url"}, "x", {"text": "this thing here"}]),
            "what is this thing here",
        ),
        (said([{"type": "image_url"}], 5), ""),
        ({"messages": ["x", {"role": "system", "content": "you are"}]}, ""),
        ({"prompt": " a poem "}, "a poem"),
        ({"input": ["a", "b", 3]}, "a b"),
        ({"data": [[1, 2], [3, 4]]}, ""),
        ({"data": [{"sepal": 1, "colour": " red "}]}, "sepal colour red"),
        ({"data": {"sepal": [1, 2]}}, "sepal"),
        ({"input": 5, "text": "x"}, "x"),
    ],
)
def test_query_text(body: dict[str, Any], text: str) -> None:
    assert query_text(body) == text


def test_long_prompts_are_cut() -> None:
    assert len(query_text(said("word " * 10_000))) == MAX_CHARS
    assert len(query_text(said("word " * 10_000, "why?"))) == MAX_CHARS
    assert query_text(said("word " * 10_000, "why?")).endswith("why?")


@given(st.dictionaries(st.sampled_from(["messages", "prompt", "input", "data", "texts"]), JSON, max_size=3))
def test_any_json_has_a_text(body: dict[str, Any]) -> None:
    assert len(query_text(body)) <= MAX_CHARS


def test_constraints() -> None:
    assert constraints_of({}) == constraints_of({"atmosphere": {}})
    options = {"local_only": True, "general_only": True, "max_rtt_ms": 20, "max_cost_per_1k": 0.5}
    found = constraints_of({"atmosphere": options})
    assert (found.local_only, found.general_only, found.max_rtt_s, found.max_cost_per_1k) == (True, True, 0.02, 0.5)


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ("x", "atmosphere"),
        ({"local_only": 1}, "atmosphere.local_only"),
        ({"max_rtt_ms": "1"}, "atmosphere.max_rtt_ms"),
        ({"max_rtt_ms": -1}, "atmosphere.max_rtt_ms"),
        ({"max_cost_per_1k": True}, "atmosphere.max_cost_per_1k"),
        ({"localonly": True}, "atmosphere.localonly"),
        ({"color": "x" * 100}, "atmosphere.color"),
    ],
)
def test_constraints_of_a_wrong_type_or_name(options: Any, param: str) -> None:
    with pytest.raises(RequestError) as caught:
        constraints_of({"atmosphere": options})
    assert (caught.value.status, caught.value.param) == (400, param)


@pytest.mark.parametrize(
    ("name", "hint"), [("localonly", "Did you mean 'local_only'?"), ("color", "Known are local_only, general_only,")]
)
def test_what_a_constraint_that_is_not_known_may_mean(name: str, hint: str) -> None:
    with pytest.raises(RequestError) as caught:
        constraints_of({"atmosphere": {name: True}})
    assert hint in caught.value.message
