from __future__ import annotations

from typing import Any

import pytest

from atmo.gateway.needs import needs_of
from atmo.gateway.prompt import constraints_of, tokens_of
from atmo.router.capability import CHAT, EMBEDDINGS

IMAGE = {"type": "image_url", "image_url": {"url": "data:"}}
SOUND = {"type": "input_audio", "input_audio": {"data": "", "format": "wav"}}


def said(*parts: Any) -> dict[str, Any]:
    return {"messages": [{"role": "system", "content": "x"}, {"role": "user", "content": list(parts)}]}


@pytest.mark.parametrize(
    ("body", "needs"),
    [
        ({}, ()),
        (said(), ()),
        (said({"type": "text", "text": "x"}, "odd"), ()),
        (said(IMAGE), ("vision",)),
        (said(IMAGE, SOUND), ("audio", "vision")),
        ({"messages": ["odd", {"content": None}]}, ()),
        ({"tools": []}, ()),
        ({"tools": [{"type": "function"}]}, ("tools",)),
        ({"tools": [{"type": "function"}], "tool_choice": "none"}, ()),
        ({"response_format": {"type": "json_object"}}, ()),
        ({"response_format": {"type": "json_schema", "json_schema": {}}}, ("json_schema",)),
    ],
)
def test_needs_of_a_chat(body: dict[str, Any], needs: tuple[str, ...]) -> None:
    assert sorted(needs_of(CHAT, body)) == sorted(needs)


def test_other_operations_need_nothing() -> None:
    assert needs_of(EMBEDDINGS, {"tools": [{}]}) == frozenset()


def test_constraints_of_a_request() -> None:
    found = constraints_of(
        {"atmosphere": {"max_latency_ms": 1_500, "min_size_b": 7, "residency": "US", "cpu_allowed": False}}
    )
    assert (found.max_finish_s, found.min_size_b, found.residency, found.gpu_only) == (1.5, 7.0, "US", True)
    assert not constraints_of({"atmosphere": {"cpu_allowed": True}}).gpu_only


def test_a_budget_bounds_the_price() -> None:
    body = {"messages": [{"role": "user", "content": "x" * 400}, {"content": [{"text": "y" * 400}]}], "max_tokens": 300}
    assert tokens_of(body) == 500
    within = constraints_of({**body, "atmosphere": {"budget": 0.01}}).max_cost_per_1k
    assert within == pytest.approx(0.02)
    cheaper = constraints_of({**body, "atmosphere": {"budget": 0.01, "max_cost_per_1k": 0.005}})
    assert cheaper.max_cost_per_1k == 0.005
    assert tokens_of({"prompt": ["abcd", 5]}) == 1_001
