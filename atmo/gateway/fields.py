"""The kinds of fields that bodies have: how one is checked, and what `/openapi.json` says of it.

Both come from the same table, so that what is written is what is done. A field that is null counts as left out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from atmo.errors import RequestError

Schema = dict[str, Any]

MOST = 2**63 - 1
"""The largest whole number that every runner takes."""

SHOWN = 64
"""Characters of a name from a body that an error repeats."""


class Field(Protocol):
    """One kind of value."""

    def check(self, param: str, value: Any) -> None:
        """Raises a `RequestError` that names `param` where `value` is no such thing; it is not null."""

    def schema(self) -> Schema:
        """Returns what JSON Schema (2020-12) says of it."""


def bad(param: str, what: str) -> RequestError:
    """Returns the error for a field that is not as it must be."""
    return RequestError(400, f"'{param}' {what}.", param=param, code="invalid_value")


@dataclass(frozen=True, slots=True)
class Number:
    """A number within bounds."""

    least: float
    most: float

    def check(self, param: str, value: Any) -> None:
        """See `Field`."""
        if type(value) not in (int, float) or not self.least <= value <= self.most:
            raise bad(param, f"must be a number from {self.least:g} to {self.most:g}")

    def schema(self) -> Schema:
        """See `Field`."""
        return {"type": "number", "minimum": self.least, "maximum": self.most}


@dataclass(frozen=True, slots=True)
class Count:
    """A whole number within bounds."""

    least: int
    most: int = MOST

    def check(self, param: str, value: Any) -> None:
        """See `Field`."""
        if type(value) is not int or not self.least <= value <= self.most:
            bounds = f", {self.least} or more" if self.most == MOST else f" from {self.least} to {self.most}"
            raise bad(param, f"must be a whole number{bounds}")

    def schema(self) -> Schema:
        """See `Field`."""
        return {"type": "integer", "minimum": self.least, "maximum": self.most}


@dataclass(frozen=True, slots=True)
class Flag:
    """True or false."""

    def check(self, param: str, value: Any) -> None:
        """See `Field`."""
        if type(value) is not bool:
            raise bad(param, "must be true or false")

    def schema(self) -> Schema:
        """See `Field`."""
        return {"type": "boolean"}


@dataclass(frozen=True, slots=True)
class Text:
    """A string of so many characters; `most` None for as many as a body holds."""

    most: int | None = None
    least: int = 0

    def check(self, param: str, value: Any) -> None:
        """See `Field`."""
        if type(value) is not str:
            raise bad(param, "must be a string")
        if len(value) < self.least:
            raise bad(param, "must not be empty")
        if self.most is not None and len(value) > self.most:
            raise bad(param, f"is longer than {self.most} characters")

    def schema(self) -> Schema:
        """See `Field`."""
        bounds = {"minLength": self.least} if self.least else {}
        return {"type": "string", **bounds} | ({} if self.most is None else {"maxLength": self.most})


@dataclass(frozen=True, slots=True)
class Words:
    """One of a few words."""

    words: tuple[str, ...]

    def check(self, param: str, value: Any) -> None:
        """See `Field`."""
        if value not in self.words:
            raise bad(param, f"must be one of {', '.join(self.words)}")

    def schema(self) -> Schema:
        """See `Field`."""
        return {"type": "string", "enum": list(self.words)}


@dataclass(frozen=True, slots=True)
class Many:
    """A list of things of one kind."""

    item: Field
    most: int
    least: int = 0

    def check(self, param: str, value: Any) -> None:
        """See `Field`."""
        if type(value) is not list:
            raise bad(param, "must be a list")
        if not self.least <= len(value) <= self.most:
            raise bad(param, f"must have {self.least} to {self.most} items, not {len(value)}")
        for index, item in enumerate(value):
            self.item.check(f"{param}[{index}]", item)

    def schema(self) -> Schema:
        """See `Field`."""
        return {"type": "array", "items": self.item.schema(), "minItems": self.least, "maxItems": self.most}


@dataclass(frozen=True, slots=True)
class Either:
    """A value of one of several kinds that JSON tells apart.

    Attributes:
        kinds: For each type of JSON, as Python has it, the kind it must be.
        says: What it must be, for who sends something else.
    """

    kinds: Mapping[type, Field]
    says: str

    def check(self, param: str, value: Any) -> None:
        """See `Field`."""
        kind = self.kinds.get(type(value))
        if kind is None:
            raise bad(param, f"must be {self.says}")
        kind.check(param, value)

    def schema(self) -> Schema:
        """See `Field`."""
        return {"anyOf": [kind.schema() for kind in self.kinds.values()]}


@dataclass(frozen=True, slots=True)
class Record:
    """An object. Fields that the table does not have pass, whatever they are.

    Attributes:
        fields: The known ones.
        required: Which of them must be there.
        more: What every other field must be, for objects that are maps; None for anything.
        most: Fields that it may have; None for as many as a body holds, which are only counted, not looked at.
        rule: What fields must fulfil together; it gets the name of the object and the object.
    """

    fields: Mapping[str, Field] = field(default_factory=dict)
    required: tuple[str, ...] = ()
    more: Field | None = None
    most: int | None = None
    rule: Callable[[str, dict[str, Any]], None] | None = None

    def check(self, param: str, value: Any) -> None:
        """See `Field`."""
        if type(value) is not dict:
            raise bad(param, "must be an object")
        if self.most is not None and len(value) > self.most:
            raise bad(param, f"has more than {self.most} entries")
        prefix = f"{param}." if param else ""
        fields = self.fields
        for name, item in value.items():
            kind = fields.get(name, self.more)
            if kind is not None and item is not None:
                kind.check(f"{prefix}{name[:SHOWN]}", item)
        for name in self.required:
            if value.get(name) is None:
                raise bad(f"{prefix}{name}", "is missing")
        if self.rule is not None:
            self.rule(param, value)

    def schema(self) -> Schema:
        """See `Field`."""
        properties = {
            name: kind.schema() if name in self.required else or_null(kind.schema())
            for name, kind in self.fields.items()
        }
        more = True if self.more is None else or_null(self.more.schema())
        bounds: Schema = {"required": list(self.required)} if self.required else {}
        bounds |= {} if self.most is None else {"maxProperties": self.most}
        return {"type": "object", "properties": properties, **bounds, "additionalProperties": more}


@dataclass(frozen=True, slots=True)
class Opaque:
    """A value that whoever runs the request reads; here only its type of JSON is known, or not even that."""

    type: str = ""

    def check(self, param: str, value: Any) -> None:
        """See `Field`; there is nothing to check."""

    def schema(self) -> Schema:
        """See `Field`."""
        return {"type": self.type} if self.type else {}


@dataclass(frozen=True, slots=True)
class Described:
    """A kind with a sentence for people, an example or a default."""

    kind: Field
    about: Mapping[str, Any]

    def check(self, param: str, value: Any) -> None:
        """See `Field`."""
        self.kind.check(param, value)

    def schema(self) -> Schema:
        """See `Field`."""
        return {**self.kind.schema(), **self.about}


@dataclass(frozen=True, slots=True)
class Matching:
    """A string of a pattern."""

    pattern: re.Pattern[str]
    says: str

    def check(self, param: str, value: Any) -> None:
        """See `Field`."""
        if type(value) is not str or self.pattern.fullmatch(value) is None:
            raise bad(param, f"must be {self.says}")

    def schema(self) -> Schema:
        """See `Field`."""
        return {"type": "string", "pattern": f"^{self.pattern.pattern}$"}


OBJECT = Record()
"""Any object."""


def or_null(schema: Schema) -> Schema:
    """Returns the schema of a field that may be null instead."""
    kind = schema.get("type")
    if isinstance(kind, str):
        words = {"enum": [*schema["enum"], None]} if "enum" in schema else {}
        return {**schema, "type": [kind, "null"], **words}
    if "anyOf" in schema:
        return {**schema, "anyOf": [*schema["anyOf"], {"type": "null"}]}
    return schema
