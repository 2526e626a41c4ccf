"""Looks into an ONNX file without loading it: is it whole, does it stand alone, and does it use known operators?

An ONNX file is a protocol buffer (onnx.proto3). This walks its fields where they lie in the file and keeps nothing, so
that a file of any size costs no memory. A model from another machine must not make the runtime open other files
(external data), nor be offered to the mesh when it needs operators that nobody here has.

Source: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto for the field numbers.
"""

from __future__ import annotations

import mmap
import re
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

KNOWN_DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml", "com.microsoft", "com.microsoft.nchwc"})
"""Operator sets in every build of onnxruntime. Source: onnxruntime `graph/constants.h`."""

MAX_DEPTH = 24
"""Nesting of subgraphs and functions. Source: guess; exporters stay below five."""

MAX_FIELDS = 5_000_000
"""Fields that one look visits: a file that is nothing but tiny fields may not keep a core busy for long."""

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5

_MODEL_IR_VERSION, _MODEL_GRAPH, _MODEL_OPSET, _MODEL_FUNCTION = 1, 7, 8, 25
_GRAPH_NODE, _GRAPH_INITIALIZER, _GRAPH_SPARSE = 1, 5, 15
_NODE_OP, _NODE_ATTRIBUTE, _NODE_DOMAIN = 4, 5, 7
_ATTRIBUTE_MESSAGES = {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"}
_SPARSE_VALUES, _SPARSE_INDICES = 1, 2
_TENSOR_EXTERNAL, _TENSOR_LOCATION = 13, 14
_FUNCTION_NAME, _FUNCTION_NODE, _FUNCTION_DOMAIN, _FUNCTION_ATTRIBUTE = 1, 7, 10, 11

_SCALARS = re.compile(rb"(?:\x3d.{4}|\x40[\x80-\xff]{0,9}[\x00-\x7f]|\x4a\x0aBRANCH_LEQ|\x4a\x04LEAF)++", re.DOTALL)
"""Runs of unpacked floats, integers and the two commonest strings of an attribute: tree ensembles hold millions."""


class BadModelFile(ValueError):
    """The file cannot be run here; the message is a sentence without the file's name."""


@dataclass(slots=True)
class _Look:
    data: mmap.mmap
    operators: set[tuple[str, str]] = field(default_factory=set)
    functions: set[tuple[str, str]] = field(default_factory=set)
    fields: int = 0


def check_onnx_file(path: Path) -> None:
    """Checks that `path` is a whole ONNX model in one file that onnxruntime's own operators can run.

    Raises:
        BadModelFile: It is not.
        OSError: The file cannot be read.
    """
    with path.open("rb") as file:
        if file.seek(0, 2) == 0:
            raise BadModelFile("the file is empty")
        with closing(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)) as data:
            look = _Look(data)
            _model(look)
    unknown = sorted(pair for pair in look.operators - look.functions if pair[0] not in KNOWN_DOMAINS)
    if unknown:
        domain, operator = unknown[0]
        raise BadModelFile(
            f"it uses the custom operator {domain[:60]}::{operator[:60]}, which onnxruntime does not have."
            " Export it with standard operators only."
        )


def _model(look: _Look) -> None:
    seen = set()
    for number, kind, start, end in _fields(look, 0, len(look.data)):
        seen.add(number)
        if kind == _BYTES and number == _MODEL_GRAPH:
            _graph(look, start, end, 1)
        elif kind == _BYTES and number == _MODEL_FUNCTION:
            _function(look, start, end)
    if not {_MODEL_IR_VERSION, _MODEL_GRAPH, _MODEL_OPSET} <= seen:
        raise BadModelFile("it is not an ONNX model")


