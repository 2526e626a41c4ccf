"""The tools of a request of OpenAI's Responses API, as the functions of a chat. No I/O.

Chats know functions alone. A custom tool, whose input is plain text, becomes a function with one text; the tools of a
namespace become functions that are called by both names. What a model then calls is told in the client's words again.
Tools that OpenAI runs itself are left out and named: clients such as Codex send them with every request, needed or not.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from atmo.errors import RequestError
from atmo.gateway.checks import bad
from atmo.gateway.checks_chat import MAX_TOOLS
from atmo.gateway.responses_items import INPUT, MAX_ID_CHARS, chat_name

_CHOICES = ("none", "auto", "required")
_CALLED = ("function", "custom")
_NAMESPACE = "namespace"
_TEXT_INPUT = {
    "type": "object",
    "properties": {INPUT: {"type": "string"}},
    "required": [INPUT],
    "additionalProperties": False,
}
_SHOWN = 64
_OTHERS = 8
"""Tools that are left out and named, at most. Source: guess; the rest is counted by nobody."""


@dataclass(frozen=True, slots=True)
class Called:
    """What a function of the chat is to the client.

    Attributes:
        name: Of the tool.
        namespace: That it is in; empty for none.
        custom: Its input is a text; else it is a function.
    """

    name: str
    namespace: str = ""
    custom: bool = False


@dataclass(frozen=True, slots=True)
class ResponseTools:
    """The tools of one request.

    Attributes:
        echo: As the response repeats them, without those that nobody runs here.
        choice: `tool_choice`, as the response repeats it.
        chat: Both in the words of a chat.
        called: For each function of the chat what it is to the client.
        ignored: What was left out, for people.
    """

    echo: list[dict[str, Any]]
    choice: object
    chat: dict[str, Any]
    called: Mapping[str, Called]
    ignored: tuple[str, ...]


def read_tools_untrusted(body: Mapping[str, Any]) -> ResponseTools:
    """Reads `tools` and `tool_choice`.

    Raises:
        RequestError: 400 with the field at fault.
    """
    given = body.get("tools")
    if given is None:
        given = []
    if not isinstance(given, list):
        raise bad("tools", "must be a list of objects")
    reader = _Reader()
    for index, tool in enumerate(given):
        reader.read(f"tools[{index}]", tool)
    functions, choice = reader.functions, body.get("tool_choice")
    echo = "auto" if choice is None else choice
    if isinstance(choice, dict) and choice.get("type") == "allowed_tools":
        names, choice = _allowed(choice)
        functions = {chat: one for chat, one in functions.items() if reader.called[chat].name in names}
    else:
        choice = _choice(choice)
    chat: dict[str, Any] = {"tools": list(functions.values())} if functions else {}
    if choice not in (None, "auto", "none") and not functions:
        raise bad("tool_choice", "asks for a tool, but 'tools' has none")
    if choice is not None and functions:
        chat["tool_choice"] = choice
    return ResponseTools(reader.echo, echo, chat, reader.called, tuple(reader.ignored[:_OTHERS]))


class _Reader:
    """Takes the tools one after the other."""

    def __init__(self) -> None:
        self.echo: list[dict[str, Any]] = []
        self.functions: dict[str, dict[str, Any]] = {}
        self.called: dict[str, Called] = {}
        self.ignored: list[str] = []

    def read(self, param: str, tool: object) -> None:
        kind = tool.get("type") if isinstance(tool, dict) else None
        if not isinstance(tool, dict) or not isinstance(kind, str):
            raise bad(param, "must be an object such as {'type': 'function', 'name': 'weather', 'parameters': {}}")
        if kind in _CALLED:
            self.echo.append(self._take(param, tool, ""))
        elif kind == _NAMESPACE:
            self.echo.append(self._namespace(param, tool))
        else:
            self.ignored.append(f"{param} {kind[:_SHOWN]}")

    def _namespace(self, param: str, tool: Mapping[str, Any]) -> dict[str, Any]:
        name, about, tools = _name(param, tool, "a namespace"), _about(param, tool) or "", tool.get("tools")
        if not isinstance(tools, list) or not tools:
            raise bad(f"{param}.tools", "must be a list of at least one tool")
        echo = []
        for index, inner in enumerate(tools):
            place = f"{param}.tools[{index}]"
            if not isinstance(inner, dict) or inner.get("type") not in _CALLED:
                raise bad(f"{place}.type", f"must be one of {', '.join(_CALLED)}")
            echo.append(self._take(place, inner, name))
        return {"type": _NAMESPACE, "name": name, "description": about, "tools": echo}

    def _take(self, param: str, tool: Mapping[str, Any], namespace: str) -> dict[str, Any]:
        name, about = _name(param, tool, "a function"), _about(param, tool)
        custom = tool["type"] == "custom"
        chat = chat_name(namespace, name)
        if chat in self.called:
            raise bad(f"{param}.name", f"is '{chat[:_SHOWN]}', which another tool is called, too")
        if len(self.called) >= MAX_TOOLS:
            raise bad("tools", f"has more than {MAX_TOOLS} tools")
        self.called[chat] = Called(name, namespace, custom)
        if custom:
            form = tool.get("format")
            if not isinstance(form, dict | None):
                raise bad(f"{param}.format", "must be an object such as {'type': 'text'}")
            function = {"name": chat, "description": _custom_about(about, form), "parameters": _TEXT_INPUT}
            more = {} if about is None else {"description": about}
            echo = {"type": "custom", "name": name, **more, "format": form or {"type": "text"}}
        else:
            parameters, strict = tool.get("parameters"), tool.get("strict")
            if not isinstance(parameters, dict | None):
                raise bad(f"{param}.parameters", "must be a JSON schema")
            if not isinstance(strict, bool | None):
                raise bad(f"{param}.strict", "must be true or false")
            rest: dict[str, Any] = {"description": about, "parameters": parameters, "strict": strict}
            function = {"name": chat} | {field: value for field, value in rest.items() if value is not None}
            echo = {"type": "function", "name": name, **rest}
        self.functions[chat] = {"type": "function", "function": function}
        return echo


def _custom_about(about: str | None, form: Mapping[str, Any] | None) -> str:
    """Returns what a model is told of a custom tool; the grammar of its input is a request rather than a constraint."""
    said = [about] if about else []
    if form is not None and form.get("type") == "grammar" and isinstance(form.get("definition"), str):
        said.append(f"'{INPUT}' is a text of this grammar ({str(form.get('syntax'))[:_SHOWN]}):\n{form['definition']}")
    return "\n\n".join(said)


def custom_input(arguments: str) -> str:
    """Returns the input of a custom tool that a model called as a function, as it stands where it is no such call."""
    try:
        value = json.loads(arguments)
    except (ValueError, RecursionError):
        return arguments
    text = value.get(INPUT) if isinstance(value, dict) else None
    return text if isinstance(text, str) else arguments


def _name(param: str, tool: Mapping[str, Any], what: str) -> str:
    name = tool.get("name")
    if not isinstance(name, str) or not 0 < len(name) <= MAX_ID_CHARS:
        raise bad(f"{param}.name", f"must be the name of {what}")
    return name


def _about(param: str, tool: Mapping[str, Any]) -> str | None:
    about = tool.get("description")
    if not isinstance(about, str | None):
        raise bad(f"{param}.description", "must be a string")
    return about


def _allowed(choice: Mapping[str, Any]) -> tuple[frozenset[str], str]:
    mode, tools = choice.get("mode"), choice.get("tools")
    if mode not in ("auto", "required"):
        raise bad("tool_choice.mode", "must be auto or required")
    rows = tools if isinstance(tools, list) else []
    names = frozenset(_named(rows))
    if not names:
        raise bad("tool_choice.tools", "must be a list such as [{'type': 'function', 'name': 'weather'}]")
    return names, mode


def _named(rows: Iterable[object]) -> Iterable[str]:
    """Yields the names of tools that are called; those that nobody runs here have none."""
    for index, row in enumerate(rows):
        kind = row.get("type") if isinstance(row, dict) else None
        name = row.get("name") if isinstance(row, dict) else None
        if not isinstance(kind, str) or (kind in _CALLED and not isinstance(name, str)):
            raise bad(f"tool_choice.tools[{index}]", "must be such as {'type': 'function', 'name': 'weather'}")
        if kind in _CALLED and isinstance(name, str):
            yield name


def _choice(choice: object) -> object:
    if choice is None or (isinstance(choice, str) and choice in _CHOICES):
        return choice
    kind = choice.get("type") if isinstance(choice, dict) else None
    if isinstance(choice, dict) and kind in _CALLED and isinstance(choice.get("name"), str):
        namespace = choice.get(_NAMESPACE)
        name = chat_name(namespace if isinstance(namespace, str) else "", choice["name"])
        return {"type": "function", "function": {"name": name}}
    if isinstance(kind, str) and kind not in _CALLED:
        message = f"'tool_choice' asks for the tool '{kind[:_SHOWN]}', which OpenAI runs: here are tools of the client."
        raise RequestError(400, message, param="tool_choice", code="unsupported_tool")
    raise bad("tool_choice", f"must be one of {', '.join(_CHOICES)}, or {{'type': 'function', 'name': '...'}}")
