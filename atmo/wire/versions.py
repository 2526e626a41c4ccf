"""Version ranges as requests and commands write them after the `@` of a model: PEP 440, and `latest`."""

from __future__ import annotations

from collections.abc import Iterable

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.version import Version

LATEST = "latest"

_SHOWN_CHARS = 64


def parse_range(text: str) -> SpecifierSet:
    """Reads `1.2.0`, `1.*`, `>=1,<2`, or `latest` and nothing, which mean every version.

    Raises:
        ValueError: It is neither a version nor a range.
    """
    text = text.strip()
    if text in ("", LATEST):
        return SpecifierSet()
    try:
        return SpecifierSet(text if text[0] in "<>=!~" else f"=={text}")
    except InvalidSpecifier:
        shown = repr(text[:_SHOWN_CHARS])
        raise ValueError(f"{shown} is neither a version nor a range such as 1.2.0, 1.* or >=1,<2") from None


def newest_in(wanted: SpecifierSet, versions: Iterable[Version]) -> list[Version]:
    """Returns the versions in the range, newest first; pre-releases only where nothing else is in it."""
    return sorted(wanted.filter(versions), reverse=True)
