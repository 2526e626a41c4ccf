"""A validator for the part of CDDL (RFC 8610) that docs/protocol.cddl uses.

The libraries at hand would not do: one takes the order of a map's keys for part of its type, the other lets a member
of the wrong type pass where it is optional. Left out here: generics, sockets, group choices, unwrapping, `.cbor`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import cbor2

Check = Callable[[Any], bool]
Rules = dict[str, Check]

_TOKEN = re.compile(r'\s*(?:;[^\n]*\n\s*)*(#6\.\d+|=>|\.\.|\.size|-?\d+|"[^"]*"|[A-Za-z_][\w-]*|[=/?*+,:()\[\]{}])')
_PRELUDE: Rules = {
    "any": lambda value: True,
    "bstr": lambda value: isinstance(value, bytes),
    "tstr": lambda value: isinstance(value, str),
    "int": lambda value: type(value) is int,
    "uint": lambda value: type(value) is int and value >= 0,
    "float": lambda value: isinstance(value, float),
    "number": lambda value: type(value) in (int, float),
    "bool": lambda value: isinstance(value, bool),
    "true": lambda value: value is True,
    "null": lambda value: value is None,
}


@dataclass(frozen=True)
class Entry:
    """One line of a map or array: how often, under which key (None in arrays), and what."""

    least: int
    most: float
    key: Check | None
    literal: Any
    value: Check


class Schema:
    """The rules of one text.

    Raises:
        SyntaxError: The text is not of the part of CDDL known here, or names a rule that it does not have.
    """

    def __init__(self, text: str) -> None:
        self.rules: Rules = dict(_PRELUDE)
        self._used: set[str] = set()
        self._tokens = _tokens(text)
        self._at = 0
        while self._at < len(self._tokens):
            name = self._take()
            self._expect("=")
            if name in self.rules:
                raise SyntaxError(f"{name} is defined twice")
            self.rules[name] = self._type()
        if missing := self._used - set(self.rules):
            raise SyntaxError(f"no rule for {missing}")

    def fits(self, rule: str, data: bytes) -> bool:
        """Says whether `data` is the encoding of a value that `rule` describes."""
        return self.rules[rule](cbor2.loads(data))

    def _peek(self, ahead: int = 0) -> str:
        return self._tokens[self._at + ahead] if self._at + ahead < len(self._tokens) else ""

    def _take(self) -> str:
        if self._at == len(self._tokens):
            raise SyntaxError("the text ends in the middle of a rule")
        self._at += 1
        return self._tokens[self._at - 1]

    def _expect(self, token: str) -> None:
        if self._peek() != token:
            raise SyntaxError(f"{self._peek()!r} where {token!r} should be, after {self._tokens[: self._at][-9:]}")
        self._at += 1

    def _type(self) -> Check:
        choices = [self._ranged()]
        while self._peek() == "/":
            self._at += 1
            choices.append(self._ranged())
        return choices[0] if len(choices) == 1 else lambda value: any(choice(value) for choice in choices)

    def _ranged(self) -> Check:
        if self._peek(1) == "..":
            return self._bounds()
        check = self._single()
        if self._peek() != ".size":
            return check
        self._at += 1
        within = self._bounds()
        return lambda value: check(value) and within(len(value.encode() if isinstance(value, str) else value))

    def _bounds(self) -> Check:
        """Reads `5`, `1..5` or `(1..5)`."""
        closing = self._peek() == "("
        self._at += closing
        least = most = int(self._take())
        if self._peek() == "..":
            self._at += 1
            most = int(self._take())
        if closing:
            self._expect(")")
        return lambda value: type(value) is int and least <= value <= most

    def _single(self) -> Check:
        token = self._take()
        if token in "{[":
            entries = self._entries("}" if token == "{" else "]")
            if token == "{":
                return lambda value: isinstance(value, Mapping) and _fits_map(entries, dict(value))
            return lambda value: isinstance(value, list | tuple) and _fits_list(entries, list(value))
        if token.startswith("#6."):
            self._expect("(")
            inner = self._type()
            self._expect(")")
            number = int(token[3:])
            return lambda value: isinstance(value, cbor2.CBORTag) and value.tag == number and inner(value.value)
        if token[0] in '"-' or token.isdigit():
            literal = _literal(token)
            return lambda value: type(value) is type(literal) and value == literal
        self._used.add(token)
        return lambda value: self.rules[token](value)

    def _entries(self, end: str) -> list[Entry]:
        entries = []
        while self._peek() != end:
            least, most = self._occurrence()
            key, literal = None, None
            if self._peek(1) in (":", "=>"):
                bare, by = self._take(), self._take()
                if by == ":" or bare[0] in '"-' or bare.isdigit():
                    literal = bare if re.match(r"[A-Za-z_]", bare) else _literal(bare)
                else:
                    key = _PRELUDE[bare]
            entries.append(Entry(least, most, key, literal, self._type()))
            if self._peek() == ",":
                self._at += 1
        self._expect(end)
        return entries

    def _occurrence(self) -> tuple[int, float]:
        if self._peek() in ("?", "+"):
            return (0, 1) if self._take() == "?" else (1, float("inf"))
        if "*" not in (self._peek(), self._peek(1)):
            return 1, 1
        least = 0 if self._peek() == "*" else int(self._take())
        self._expect("*")
        return least, int(self._take()) if self._peek().isdigit() else float("inf")


def _tokens(text: str) -> list[str]:
    tokens, position = [], 0
    text = re.sub(r";[^\n]*", "", text).strip()
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            raise SyntaxError(f"not CDDL known here: {text[position : position + 40]!r}")
        tokens.append(match[1])
        position = match.end()
    return tokens


def _literal(token: str) -> int | str:
    return token[1:-1] if token.startswith('"') else int(token)


def _fits_map(entries: list[Entry], value: dict[Any, Any]) -> bool:
    """A named member with a wrong value never passes as another: `:` cuts (RFC 8610 section 3.5.4)."""
    for entry in entries:
        if entry.literal is not None:
            if entry.literal not in value:
                if entry.least:
                    return False
            elif not entry.value(value.pop(entry.literal)):
                return False
    wildcards = [entry for entry in entries if entry.key is not None]
    return all(
        any(entry.key is not None and entry.key(key) and entry.value(item) for entry in wildcards)
        for key, item in value.items()
    )


def _fits_list(entries: list[Entry], value: list[Any]) -> bool:
    for entry in entries:
        count = 0
        while value and count < entry.most and entry.value(value[0]):
            value.pop(0)
            count += 1
        if count < entry.least:
            return False
    return not value
