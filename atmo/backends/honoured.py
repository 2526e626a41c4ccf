"""Which fields of a request a backend leaves aside although they change what the answer means."""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import Any

MOST = 32
MOST_CHARS = 64
"""Of a name: it is the client's own word and goes into a header."""

HARMLESS = frozenset(
    {
        "atmosphere",
        "dimensions",
        "encoding_format",
        "messages",
        "metadata",
        "model",
        "prompt_cache_key",
        "prompt_cache_retention",
        "safety_identifier",
        "service_tier",
        "store",
        "stream",
        "stream_options",
        "user",
    }
)
"""Fields that others honour (the router, the API), or that say nothing of the answer."""

_NEUTRAL: Mapping[str, Any] = {
    "best_of": 1,
    "modalities": ["text"],
    "n": 1,
    "parallel_tool_calls": True,
    "response_format": {"type": "text"},
    "tool_choice": "auto",
    "top_p": 1,
}
"""Values that say what happens anyway."""


_MEANT = frozenset({"enable_thinking", "parallel_tool_calls", "seed", "temperature", "think", "top_p"})
"""Fields whose 0 or false asks for something else than leaving them out does."""


def unhonoured(body: Mapping[str, Any], honoured: Container[str]) -> tuple[str, ...]:
    """Returns the fields of `body` that change meaning and that nobody honours, also those of which nobody has heard.

    Args:
        body: The request.
        honoured: What the backend does as asked.
    """
    names = (
        name[:MOST_CHARS]
        for name, value in body.items()
        if name not in honoured and name not in HARMLESS and not _says_nothing(name, value)
    )
    return tuple(name for name, _ in zip(names, range(MOST), strict=False))


def _says_nothing(name: str, value: Any) -> bool:
    """Says whether a field with that value asks for what happens anyway. A seed of 0 is a seed."""
    if value is None or value == _NEUTRAL.get(name):
        return True
    return not value and name not in _MEANT
