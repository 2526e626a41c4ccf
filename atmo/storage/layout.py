"""Where the tensors of a model's file lie, for cutting it: a hint that is checked, never believed.

A file that is damaged, lies about itself or is of another kind simply has no layout. What a look may cost is bounded:
bytes of a head, number of tensors, fields of a protocol buffer.

Source: the formats as `atmo/storage/formats` cites them; ONNX's external data by `external_data` of `TensorProto`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from atmo.storage.formats import gguf, onnx, safetensors
from atmo.storage.formats.onnx_check import GRAPH
from atmo.storage.formats.protobuf import BYTES, Field, Walk
from atmo.storage.formats.reader import FormatError, Reader

TENSORS_MOST = 65_536
"""Source: guess; a mixture of experts with 400 layers' worth of tensors has 50,000."""

JSON_MOST_BYTES = 8 * 1024 * 1024
"""Of a safetensors header: about 100 bytes for each tensor. Parsed, it takes up to 30 times as much memory."""

GGUF_HEAD_MOST_BYTES = 32 * 1024 * 1024
"""Of GGUF keys and tensor heads. Source: guess; a vocabulary of 256,000 tokens and its merges have half of that."""

ONNX_FIELDS_MOST = 500_000
"""Fields visited in an ONNX file; nodes count as one, initializers as about six. Source: guess."""

_INITIALIZER, _NAME, _EXTERNAL = 5, 8, 13
_DATA = (4, 9, 10)
"""Packed floats, raw data, packed doubles. Source: onnx.proto, `TensorProto`."""

_KEY, _VALUE = 1, 2
_TEXT_CHARS = 256


class Part(NamedTuple):
    """One tensor.

    Attributes:
        start, end: Where its bytes lie in the file.
        name: As the file calls it.
    """

    start: int
    end: int
    name: str


def read(path: Path, model: Path | None = None) -> list[Part]:
    """Returns the tensors of a file in its order: none overlap, none is empty, all lie within the file.

    Args:
        path: The file.
        model: The ONNX model whose external data the file may be.

    Returns:
        Nothing where the file is of no known format, or contradicts itself.

    Raises:
        OSError: It cannot be read.
    """
    try:
        with Reader(path) as reader:
            size = reader.size
            found = list(_read(path, reader, model))
    except FormatError:
        return []
    return _sound(found, size)


def _read(path: Path, reader: Reader, model: Path | None) -> Iterable[Part]:
    start = reader.start(4)
    if start == gguf.MAGIC:
        return _gguf(path)
    if reader.size > 8 and safetensors.looks_like(reader):
        return _safetensors(reader)
    if model is not None:
        return _external(model, path.name)
    return _onnx(reader) if onnx.looks_like(reader) else ()


def _sound(parts: list[Part], size: int) -> list[Part]:
    """Sorts tensors and leaves out the empty ones; nothing is left where two overlap or one lies outside."""
    parts = sorted(part for part in parts if part.end != part.start)
    ends = [0, *(part.end for part in parts)]
    if any(part.start < before or part.end <= part.start for before, part in zip(ends, parts, strict=False)):
        return []
    return parts if ends[-1] <= size else []


def _safetensors(reader: Reader) -> Iterator[Part]:
    length = reader.number(0, "Q")
    if length > JSON_MOST_BYTES:
        raise FormatError("has a header that is too long to be looked at")
    try:
        header = json.loads(reader.at(8, length))
    except (ValueError, RecursionError):
        raise FormatError("has a safetensors header that is not JSON") from None
    if not isinstance(header, dict) or len(header) > TENSORS_MOST:
        raise FormatError("has a safetensors header that is no map, or too large")
    for name, tensor in header.items():
        if name != "__metadata__":
            yield _safetensors_part(name, tensor, 8 + length)


def _safetensors_part(name: str, tensor: Any, data_at: int) -> Part:
    match tensor:
        case {"data_offsets": [int() as begin, int() as end]} if 0 <= begin <= end:
            return Part(data_at + begin, data_at + end, name[:_TEXT_CHARS])
        case _:
            raise FormatError("has a safetensors header with a damaged entry")


def _gguf(path: Path) -> Iterator[Part]:
    """Each tensor goes on to where the next begins: what lies between pads it, and types may be unknown here."""
    with Reader(path) as whole, Reader(path, GGUF_HEAD_MOST_BYTES) as head:
        _, data_at, tensors = gguf.read_head(head, TENSORS_MOST)
        tensors.sort(key=lambda tensor: tensor.offset)
        ends = [data_at + tensor.offset for tensor in tensors[1:]] + [whole.size]
        for tensor, end in zip(tensors, ends, strict=False):
            yield Part(data_at + tensor.offset, end, tensor.name[:_TEXT_CHARS])


def _onnx(reader: Reader) -> Iterator[Part]:
    """The data of the main graph's initializers where they lie inside the file."""
    walk = Walk(reader, ONNX_FIELDS_MOST)
    for initializer in _initializers(walk):
        name, data = "", None
        for field in walk.inside(initializer):
            if field.kind == BYTES and field.number == _NAME:
                name = walk.text(field)
            elif field.kind == BYTES and field.number in _DATA:
                data = field
        if data is not None:
            yield Part(data.start, data.end, name)


def _external(model: Path, location: str) -> Iterator[Part]:
    """The tensors that an ONNX model keeps in the file of that name beside it."""
    with Reader(model) as reader:
        if onnx.looks_like(reader):
            walk = Walk(reader, ONNX_FIELDS_MOST)
            for initializer in _initializers(walk):
                name, said = _external_entries(walk, initializer)
                if said.get("location", "").rpartition("/")[2] == location and "length" in said:
                    start = _number(said.get("offset", "0"))
                    yield Part(start, start + _number(said["length"]), name)


def _external_entries(walk: Walk, initializer: Field) -> tuple[str, dict[str, str]]:
    name, said = "", {}
    for field in walk.inside(initializer):
        if field.kind == BYTES and field.number == _NAME:
            name = walk.text(field)
        elif field.kind == BYTES and field.number == _EXTERNAL:
            entry = {part.number: walk.text(part) for part in walk.inside(field) if part.kind == BYTES}
            said[entry.get(_KEY, "")] = entry.get(_VALUE, "")
    return name, said


def _number(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 16:
        raise FormatError("keeps external data at a place that is no number")
    return int(text)


def _initializers(walk: Walk) -> Iterator[Field]:
    count = 0
    for field in walk.fields(0, walk.size):
        if field.number == GRAPH:
            for inner in walk.inside(field):
                if inner.number == _INITIALIZER and inner.kind == BYTES:
                    count += 1
                    if count > TENSORS_MOST:
                        raise FormatError(f"has more than {TENSORS_MOST} tensors")
                    yield inner
