"""ONNX files, read as plain protocol buffers. Source: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from atmo.storage.formats.reader import Detected, FormatError, Reader

_IR_VERSION, _GRAPH, _OPSET, _NOTES = 1, 7, 8, 14
_MODEL_FIELDS = frozenset([1, 2, 3, 4, 5, 6, 7, 8, 14, 20, 25, 26])
_NODE, _INITIALIZER, _INPUT, _OUTPUT = 1, 5, 11, 12
_ITEMS_MOST = 2_000_000
_NAMES_MOST = 64
_CLASSES_MOST = 256
_TYPES = {
    1: "float32",
    2: "uint8",
    3: "int8",
    6: "int32",
    7: "int64",
    8: "string",
    9: "bool",
    10: "float16",
    11: "float64",
}
_CLASSIFIERS = ("Classifier", "ZipMap")


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a message.

    Attributes:
        number: Its number.
        value: Of a varint; otherwise 0.
        start, end: Where the bytes of a length-delimited field lie; both 0 otherwise.
    """

    number: int
    value: int = 0
    start: int = 0
    end: int = 0


class Message:
    """A protocol buffer message inside a file.

    Args:
        reader: The file.
        start, end: Where the message lies.
        budget: One number, shared, of fields that may still be read.
    """

    def __init__(self, reader: Reader, start: int, end: int, budget: list[int]) -> None:
        self._reader, self._start, self._end, self._budget = reader, start, end, budget

    def __iter__(self) -> Iterator[Field]:
        at = self._start
        while at < self._end:
            self._budget[0] -= 1
            if self._budget[0] < 0:
                raise FormatError("has too many parts to be checked")
            field, at = self._field(at)
            if at > self._end:
                raise FormatError(f"is cut short: a part of it should go on to byte {at}")
            yield field

    def inside(self, field: Field) -> Message:
        """Returns the message that a field holds."""
        return Message(self._reader, field.start, field.end, self._budget)

    def text(self, field: Field) -> str:
        """Returns the first 256 bytes of a field as text."""
        count = min(field.end - field.start, 256)
        return self._reader.at(field.start, count).decode(errors="replace") if field.end <= self._end else ""

    def first(self, number: int) -> Field | None:
        """Returns the first field of that number."""
        return next((field for field in self if field.number == number), None)

    def name(self, number: int) -> str:
        """Returns the text of the first field of that number."""
        field = self.first(number)
        return self.text(field) if field else ""

    def _field(self, at: int) -> tuple[Field, int]:
        tag, at = self.varint(at)
        number, wire = tag >> 3, tag & 7
        if number == 0 or wire in (3, 4, 6, 7):
            raise FormatError("is not a protocol buffer")
        if wire == 0:
            value, at = self.varint(at)
            return Field(number, value), at
        if wire == 2:
            length, at = self.varint(at)
            return Field(number, 0, at, at + length), at + length
        return Field(number), at + (8 if wire == 1 else 4)

    def varint(self, at: int) -> tuple[int, int]:
        """Returns the number at `at` and where it ends."""
        value = 0
        for shift in range(0, 70, 7):
            byte = self._reader.at(at, 1)[0]
            at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value, at
        raise FormatError("is not a protocol buffer")


def looks_like(reader: Reader) -> bool:
    """Says whether the file begins as an ONNX model: its version, which is small, then another field of a model."""
    start = reader.start(3)
    return len(start) == 3 and start[0] == 0x08 and 1 <= start[1] <= 64 and start[2] >> 3 in _MODEL_FIELDS


