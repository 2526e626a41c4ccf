"""How a file is laid out: which of its entries is which key, so that two files with other words set the same keys."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from atmo.config.checks import kind_of, unknown_key
from atmo.config.keys import Check, Given, Key, Origin, Problems
from atmo.errors import UserError


@dataclass(frozen=True, slots=True)
class To:
    """An entry that sets a key.

    Attributes:
        key: Its name.
        check: Where the value is written otherwise than the key's own.
    """

    key: str
    check: Check | None = None


@dataclass(frozen=True, slots=True)
class Note:
    """An entry that may be there and has no effect.

    Attributes:
        reason: Why, for `atmo config check`.
    """

    reason: str


@dataclass(frozen=True, slots=True)
class Spread:
    """A mapping that is read as a whole.

    Attributes:
        read: Yields what it says: the key, the value, and where the value stands; or a note.
    """

    read: Callable[[Any, str, Problems], Iterator[tuple[str, Any, str]]]


Layout = Mapping[str, To | Note | Spread]
"""Entries by their names, with dots for the mappings that they are in."""


def own_layout(keys: Iterable[Key], others: Layout) -> dict[str, To | Note | Spread]:
    """Returns the layout of a file that calls every key by its name, and knows `others` besides."""
    return {**{key.name: To(key.name) for key in keys}, **others}


@dataclass(frozen=True, slots=True)
class Reading:
    """One file that is being read.

    Attributes:
        layout: What its entries mean.
        origin: The file.
        base: What relative paths start from.
        problems: Gets what is wrong, and the notes.
        empty_is_unset: Whether an entry without a value says nothing.
        elsewhere: Hints for entries that belong into another place.
    """

    layout: Layout
    origin: Origin
    base: Path
    problems: Problems
    empty_is_unset: bool = False
    elsewhere: Mapping[str, str] | None = None

    def read(self, raw: Mapping[Any, Any], where: str, above: str = "") -> Iterator[Given]:
        """Yields what a mapping of the file gives.

        Args:
            raw: The mapping.
            where: What opens errors about it.
            above: The names that it is in, with a dot at the end.
        """
        for key, value in raw.items():
            if value is None and self.empty_is_unset:
                continue
            name, place = f"{above}{key}", f"{where}: {key}"
            entry = self.layout.get(name)
            if isinstance(entry, To):
                yield Given(entry.key, value, place, self.origin, self.base, entry.check)
            elif isinstance(entry, Note):
                self.problems.notes.append(f"{place}: {entry.reason}")
            elif isinstance(entry, Spread):
                with self.problems.kept():
                    for target, given, at in entry.read(value, place, self.problems):
                        yield Given(target, given, at, self.origin, self.base)
            elif self._within(f"{name}."):
                yield from self._section(value, place, f"{name}.")
            else:
                with self.problems.kept():
                    raise unknown_key(str(key), self._siblings(above), where, self.elsewhere or {})

    def _section(self, value: Any, place: str, above: str) -> Iterator[Given]:
        if isinstance(value, dict):
            yield from self.read(value, place, above)
            return
        switch = self.layout.get(f"{above}enabled")
        if isinstance(value, bool) and isinstance(switch, To):
            yield Given(switch.key, value, place, self.origin, self.base, switch.check)
            return
        self.problems.errors.append(UserError(f"{place}: is {kind_of(value)} where a mapping belongs."))

    def _within(self, above: str) -> bool:
        return any(name.startswith(above) for name in self.layout)

    def _siblings(self, above: str) -> list[str]:
        names = (name.removeprefix(above).split(".")[0] for name in self.layout if name.startswith(above))
        return list(dict.fromkeys(names))
