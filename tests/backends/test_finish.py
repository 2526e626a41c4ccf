from __future__ import annotations

import pytest

from atmo.backends.finish import REASONS, finish_reason


@pytest.mark.parametrize("reason", sorted(REASONS))
def test_openais_words_stay(reason: str) -> None:
    assert finish_reason(reason) == reason


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("eos", "stop"), ("end_turn", "stop"), ("abort", "stop"), ("STOP", "stop"), ("MAX_TOKENS", "length"),
        ("model_length", "length"), ("tool_use", "tool_calls"), ("SAFETY", "content_filter"),
        ("", None), (None, None), (3, None), ({"a": 1}, None),
    ],
)  # fmt: skip
def test_other_words_are_told_in_openais(said: object, told: str | None) -> None:
    """Together says `eos`, Google's servers write in capitals, some send an empty text while they go on."""
    assert finish_reason(said) == told


def test_calls_of_tools_are_the_reason() -> None:
    assert finish_reason("stop", called=True) == "tool_calls"
    assert finish_reason("eos", called=True) == "tool_calls"
    assert finish_reason("length", called=True) == "length"
