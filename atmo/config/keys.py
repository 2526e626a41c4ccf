"""Keys, the values that sources give them, and how the last good one of each is kept with where it came from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from atmo.errors import UserError

Check = Callable[[Any, str, Path], Any]
"""`check(value, where, base)`: `where` opens its error message, `base` is what relative paths start from."""

DEFAULT, LLAMAFARM, FILE, VARIABLE, FLAG = "default", "llamafarm", "file", "variable", "flag"
"""Kinds of sources; each goes over those before it."""


@dataclass(frozen=True, slots=True)
class Variable:
    """An environment variable that sets a key.

    Attributes:
        name: Of the variable.
        check: Of its text; None where it is that of the key.
    """

    name: str
    check: Check | None = None


@dataclass(frozen=True, slots=True)
class Key:
    """One value that can be set.

    Attributes:
        name: With dots for the sections that it is in, such as `bridge.http_port`.
        check: Of a value in a file, and of a flag's.
        default: What holds where nobody says anything.
        variables: Of the environment; the first one that says something counts.
        flag: Of `atmo node`, empty where there is none.
        flag_check: Of what the flag says, where it is written otherwise than in a file.
        merge: Puts a flag's value over what a file says; None replaces it.
        secret: Is never shown.
    """

    name: str
    check: Check
    default: Any = None
    variables: tuple[Variable, ...] = ()
    flag: str = ""
    flag_check: Check | None = None
    merge: Callable[[Any, Any], Any] | None = None
    secret: bool = False


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a value came from.

    Attributes:
        kind: One of the kinds of sources.
        place: The file, the variable or the flag; empty for a default.
    """

    kind: str = DEFAULT
    place: str = ""


@dataclass(frozen=True, slots=True)
class Given:
    """What one source says of one key, not yet checked.

    Attributes:
        key: Its name.
        value: As it was read.
        where: What opens an error about it: `FILE: KEY`, the variable or the flag.
        origin: The source.
        base: What relative paths start from.
        check: Of this source, None for that of the key.
    """

    key: str
    value: Any
    where: str
    origin: Origin
    base: Path
    check: Check | None = None


@dataclass(frozen=True, slots=True)
class Settled:
    """A value that counts, and who said it.

    Attributes:
        value: Checked.
        origin: The source that counts.
        where: What opens an error about it.
    """

    value: Any
    origin: Origin = Origin()
    where: str = ""


class Values(dict[str, Settled]):
    """The value of every key, by its name."""

    def get_of(self, section: str, *names: str) -> list[Any]:
        """Returns the values of the keys `section.NAME`."""
        return [self[f"{section}.{name}"].value for name in names]


class SeveralError(UserError):
    """More than one thing is wrong with one value; it reads like the first of them."""

    def __init__(self, errors: list[UserError]) -> None:
        super().__init__(errors[0].message, errors[0].hint)
        self.errors = errors


@dataclass(slots=True)
class Problems:
    """Collects what is wrong instead of ending at the first of it.

    Attributes:
        errors: What is wrong, in the order in which it was found.
        notes: What is right and has no effect.
    """

    errors: list[UserError] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Keeps an error of the block."""
        try:
            yield
        except SeveralError as several:
            self.errors += several.errors
        except UserError as error:
            self.errors.append(error)

    def raise_all(self) -> None:
        """Raises what was kept, if anything."""
        if self.errors:
            raise self.errors[0] if len(self.errors) == 1 else SeveralError(self.errors)


def settle(keys: Mapping[str, Key], given: Iterable[Given], problems: Problems) -> Values:
    """Checks everything that was given, and keeps the last good value of each key.

    Args:
        keys: All keys by name.
        given: From the weakest source to the strongest.
        problems: Gets what is wrong.
    """
    values = Values({name: Settled(key.default) for name, key in keys.items()})
    for one in given:
        key = keys[one.key]
        with problems.kept():
            try:
                value = (one.check or key.check)(one.value, one.where, one.base)
            except OSError as error:
                raise UserError(f"{one.where}: {error.filename} cannot be looked at: {error.strerror}.") from error
            if one.origin.kind == FLAG and key.merge is not None:
                value = key.merge(values[one.key].value, value)
            values[one.key] = Settled(value, one.origin, one.where)
    return values


def from_environment(keys: Iterable[Key], environ: Mapping[str, str], base: Path) -> Iterator[Given]:
    """Yields what the environment says; an empty variable says nothing."""
    for key in keys:
        for variable in key.variables:
            if text := environ.get(variable.name, "").strip():
                yield Given(key.name, text, variable.name, Origin(VARIABLE, variable.name), base, variable.check)
                break


def from_flags(keys: Mapping[str, Key], flags: Mapping[str, Any]) -> Iterator[Given]:
    """Yields what the command line says; None and an empty list say nothing."""
    for name, value in flags.items():
        if value is not None and value != []:
            key = keys[name]
            yield Given(name, value, key.flag, Origin(FLAG, key.flag), Path.cwd(), key.flag_check)