def read(reader: Reader) -> Detected:
    """Walks the model's heads, which must fit the file exactly, and reads what it says of itself.

    Raises:
        FormatError: It is cut short, damaged, or keeps its weights in other files.
    """
    model = Message(reader, 0, reader.size, [_ITEMS_MOST])
    fields = list(model)
    numbers = {field.number for field in fields}
    if not numbers <= _MODEL_FIELDS or _IR_VERSION not in numbers:
        raise FormatError("is not an ONNX model")
    if _GRAPH not in numbers or _OPSET not in numbers:
        raise FormatError("is cut short: an ONNX model has a graph and the versions of its operators")
    graph = model.inside(next(field for field in fields if field.number == _GRAPH))
    inputs: list[dict[str, Any]] = []
    outputs: list[dict[str, Any]] = []
    initialized: set[str] = set()
    classes: list[Any] = []
    classifies = False
    for field in graph:
        if field.number == _INITIALIZER:
            initialized.add(_check_tensor(graph.inside(field)))
        elif field.number == _INPUT and len(inputs) < _NAMES_MOST:
            inputs.append(_value_info(graph.inside(field)))
        elif field.number == _OUTPUT and len(outputs) < _NAMES_MOST:
            outputs.append(_value_info(graph.inside(field)))
        elif field.number == _NODE:
            node = graph.inside(field)
            if node.name(4).endswith(_CLASSIFIERS):
                classifies = True
                classes = classes or _classes(node)
    config: dict[str, Any] = {
        "inputs": [value for value in inputs if value["name"] not in initialized],
        "outputs": outputs,
    }
    config |= {"classes": classes} if classes else {}
    notes = _notes(model, fields)
    config |= {"metadata": notes} if notes else {}
    return Detected(
        "onnx", ".onnx", "classifier" if classifies else "model", config, ("classify",) if classifies else ()
    )


def _check_tensor(tensor: Message) -> str:
    """Returns a tensor's name; its data must be in this file."""
    name = ""
    for field in tensor:
        if field.number == 8:
            name = tensor.text(field)
        elif field.number == 14 and field.value == 1:
            raise FormatError(
                "keeps weights in other files beside it; save it with all weights inside (onnx.save does)"
            )
    return name


def _value_info(info: Message) -> dict[str, Any]:
    """Reads a ValueInfoProto: name, element type and shape, where a dimension is a number or a name."""
    value: dict[str, Any] = {"name": info.name(1)}
    type_field = info.first(2)
    tensor_field = info.inside(type_field).first(1) if type_field else None
    if tensor_field:
        tensor = info.inside(tensor_field)
        kind, shape = tensor.first(1), tensor.first(2)
        value["type"] = _TYPES.get(kind.value if kind else 0, "other")
        if shape:
            value["shape"] = [_dimension(tensor.inside(dim)) for dim in tensor.inside(shape)][:16]
    return value


def _dimension(dimension: Message) -> Any:
    for field in dimension:
        return (
            field.value if field.number == 1 and field.value < 2**63 else (dimension.text(field) if field.end else None)
        )
    return None


def _classes(node: Message) -> list[Any]:
    """Reads the class labels of a classifier node: attribute `classlabels_*`, or `class_labels*` of a ZipMap."""
    labels: list[Any] = []
    for field in node:
        if field.number != 5:
            continue
        attribute = node.inside(field)
        if not attribute.name(1).startswith(("classlabels_", "classlabel_")):
            continue
        for part in attribute:
            if part.number == 9 and len(labels) < _CLASSES_MOST:  # strings
                labels.append(attribute.text(part))
            elif part.number == 8 and len(labels) < _CLASSES_MOST:  # ints
                labels += _integers(attribute, part)
    return labels[:_CLASSES_MOST]


def _integers(attribute: Message, part: Field) -> list[int]:
    if not part.end:
        return [part.value - 2**64 if part.value >= 2**63 else part.value]
    values: list[int] = []
    at = part.start
    while at < part.end and len(values) < _CLASSES_MOST:
        value, at = attribute.varint(at)
        values.append(value - 2**64 if value >= 2**63 else value)
    return values


def _notes(model: Message, fields: list[Field]) -> dict[str, str]:
    """Reads the model's own key and value notes."""
    entries = [model.inside(field) for field in fields if field.number == _NOTES][:32]
    return {entry.name(1): entry.name(2) for entry in entries}
