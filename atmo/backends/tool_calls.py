"""The pieces of the tool calls of one streamed choice, as OpenAI sends them. No I/O.

Clients put pieces together by their index and append text to text. Servers leave indexes and ids out, give all calls
the same index, or repeat the id and the name in each piece, of which clients would make `call_1call_1`.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeGuard

from atmo.backends.base import Object

MAX_TOOL_CALLS = 1_024
"""Of one stream. Source: guess; OpenAI takes 128 tools."""


@dataclass(slots=True)
class ToolCalls:
    """The tool calls of one choice so far, whose pieces come one after the other.

    Attributes:
        called: What each of them calls, by its index.
        names: The indexes by id, or by place where a server gives no ids.
        places: The indexes by those that the server gives.
        last: The newest one.
    """

    called: dict[int, object] = field(default_factory=dict)
    names: dict[str, int] = field(default_factory=dict)
    places: dict[int, int] = field(default_factory=dict)
    last: int = 0

    def piece(self, tool: Mapping[str, Any], place: int) -> tuple[Object, bool]:
        """Returns a piece as it goes on, and whether it is the first of its call.

        Args:
            tool: As it came.
            place: In its list.
        """
        kind = "custom" if isinstance(tool.get("custom"), Mapping) else "function"
        said = tool.get(kind)
        about = dict(said) if isinstance(said, Mapping) else {}
        name, named, given = about.get("name"), tool.get("id"), tool.get("index")
        named = named if isinstance(named, str) else ""
        number = self._find(named, given, place, begins=bool(name))
        rest = {key: value for key, value in tool.items() if key not in ("id", "type", "index", kind)}
        if number is None:
            head = {"id": named or f"call_{uuid.uuid4().hex[:24]}", "type": kind}
            first = about | ({"arguments": arguments_of(about, "")} if kind == "function" else {})
            return {"index": self._add(named, given, place, name), **head, **rest, kind: first}, True
        about = {key: value for key, value in about.items() if value is not None}
        if not name or name == self.called[number]:
            about.pop("name", None)
        if "arguments" in about:
            about["arguments"] = arguments_of(about, "")
        return {"index": number, **rest, **({kind: about} if about else {})}, False

    def _find(self, named: str, given: object, place: int, *, begins: bool) -> int | None:
        """Returns the index of the call to which a piece belongs, None where it is the first of a new one."""
        if not _is_index(given):
            if not named and place == 0 and self.called:
                return self.last
            return self.names.get(named or f"#{place}")
        number = self.places.get(given)
        if number is not None and named and begins and self.names.get(named) != number:
            return self.names.get(named)  # another call, under the same index
        return number

    def _add(self, named: str, given: object, place: int, name: object) -> int:
        number = given if _is_index(given) and given not in self.called else max(self.called, default=-1) + 1
        if _is_index(given):
            self.places[given] = number
        self.called[number] = name
        self.names[named or f"#{place}"] = self.last = number
        return number


def arguments_of(function: Mapping[str, Any], none: str) -> str:
    """Returns what a function is called with as a text; `none` where nothing is said."""
    given = function.get("arguments")
    if given is None:
        return none
    return given if isinstance(given, str) else json.dumps(given, ensure_ascii=False)


def _is_index(given: object) -> TypeGuard[int]:
    return type(given) is int and 0 <= given < MAX_TOOL_CALLS
