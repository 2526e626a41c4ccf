"""What an ONNX file says of itself. Source: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto."""

from __future__ import annotations

from itertools import islice
from typing import Any

from atmo.storage.formats.onnx_check import GRAPH, MODEL_FIELDS, OPSET, check_onnx
from atmo.storage.formats.protobuf import BYTES, VARINT, Field, Walk
from atmo.storage.formats.reader import Detected, Reader

_PRODUCER, _NOTES = 2, 14
_OPSETS_MOST = 16
_NODE_OP, _NODE_ATTRIBUTE, _TENSOR_NAME = 4, 5, 8
_INTS, _STRINGS = 8, 9
_NODE, _INITIALIZER, _INPUT, _OUTPUT = 1, 5, 11, 12
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


def looks_like(reader: Reader) -> bool:
    """Says whether the file begins as an ONNX model: its version, which is small, then another field of a model."""
    start = reader.start(3)
    return len(start) == 3 and start[0] == 0x08 and 1 <= start[1] <= 64 and start[2] >> 3 in MODEL_FIELDS


def read(reader: Reader) -> Detected:
    """Looks through all of the file, then reads what it says of itself.

    Raises:
        FormatError: It is cut short, damaged, keeps its weights in other files, or needs operators that nobody has.
    """
    walk = Walk(reader)
    check_onnx(walk)
    fields = list(walk.fields(0, walk.size))
    inputs: list[dict[str, Any]] = []
    outputs: list[dict[str, Any]] = []
    initialized: set[str] = set()
    classes: list[Any] = []
    classifies = False
    for field in walk.inside(next(field for field in fields if field.number == GRAPH)):
        if field.number == _INITIALIZER:
            initialized.add(_text_of(walk, field, _TENSOR_NAME))
        elif field.number == _INPUT and len(inputs) < _NAMES_MOST:
            inputs.append(_value_info(walk, field))
        elif field.number == _OUTPUT and len(outputs) < _NAMES_MOST:
            outputs.append(_value_info(walk, field))
        elif field.number == _NODE and _text_of(walk, field, _NODE_OP).endswith(_CLASSIFIERS):
            classifies = True
            classes = classes or _classes(walk, field)
    config: dict[str, Any] = {
        "inputs": [value for value in inputs if value["name"] not in initialized],
        "outputs": outputs,
    }
    config |= {"opset": _opsets(walk, fields)}
    producer = next((walk.text(field) for field in fields if field.number == _PRODUCER and field.kind == BYTES), "")
    config |= {"producer": producer} if producer else {}
    config |= {"classes": classes} if classes else {}
    notes = _notes(walk, fields)
    config |= {"metadata": notes} if notes else {}
    return Detected(
        "onnx", ".onnx", "classifier" if classifies else "model", config, ("classify",) if classifies else ()
    )


def _first(walk: Walk, message: Field | None, number: int) -> Field | None:
    """Returns the first field of that number in a message."""
    return next((field for field in walk.inside(message) if field.number == number), None) if message else None


def _text_of(walk: Walk, message: Field, number: int) -> str:
    field = _first(walk, message, number)
    return walk.text(field) if field else ""


def _value_info(walk: Walk, info: Field) -> dict[str, Any]:
    """Reads a ValueInfoProto: name, element type and shape, where a dimension is a number or a name."""
    value: dict[str, Any] = {"name": _text_of(walk, info, 1)}
    tensor = _first(walk, _first(walk, info, 2), 1)
    if tensor:
        kind, shape = _first(walk, tensor, 1), _first(walk, tensor, 2)
        value["type"] = _TYPES.get(walk.number(kind) if kind else 0, "other")
        if shape:
            value["shape"] = [_dimension(walk, dimension) for dimension in islice(walk.inside(shape), 16)]
    return value


def _dimension(walk: Walk, dimension: Field) -> Any:
    for field in walk.inside(dimension):
        if field.number == 1:
            size = walk.number(field)
            return size if size < 2**63 else None
        return walk.text(field) if field.kind == BYTES else None
    return None


def _classes(walk: Walk, node: Field) -> list[Any]:
    """Reads the class labels of a classifier node: attribute `classlabels_*`, or `class_labels*` of a ZipMap."""
    labels: list[Any] = []
    for attribute in walk.inside(node):
        if attribute.number != _NODE_ATTRIBUTE:
            continue
        if not _text_of(walk, attribute, 1).startswith(("classlabels_", "classlabel_")):
            continue
        for part in walk.inside(attribute):
            if len(labels) >= _CLASSES_MOST:
                break
            if part.number == _STRINGS:
                labels.append(walk.text(part))
            elif part.number == _INTS:
                labels += _integers(walk, part)
    return labels[:_CLASSES_MOST]


def _integers(walk: Walk, part: Field) -> list[int]:
    """Reads integers, one or packed."""
    values: list[int] = []
    at = part.start
    while part.kind in (VARINT, BYTES) and at < part.end and len(values) < _CLASSES_MOST:
        value, at = walk.varint(at, part.end)
        values.append(value - 2**64 if value >= 2**63 else value)
    return values


def _opsets(walk: Walk, fields: list[Field]) -> dict[str, int]:
    """Reads which versions of which operators it needs; those without a domain are ONNX's own."""
    found: dict[str, int] = {}
    for field in [field for field in fields if field.number == OPSET][:_OPSETS_MOST]:
        version = _first(walk, field, 2)
        number = walk.number(version) if version else 0
        if number < 2**31:
            found[_text_of(walk, field, 1) or "ai.onnx"] = number
    return found


def _notes(walk: Walk, fields: list[Field]) -> dict[str, str]:
    """Reads the model's own key and value notes."""
    entries = [field for field in fields if field.number == _NOTES][:32]
    return {_text_of(walk, entry, 1): _text_of(walk, entry, 2) for entry in entries}
