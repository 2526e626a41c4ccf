"""The value of every key and where it came from, for people and programs; secrets never."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from atmo.config.keys import Key, Settled
from atmo.config.settings import KEYS

HIDDEN = "(hidden)"


def config_rows(settled: Mapping[str, Settled], keys: Iterable[Key] = KEYS) -> list[dict[str, Any]]:
    """Returns `{key, value, source, place}` of every settled key: `source` is one of the kinds of `keys`."""
    return [_row(key, settled[key.name]) for key in keys if key.name in settled]


def _row(key: Key, settled: Settled) -> dict[str, Any]:
    value = _plain(settled.value)
    if key.secret and value:
        value = HIDDEN
    return {"key": key.name, "value": value, "source": settled.origin.kind, "place": settled.origin.place}


def _plain(value: Any) -> Any:
    """Returns a value as JSON has it."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if dataclasses.is_dataclass(value) and type(value).__str__ is object.__str__:
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if type(value) in (tuple, list):
        return [_plain(item) for item in value]
    return str(value)


def text_of(value: Any) -> str:
    """Returns a value of a row in one line, for a table."""
    if value is None or value in ("", [], {}):
        return "-"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return ", ".join(map(text_of, value))
    if isinstance(value, dict):
        return " ".join(f"{name}={text_of(item)}" for name, item in value.items() if item not in ("", [], {}, None))
    return str(value)
