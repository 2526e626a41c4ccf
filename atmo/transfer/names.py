"""Names, versions and paths of models: what may be written, and what `NAME[@RANGE]` selects."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_version
from packaging.version import InvalidVersion, Version

from atmo.wire import limits
from atmo.wire.versions import parse_range

VERSION_CHARS = 64
PATH_CHARS = 512
PART_BYTES = 200
"""One part of a path: file systems take 255 bytes; a suffix for temporary files needs room."""

_PART = r"[A-Za-z0-9][A-Za-z0-9._-]*"
_NAME = re.compile(rf"(?:{_PART}/)?{_PART}(?::{_PART})?")
_RESERVED_NAMES = ("auto",)  # what a request says when the mesh shall choose
_DEVICES = frozenset(
    [
        "con",
        "prn",
        "aux",
        "nul",
        "conin$",
        "conout$",
        *(f"{port}{digit}" for port in ("com", "lpt") for digit in "0123456789¹²³"),
    ]
)  # Source: Microsoft, "Naming Files, Paths, and Namespaces"
_BAD_IN_PATH = re.compile(r'[\x00-\x1f\x7f\\:*?"<>|]')


def check_name(name: str) -> str:
    """Returns `name` if it may name a model: `[owner/]name[:tag]` of letters, digits, dots, dashes and underscores.

    Raises:
        ValueError: It may not; the message says why.
    """
    if len(name) > limits.NAME_CHARS:
        raise ValueError(f"a model name has at most {limits.NAME_CHARS} characters")
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"{name!r} is not a model name: letters, digits, '.', '_' and '-', perhaps an owner/ before or a :tag after"
        )
    if name.casefold() in _RESERVED_NAMES:
        raise ValueError(f"{name!r} is what requests say to let the mesh choose; pick another name")
    return name


def name_from(text: str) -> str:
    """Makes a model name of any text, such as a file's stem."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("._-")[: limits.NAME_CHARS]
    return name if name and name.casefold() not in _RESERVED_NAMES else "model"


def check_version(version: str) -> str:
    """Returns `version` in PEP 440's normal form.

    Raises:
        ValueError: It is no version.
    """
    if len(version) > VERSION_CHARS:
        raise ValueError(f"a version has at most {VERSION_CHARS} characters")
    try:
        return str(Version(version))
    except InvalidVersion:
        raise ValueError(f"{version!r} is not a PEP 440 version such as 1.0.0") from None


def version_key(version: str) -> str:
    """Returns one text for versions that PEP 440 calls equal: 1.0 and 1.0.0."""
    return canonicalize_version(version)


def newest_first(versions: Iterable[str]) -> list[str]:
    """Sorts valid versions."""
    return sorted(versions, key=Version, reverse=True)


def next_version(versions: Iterable[str]) -> str:
    """Returns the version for a new content when nobody named one: 1.0.0, then the last number one higher."""
    newest = newest_first(versions)
    if not newest:
        return "1.0.0"
    last = Version(newest[0])
    epoch = f"{last.epoch}!" if last.epoch else ""
    return f"{epoch}{last.major}.{last.minor}.{last.micro + 1}"


def check_path(path: str) -> str:
    """Returns `path` if it is a relative path that is safe on every file system.

    Raises:
        ValueError: It is absolute, climbs, or has a part that some file system reads as something else.
    """
    if len(path) > PATH_CHARS or _BAD_IN_PATH.search(path):
        raise ValueError(f"the path {path[:80]!r} is too long or has a character that is not allowed in paths")
    for part in path.split("/"):
        if part in ("", ".", "..") or part[-1] in ". " or part[0] == " " or len(part.encode()) > PART_BYTES:
            raise ValueError(f"the path {path[:80]!r} is not a plain relative path")
        if part.split(".")[0].rstrip().casefold() in _DEVICES:
            raise ValueError(f"the path {path[:80]!r} names a device")
    return path


@dataclass(frozen=True, slots=True)
class Spec:
    """What `NAME[@RANGE]` asks for.

    Attributes:
        name: Of the model.
        wanted: Which versions.
        text: The range as it was written; empty or `latest` mean the newest.
    """

    name: str
    wanted: SpecifierSet
    text: str

    def matching(self, versions: Iterable[str]) -> list[str]:
        """Returns the versions in the range, newest first; pre-releases only where nothing else is in it."""
        return newest_first(self.wanted.filter(versions))

    def best(self, versions: Iterable[str]) -> str | None:
        """Returns the newest version in the range."""
        return next(iter(self.matching(versions)), None)

    def __str__(self) -> str:
        return f"{self.name}@{self.text}" if self.text else self.name


def parse_spec(text: str) -> Spec:
    """Reads `iris`, `iris@latest`, `iris@1.2.0`, `iris@1.*` or `iris@>=1,<2`.

    Raises:
        ValueError: The name or the range is none.
    """
    name, _, wanted = (part.strip() for part in text.partition("@"))
    check_name(name)
    return Spec(name, parse_range(wanted), wanted)
