"""Which bytes of a file a request asks for, and whether it wants them at all. Source: RFC 9110, sections 13 and 14."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

_SPEC = re.compile(r"(?:([0-9]+)-([0-9]*)|-([0-9]+))")
_DIGITS_MOST = 18
"""A longer number is beyond every file."""


class Unsatisfiable(Exception):
    """No byte of the file is asked for, or several pieces at once."""


@dataclass(frozen=True, slots=True)
class Span:
    """Bytes of a file.

    Attributes:
        start: The first.
        end: The one after the last.
    """

    start: int
    end: int


def wanted_span(headers: Sequence[str], size: int) -> Span | None:
    """Returns the bytes that `Range` asks for; None where it is to be ignored: absent, of another unit, or no range.

    Args:
        headers: All headers of that name.
        size: Of the file, in bytes.

    Raises:
        Unsatisfiable: It asks for nothing that is there. Several ranges are refused as well: nobody who resumes a
            download asks for them, and to answer with the whole file would cost both ends gigabytes.
    """
    unit, equals, text = ",".join(headers).partition("=")
    if not equals or unit.strip().lower() != "bytes":
        return None
    specs = [_SPEC.fullmatch(part.strip()) for part in text.split(",") if part.strip()]
    if not specs or None in specs:
        return None
    if len(specs) > 1:
        raise Unsatisfiable("several ranges in one request are not served: ask for one after the other")
    (spec,) = specs
    assert spec is not None
    if spec[3] is not None:
        start, end = max(0, size - _number(spec[3])), size
    else:
        start, end = _number(spec[1]), min(_number(spec[2]) + 1, size) if spec[2] else size
        if spec[2] and _number(spec[2]) < start:
            return None
    if start >= end:
        raise Unsatisfiable(f"the file has {size} bytes")
    return Span(start, end)


def is_range_current(if_range: str | None, etag: str) -> bool:
    """Says whether a range may be sent: `If-Range` is absent or names this very content. A date never does."""
    return if_range is None or if_range.strip() == etag


def is_matched(header: Sequence[str], etag: str, *, weakly: bool) -> bool:
    """Says whether a list of entity tags, as of `If-Match` (strongly) or `If-None-Match` (weakly), names this one."""
    tags = [tag.strip() for tag in ",".join(header).split(",")]
    return "*" in tags or etag in tags or (weakly and f"W/{etag}" in tags)


def _number(text: str) -> int:
    digits = text.lstrip("0")
    return int(digits or "0") if len(digits) <= _DIGITS_MOST else 10**_DIGITS_MOST
