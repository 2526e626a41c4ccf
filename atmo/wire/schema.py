"""Frozen dataclasses to and from CBOR maps, with every field checked.

A field's annotation is its schema: `int`, `str`, `bytes`, `bool`, `float`, `NodeId`, `tuple[X, ...]`, `dict[str, X]`,
`X | None`, `Any` and nested dataclasses; `Annotated[X, Most(n)]` bounds a length (or a number).
An `int` is never negative, nor is a `float` that is bounded. Unknown keys are ignored, so that a newer peer may say
more; a field with a default may be absent.
"""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, Union, get_args, get_origin, get_type_hints

from atmo.errors import EncodeError, WireError
from atmo.identity import NodeId
from atmo.wire import codec, limits

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T", bound="DataclassInstance")
Reader = Callable[[Any, str], Any]

_INT_MOST = 2**63
_TEXT_MOST = limits.TEXT_CHARS
_BYTES_MOST = limits.MESSAGE_BYTES
_TUPLE_MOST = 4_096
_DICT_MOST = 256


@dataclass(frozen=True, slots=True)
class Most:
    """The largest length of a string, byte string, tuple or map, or the largest value of a number."""

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
    """Returns the deterministic encoding of a dataclass.

    Raises:
        EncodeError: It holds something that CBOR here cannot say, such as an integer over 64 bits.
    """
    return codec.encode(to_wire(value))


def pack_checked(value: DataclassInstance) -> bytes:
    """Returns the same as `pack`, once every reader would accept it: for what came from files, servers and people.

    Raises:
        EncodeError: A field is not what its annotation says, or over its limit.
    """
    data = pack(value)
    try:
        unpack_untrusted(type(value), data, len(data))
    except WireError as error:
        raise EncodeError(f"no node would accept this: {error}") from error
    return data


def unpack_untrusted(
    cls: type[T], data: bytes, max_bytes: int = limits.MESSAGE_BYTES, *, max_items: int = limits.ITEMS
) -> T:
    """Decodes `data` as a `cls`.

    Raises:
        WireError: The bytes do not decode or do not fit the dataclass.
    """
    return from_wire_untrusted(cls, codec.decode_untrusted(data, max_bytes, max_items=max_items))


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
def _fields(cls: type[DataclassInstance]) -> tuple[tuple[str, Reader, bool], ...]:
    hints = get_type_hints(cls, include_extras=True)
    rows = []
    for field in dataclasses.fields(cls):
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        rows.append((field.name, _reader(hints[field.name], None), required))
    return tuple(rows)


def _reader(hint: Any, most: int | None) -> Reader:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        bounds = [extra.limit for extra in arguments[1:] if isinstance(extra, Most)]
        return _reader(arguments[0], bounds[0] if bounds else most)
    if origin in (Union, types.UnionType) and len(arguments) == 2 and arguments[1] is types.NoneType:
        return _reader(arguments[0], most)
    if origin is tuple and arguments[1:] == (...,):
        return _tuple_reader(_reader(arguments[0], None), _TUPLE_MOST if most is None else most)
    if origin is dict and arguments[0] is str:
        return _dict_reader(_reader(arguments[1], None), _DICT_MOST if most is None else most)
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return lambda value, where: from_wire_untrusted(hint, value, where)
    return _scalar_reader(hint, most)


def _scalar_reader(hint: Any, most: int | None) -> Reader:
    if hint is int:
        return _int_reader(_INT_MOST if most is None else most)
    if hint is str:
        return _string_reader(str, _TEXT_MOST if most is None else most)
    if hint is float and most is not None:
        return _float_reader(most)
    if hint is bytes:
        return _string_reader(bytes, _BYTES_MOST if most is None else most)
    readers: dict[Any, Reader] = {NodeId: _read_node, float: _read_float, bool: _read_bool, Any: _read_any}
    if hint not in readers:
        raise TypeError(f"a field of the wire cannot be a {hint}")
    return readers[hint]


def _string_reader(kind: type[str] | type[bytes], most: int) -> Reader:
    def read(value: Any, where: str) -> Any:
        if type(value) is not kind or len(value) > most:
            raise WireError(f"{where} is not a {kind.__name__} of at most {most}")
        return value

    return read


def _int_reader(most: int) -> Reader:
    def read(value: Any, where: str) -> int:
        if type(value) is not int or not 0 <= value <= most:
            raise WireError(f"{where} is not an integer from 0 to {most}")
        return value

    return read


def _read_float(value: Any, where: str) -> float:
    if type(value) not in (int, float) or value != value or abs(value) > 1e300:
        raise WireError(f"{where} is not a finite number")
    return float(value)


def _float_reader(most: int) -> Reader:
    def read(value: Any, where: str) -> float:
        if type(value) not in (int, float) or not 0 <= value <= most:
            raise WireError(f"{where} is not a number from 0 to {most}")
        return float(value)

    return read


def _read_bool(value: Any, where: str) -> bool:
    if type(value) is not bool:
        raise WireError(f"{where} is not true or false")
    return value


def _read_any(value: Any, where: str) -> Any:
    return value


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
