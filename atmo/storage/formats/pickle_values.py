"""The values that a pickle's instructions make when they are only looked at, and how they are read out of its bytes.

Source: joblib/numpy_pickle.py, `NumpyArrayWrapper`; numpy's `dtype`, `__reduce__`.
"""

from __future__ import annotations

import re
import struct
from typing import Any

TEXT_MOST_BYTES = 64 * 1024
"""Of one text or array; a longer one is skipped. Source: guess."""


class Unclear(Exception):
    """The pickle is damaged, too large to look at, or uses what no estimator does."""


class Global:
    """Something that the pickle names, such as a class.

    Attributes:
        module, name: As the pickle has them.
    """

    __slots__ = ("module", "name")

    def __init__(self, module: str, name: str) -> None:
        self.module = module
        self.name = name


class Made:
    """What calling something would have given.

    Attributes:
        of: What would have been called; a `Global` in a usual pickle.
        arguments: With what.
        state: What would have been given to it afterwards.
        values: Of a small array that joblib wrote, None of another.
    """

    __slots__ = ("arguments", "of", "state", "values")

    def __init__(self, of: Any, arguments: Any) -> None:
        self.of = of
        self.arguments = arguments
        self.state: Any = None
        self.values: Any = None

    def is_of(self, name: str) -> bool:
        """Says whether it is made of something of that name."""
        return isinstance(self.of, Global) and self.of.name == name


def values_of(value: Any) -> list[Any] | None:
    """Returns the plain values of a small array or list, None where there are none."""
    if isinstance(value, list):
        return value
    if not isinstance(value, Made):
        return None
    if value.values is not None:
        return list(value.values)
    match value.state:
        case (_, tuple(), dtype, _, list() as values) if kind_of(dtype) is not None:
            return values
        case (_, tuple(), dtype, _, data) if (kind := kind_of(dtype)) is not None:
            return decoded(_bytes(data), *kind)
    match value.arguments:
        case (data, dtype, tuple(), _) if value.is_of("_frombuffer") and (kind := kind_of(dtype)) is not None:
            return decoded(_bytes(data), *kind)
    return None


def _bytes(data: Any) -> bytes:
    """Returns bytes as a pickle holds them; protocol 2 writes them as text that is to be encoded."""
    if isinstance(data, bytes):
        return data
    match data:
        case Made(arguments=(str() as text, "latin1")) if data.is_of("encode"):
            return text.encode("latin-1", errors="replace")
        case Made(arguments=(bytes() as inner,)) if data.is_of("bytearray"):
            return inner
    return b""


def kind_of(dtype: Any) -> tuple[str, str, int] | None:
    """Reads a `numpy.dtype`: its byte order, its letter and the bytes of one value."""
    if not isinstance(dtype, Made) or not dtype.is_of("dtype") or not isinstance(dtype.arguments, tuple):
        return None
    code = dtype.arguments[0] if dtype.arguments else None
    found = re.fullmatch(r"[<>|=]?([a-zA-Z])(\d{1,9})", code) if isinstance(code, str) else None
    if found is None:
        return None
    order = dtype.state[1] if isinstance(dtype.state, tuple) and len(dtype.state) > 1 else "<"
    size = int(found[2]) * (4 if found[1] == "U" else 1)
    return (">" if order == ">" else "<"), found[1], size


def count_of(shape: Any) -> int | None:
    """Returns how many values an array of that shape has, None where it is no shape or absurd."""
    if not isinstance(shape, tuple) or len(shape) > 32:
        return None
    count = 1
    for size in shape:
        if not isinstance(size, int) or size < 0:
            return None
        count *= size
    return count if count < 2**48 else None


def decoded(data: bytes, order: str, letter: str, size: int) -> list[Any] | None:
    """Returns the values in the bytes of a small array, None where their kind is of no use here; see `kind_of`."""
    if size <= 0 or len(data) % size or len(data) > TEXT_MOST_BYTES:
        return None
    parts = [data[at : at + size] for at in range(0, len(data), size)]
    if letter in "iu" and size in (1, 2, 4, 8):
        return [int.from_bytes(part, "big" if order == ">" else "little", signed=letter == "i") for part in parts]
    if letter == "b" and size == 1:
        return [part != b"\0" for part in parts]
    if letter == "f" and size in (4, 8):
        return [struct.unpack(order + ("f" if size == 4 else "d"), part)[0] for part in parts]
    if letter == "U":
        coding = "utf-32-be" if order == ">" else "utf-32-le"
        return [part.decode(coding, errors="replace").rstrip("\0") for part in parts]
    return None


def text_of(value: Any) -> str:
    """Returns a text.

    Raises:
        Unclear: It is none.
    """
    if not isinstance(value, str):
        raise Unclear("it is damaged")
    return value


def global_of(argument: Any) -> Global:
    """Reads a module and a name, a line each."""
    module, name = argument
    return Global(module.decode(errors="replace"), name.decode(errors="replace"))


def as_dict(pairs: list[Any]) -> dict[Any, Any]:
    """Makes a dictionary of keys and values in turn; only texts and numbers are keys.

    Raises:
        Unclear: A value is missing.
    """
    keys, values = pairs[::2], pairs[1::2]
    if len(keys) != len(values):
        raise Unclear("it is damaged")
    return {key: value for key, value in zip(keys, values, strict=True) if isinstance(key, str | int)}


def line_number(argument: bytes) -> Any:
    """Reads a number, or a truth value, that is written in digits.

    Raises:
        Unclear: It is none.
    """
    if argument in (b"00", b"01"):
        return argument == b"01"
    try:
        return int(argument.rstrip(b"L")[:400])
    except ValueError:
        raise Unclear("it is damaged") from None


def line_float(argument: bytes) -> float:
    """Reads a number that is written in digits.

    Raises:
        Unclear: It is none.
    """
    try:
        return float(argument)
    except ValueError:
        raise Unclear("it is damaged") from None


def long_of(argument: bytes | None) -> Any:
    """Reads a number of any length, None where it was too long to keep."""
    return None if argument is None else int.from_bytes(argument, "little", signed=True)


def string_of(argument: bytes | None) -> Any:
    """Reads a text, None where it was too long to keep."""
    return None if argument is None else argument.decode("utf-8", errors="replace")
