"""Which servers a request was sent to on its way here, so that nodes that are servers to each other end the circle.

Each connection to a server has a mark, drawn when it is set up, and sends it with those that a request brought along. A
request that comes back with the mark of a connection is not sent over that one again. Marks tell nobody anything else.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable
from contextvars import ContextVar

HEADER = "x-atmosphere-via"
MOST = 16
"""Servers that a request may be sent to, one by the other. Source: guess; two are unusual."""

_MARK = re.compile("[0-9a-f]{16}")
_passed: ContextVar[tuple[str, ...]] = ContextVar("passed", default=())
"""Of the request that a task works for."""


def new_mark() -> str:
    """Returns a mark that nobody else has."""
    return secrets.token_hex(8)


def came_by_untrusted(marks: object) -> None:
    """Notes what a request brought along, for all that this task does for it; anything else than marks is dropped."""
    listed = marks if isinstance(marks, Iterable) else ()
    _passed.set(tuple(mark for mark, _ in zip(listed, range(MOST), strict=False) if _is_mark(mark)))


def came_by() -> tuple[str, ...]:
    """Returns the marks of the request that this task works for."""
    return _passed.get()


def _is_mark(mark: object) -> bool:
    return isinstance(mark, str) and _MARK.fullmatch(mark) is not None
