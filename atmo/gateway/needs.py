"""Which features of a model a request cannot do without."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from atmo.router.capability import AUDIO, CHAT, JSON_SCHEMA, TOOLS, VISION

_PARTS = {"image_url": VISION, "input_image": VISION, "input_audio": AUDIO}
"""Kinds of content parts."""


def needs_of(operation: str, body: Mapping[str, Any]) -> frozenset[str]:
    """Returns the features, of `router.capability.FEATURES`, that whoever runs a request must have."""
    if operation != CHAT:
        return frozenset()
    return frozenset(_of_chat(body))


def _of_chat(body: Mapping[str, Any]) -> Iterator[str]:
    if body.get("tools") and body.get("tool_choice") != "none":
        yield TOOLS
    form = body.get("response_format")
    if isinstance(form, Mapping) and form.get("type") == "json_schema":
        yield JSON_SCHEMA
    for message in body.get("messages") or ():
        content = message.get("content") if isinstance(message, Mapping) else None
        if isinstance(content, list):
            for part in content:
                feature = _PARTS.get(str(part.get("type"))) if isinstance(part, Mapping) else None
                if feature is not None:
                    yield feature