def _graph(look: _Look, start: int, end: int, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise BadModelFile(f"its graphs are nested more than {MAX_DEPTH} deep")
    for number, kind, low, high in _fields(look, start, end):
        if kind != _BYTES:
            continue
        if number == _GRAPH_NODE:
            _node(look, low, high, depth)
        elif number == _GRAPH_INITIALIZER:
            _tensor(look, low, high)
        elif number == _GRAPH_SPARSE:
            _sparse(look, low, high)


def _node(look: _Look, start: int, end: int, depth: int) -> None:
    operator = domain = ""
    for number, kind, low, high in _fields(look, start, end):
        if kind != _BYTES:
            continue
        if number == _NODE_OP:
            operator = _text(look, low, high)
        elif number == _NODE_DOMAIN:
            domain = _text(look, low, high)
        elif number == _NODE_ATTRIBUTE:
            _attribute(look, low, high, depth)
    look.operators.add((domain, operator))


def _attribute(look: _Look, start: int, end: int, depth: int) -> None:
    for number, kind, low, high in _fields(look, start, end, skip=_SCALARS):
        what = _ATTRIBUTE_MESSAGES.get(number) if kind == _BYTES else None
        if what == "tensor":
            _tensor(look, low, high)
        elif what == "sparse":
            _sparse(look, low, high)
        elif what == "graph":
            _graph(look, low, high, depth + 1)


def _sparse(look: _Look, start: int, end: int) -> None:
    for number, kind, low, high in _fields(look, start, end):
        if kind == _BYTES and number in (_SPARSE_VALUES, _SPARSE_INDICES):
            _tensor(look, low, high)


def _tensor(look: _Look, start: int, end: int) -> None:
    for number, kind, low, _ in _fields(look, start, end):
        if (number == _TENSOR_EXTERNAL and kind == _BYTES) or (
            number == _TENSOR_LOCATION and kind == _VARINT and _varint(look, low, end)[0]
        ):
            raise BadModelFile("its weights lie in other files. Save it as one file without external data.")


def _function(look: _Look, start: int, end: int) -> None:
    name = domain = ""
    for number, kind, low, high in _fields(look, start, end):
        if kind == _BYTES and number == _FUNCTION_NAME:
            name = _text(look, low, high)
        elif kind == _BYTES and number == _FUNCTION_DOMAIN:
            domain = _text(look, low, high)
        elif kind == _BYTES and number == _FUNCTION_NODE:
            _node(look, low, high, 1)
        elif kind == _BYTES and number == _FUNCTION_ATTRIBUTE:
            _attribute(look, low, high, 1)
    look.functions.add((domain, name))


def _fields(
    look: _Look, start: int, end: int, skip: re.Pattern[bytes] | None = None
) -> Iterator[tuple[int, int, int, int]]:
    """Yields (field number, wire type, start, end) of the fields between two offsets."""
    at = start
    while at < end:
        if skip is not None and (run := skip.match(look.data, at, end)):
            at = run.end()
            continue
        look.fields += 1
        if look.fields > MAX_FIELDS:
            raise BadModelFile(f"it has more than {MAX_FIELDS} fields")
        tag, low = _varint(look, at, end)
        number, kind = tag >> 3, tag & 7
        if kind == _BYTES:
            size, low = _varint(look, low, end)
            high = low + size
        elif kind == _VARINT:
            high = _varint(look, low, end)[1]
        elif kind in (_FIXED64, _FIXED32):
            high = low + (8 if kind == _FIXED64 else 4)
        else:
            raise BadModelFile("it is not an ONNX model")
        if number == 0 or high > end:
            cut = high > len(look.data)
            raise BadModelFile("the file is cut short" if cut else "it is not an ONNX model")
        yield number, kind, low, high
        at = high


def _varint(look: _Look, at: int, end: int) -> tuple[int, int]:
    value = shift = 0
    for index in range(at, min(at + 10, end)):
        byte = look.data[index]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, index + 1
        shift += 7
    raise BadModelFile("the file is cut short" if end == len(look.data) else "it is not an ONNX model")


def _text(look: _Look, start: int, end: int) -> str:
    return look.data[start : min(end, start + 256)].decode("utf-8", "replace")
