"""Values of wire dataclasses at, below and over their limits, made from the annotations."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Iterator
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from atmo.identity import NodeId
from atmo.transfer.manifest import Deployment, Manifest, ModelFile
from atmo.transfer.terms import Access, Base
from atmo.trust.genesis import Genesis
from atmo.wire import limits
from atmo.wire.address import Address
from atmo.wire.schema import Most, to_wire

NODE = NodeId(b"n" * 32)
HASH = b"h" * 32
FILE = ModelFile("model.onnx", 70_000, HASH, 65_536, HASH * 2, bytes.fromhex("0001000000001170"))
CHECKED: dict[type, dict[str, Any]] = {
    Genesis: {"founders": [bytes(NODE)]},
    Address: {"host": "2001:db8::1", "port": 65_535},
    ModelFile: to_wire(FILE),
    Deployment: {"priority": "critical", "replicas": 2**31, "regions": ["eu"], "roles": ["edge"]},
    Access: {"read": ["r" * 32], "write": ["admin"], "deploy": ["admin", "gateway"]},
    Base: {"name": "base", "version": "1.0.0", "manifest": HASH},
    Manifest: {
        "name": "owner/model",
        "version": "1.0.0",
        "type": "classifier",
        "file": "model.onnx",
        "format": "onnx",
        "size_bytes": 70_000,
        "checksum_sha256": HASH,
        "files": [to_wire(FILE)],
        "trained_on": "2026-01-01T00:00:00+00:00",
        "requirements": ["numpy>=2"],
        "capabilities": ["classify"],
        "config": {"threshold": 0.5, "classes": ["a", "b"], "nested": {"on": True}},
    },
}
"""Fields of classes whose constructor asks for more than their annotations say."""


@dataclasses.dataclass(frozen=True)
class Field:
    """One field of a wire dataclass: its plain annotation, its limit, and whether it must be there."""

    name: str
    hint: Any
    most: int | None
    required: bool


def fields_of(cls: type) -> Iterator[Field]:
    hints = get_type_hints(cls, include_extras=True)
    for field in dataclasses.fields(cls):
        hint, most = plain(hints[field.name])
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        yield Field(field.name, hint, most, required)


def plain(hint: Any) -> tuple[Any, int | None]:
    """Returns an annotation without None and without its bound, and the bound."""
    if get_origin(hint) in (Union, types.UnionType):
        hint = get_args(hint)[0]
    if get_origin(hint) is Annotated:
        inner, *extras = get_args(hint)
        return inner, next(extra.limit for extra in extras if isinstance(extra, Most))
    return hint, None


def full(cls: type) -> dict[str, Any]:
    """Returns the wire form with every field there, each at its limit, lists with two elements."""
    checked = CHECKED.get(cls, {})
    return {field.name: checked.get(field.name) or largest(field.hint, field.most) for field in fields_of(cls)}


def largest(hint: Any, most: int | None) -> Any:
    if get_origin(hint) is tuple:
        return [largest(*plain(get_args(hint)[0]))] * 2
    if dataclasses.is_dataclass(hint):
        return full(hint)  # type: ignore[arg-type]
    if hint in (str, bytes):
        count = most if most is not None else limits.TEXT_CHARS if hint is str else limits.MESSAGE_BYTES
        return ("😀" if hint is str else b"x") * count
    if hint is int:
        return 2**63 if most is None else most
    return {bool: True, float: 0.25, NodeId: bytes(NODE)}[hint]


def wrong(field: Field) -> Iterator[Any]:
    """Yields values that the field must not have: over its limit, and of other types."""
    if get_origin(field.hint) is tuple:
        most = 4_096 if field.most is None else field.most
        yield [smallest(*plain(get_args(field.hint)[0]))] * (most + 1)
    elif field.hint is str:
        yield largest(str, field.most) + "x"
    elif field.hint is bytes and field.most != limits.MANIFEST_BYTES:  # 64 MiB would make a slow test
        yield largest(bytes, field.most) + b"x"
    elif field.hint is int:
        yield largest(int, field.most) + 1
        yield -1
    elif field.hint is NodeId:
        yield bytes(31)
    yield {str: b"x", bytes: "x", int: "1", bool: 0, float: "1", NodeId: "n" * 32}.get(field.hint, 1.5)


def smallest(hint: Any, most: int | None) -> Any:
    if dataclasses.is_dataclass(hint):
        cls: Any = hint
        checked = CHECKED.get(cls, {})
        return {
            field.name: checked.get(field.name) or smallest(field.hint, field.most)
            for field in fields_of(cls)
            if field.required
        }
    empty: dict[Any, Any] = {str: "", bytes: b"", int: 0, bool: False, NodeId: bytes(NODE)}
    return [] if get_origin(hint) is tuple else empty[hint]
