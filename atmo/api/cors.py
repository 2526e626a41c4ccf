"""Which web pages of other origins may use the endpoint, in the words of the Fetch standard. None, unless it is set.

A page that is not named gets no header at all, so that browsers keep answers from it; and what it sends is refused by
the guard, as some requests need no leave of a browser.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from starlette.responses import Response
from starlette.types import Scope

Headers = list[tuple[bytes, bytes]]

METHODS = b"GET, POST, DELETE, OPTIONS"
MAX_AGE_S = 600
"""A browser asks again after so long. Source: Chromium keeps an answer for two hours at most; settings change."""

_SHOWN = (
    b"x-request-id, x-atmosphere-node, x-atmosphere-node-id, x-atmosphere-path, x-atmosphere-model, x-atmosphere-rule,"
    b" x-atmosphere-reason, x-atmosphere-warning, retry-after"
)
_HEADER_NAMES = re.compile(rb"[A-Za-z0-9, -]{0,1024}")


class Cors:
    """The origins that may.

    Args:
        origins: Such as `https://app.example.org`.
    """

    def __init__(self, origins: Iterable[str]) -> None:
        self._origins = frozenset(origin.rstrip("/").lower() for origin in origins)

    def allows(self, origin: str) -> bool:
        """Says whether pages of that origin may use the endpoint."""
        return origin.lower() in self._origins

    def headers(self, origin: str) -> Headers:
        """Returns what an answer to a page carries that may read it."""
        return [
            (b"access-control-allow-origin", origin.encode("latin-1")),
            (b"access-control-expose-headers", _SHOWN),
            (b"vary", b"origin"),
        ]

    def preflight(self, scope: Scope, origin: str) -> Response | None:
        """Returns the answer to a browser that asks for leave ahead of a request; None where it does not."""
        asked = dict(scope["headers"])
        if scope.get("method") != "OPTIONS" or b"access-control-request-method" not in asked:
            return None
        response = Response(status_code=204)
        wanted = asked.get(b"access-control-request-headers", b"")
        headers: Headers = [
            (b"access-control-allow-origin", origin.encode("latin-1")),
            (b"access-control-allow-methods", METHODS),
            (b"access-control-max-age", str(MAX_AGE_S).encode()),
            (b"vary", b"origin, access-control-request-headers"),
        ]
        if wanted and _HEADER_NAMES.fullmatch(wanted):
            headers.append((b"access-control-allow-headers", wanted))
        if asked.get(b"access-control-request-private-network") == b"true":
            headers.append((b"access-control-allow-private-network", b"true"))
        response.raw_headers = headers
        return response
