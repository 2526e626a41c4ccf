"""Frozen dataclasses to and from CBOR maps, with every field checked.

A field's annotation is its schema: `int`, `str`, `bytes`, `bool`, `float`, `NodeId`, `tuple[X, ...]`, `dict[str, X]`,
`X | None`
and nested dataclasses; `Annotated[X, Most(n)]` bounds a length (or an int's size). Unknown keys are ignored, so that
a newer
peer may say more; a field with a default may be absent.
"""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

from atmo.errors import WireError
from atmo.identity import NodeId
from atmo.wire import codec, limits

T = TypeVar("T")
Reader = Callable[[Any, str], Any]

_INT_LIMIT = 2**63
_DEFAULT_MOST = {str: limits.TEXT_CHARS, bytes: limits.MESSAGE_BYTES, tuple: 4_096, dict: 256}


@dataclass(frozen=True, slots=True)
class Most:
    """The largest length of a string, byte string, tuple or map, or the largest absolute value of an int."""

    limit: int


def to_wire(value: Any) -> Any:
    """Turns a dataclass (and what it holds) into plain CBOR values; fields at their default None are left out."""
    if dataclasses.is_dataclass(value):
        pairs = ((field.name, getattr(value, field.name)) for field in dataclasses.fields(value))
        return {name: to_wire(item) for name, item in pairs if item is not None}
    if isinstance(value, tuple):
        return [to_wire(item) for item in value]
    if isinstance(value, dict):
        return {key: to_wire(item) for key, item in value.items()}
    return bytes(value) if isinstance(value, NodeId) else value


def pack(value: Any) -> bytes:
    """Returns the deterministic encoding of a dataclass."""
    return codec.encode(to_wire(value))


def unpack_untrusted(cls: type[T], data: bytes, max_bytes: int = limits.MESSAGE_BYTES) -> T:
    """Decodes `data` as a `cls`.

    Raises:
        WireError: The bytes do not decode or do not fit the dataclass.
    """
    return from_wire_untrusted(cls, codec.decode_untrusted(data, max_bytes))


def from_wire_untrusted(cls: type[T], value: Any, where: str = "") -> T:
    """Builds a `cls` from plain CBOR values.

    Raises:
        WireError: A field is missing, has the wrong type or is over its limit; the message names the field.
    """
    where = where or cls.__name__
    if not isinstance(value, dict):
        raise WireError(f"{where} is not a map")
    arguments = {}
    for name, reader, required in _fields(cls):
        if value.get(name) is not None:
            arguments[name] = reader(value[name], f"{where}.{name}")
        elif required:
            raise WireError(f"{where}.{name} is missing")
    try:
        return cls(**arguments)
    except ValueError as error:
        raise WireError(f"{where}: {error}") from error


@cache
def _fields(cls: type) -> tuple[tuple[str, Reader, bool], ...]:
    hints = get_type_hints(cls, include_extras=True)
    rows = []
    for field in dataclasses.fields(cls):
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        rows.append((field.name, _reader(hints[field.name], None), required))
    return tuple(rows)


def _reader(hint: Any, most: int | None) -> Reader:
    origin = get_origin(hint)
    if origin is Annotated:
        bounds = [extra.limit for extra in get_args(hint)[1:] if isinstance(extra, Most)]
        return _reader(get_args(hint)[0], bounds[0] if bounds else most)
    if origin is types.UnionType:
        (inner,) = (arm for arm in get_args(hint) if arm is not type(None))
        return _reader(inner, most)
    if origin is tuple:
        return _tuple_reader(_reader(get_args(hint)[0], None), most or _DEFAULT_MOST[tuple])
    if origin is dict:
        return _dict_reader(_reader(get_args(hint)[1], None), most or _DEFAULT_MOST[dict])
    if hint is NodeId:
        return _read_node
    if hint is Any:
        return lambda value, where: value
    if hint is float:
        return _read_float
    if hint is int:
        return _int_reader(most if most is not None else _INT_LIMIT)
    if dataclasses.is_dataclass(hint):
        return lambda value, where: from_wire_untrusted(hint, value, where)
    return _plain_reader(hint, most or _DEFAULT_MOST.get(hint))


def _plain_reader(kind: type, most: int | None) -> Reader:
    def read(value: Any, where: str) -> Any:
        if type(value) is not kind:
            raise WireError(f"{where} is not a {kind.__name__}")
        if most is not None and len(value) > most:
            raise WireError(f"{where} is longer than {most}")
        return value

    return read


def _int_reader(most: int) -> Reader:
    def read(value: Any, where: str) -> int:
        if type(value) is not int or not -most <= value <= most:
            raise WireError(f"{where} is not an integer within {most}")
        return value

    return read


def _read_float(value: Any, where: str) -> float:
    if type(value) not in (int, float) or value != value or abs(value) > 1e300:
        raise WireError(f"{where} is not a finite number")
    return float(value)


def _read_node(value: Any, where: str) -> NodeId:
    if type(value) is not bytes:
        raise WireError(f"{where} is not a node id")
    return NodeId(value)


def _tuple_reader(item: Reader, most: int) -> Reader:
    def read(value: Any, where: str) -> tuple[Any, ...]:
        if type(value) is not list or len(value) > most:
            raise WireError(f"{where} is not a list of at most {most}")
        return tuple(item(element, f"{where}[{index}]") for index, element in enumerate(value))

    return read


def _dict_reader(item: Reader, most: int) -> Reader:
    def read(value: Any, where: str) -> dict[str, Any]:
        if type(value) is not dict or len(value) > most or not all(type(key) is str for key in value):
            raise WireError(f"{where} is not a map of at most {most} names")
        return {key: item(element, f"{where}[{key!r}]") for key, element in value.items()}

    return read
