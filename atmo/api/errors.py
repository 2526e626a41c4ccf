"""Every error of the API in OpenAI's shape, whoever raised it."""

# An endpoint is async whether it has to wait for anything or not.
# flake8: noqa: ASYNC124

from __future__ import annotations

import difflib
import math
from collections.abc import Sequence

from starlette.requests import Request
from starlette.responses import Response

from atmo.api.account import account_of
from atmo.api.routing import Handler
from atmo.errors import RequestError, UserError
from atmo.gateway.jsontext import dump

ROUTES = (
    "POST /v1/chat/completions",
    "POST /v1/completions",
    "POST /v1/responses",
    "POST /v1/embeddings",
    "GET /v1/models",
    "POST /v1/images/generations",
    "POST /v1/audio/transcriptions",
    "POST /v1/audio/speech",
    "POST /v1/mesh/route",
    "GET /health",
    "GET /docs for all others",
)
"""What somebody who asks for a route that does not exist is told."""

RETRY_AFTER_S = 2.0
"""For clients that were refused because the node is busy, where nobody knows better. Source: guess."""

HOPELESS = frozenset({"constraints_not_met", "insufficient_quota", "no_capability", "no_key", "no_trainer"})
"""Codes of errors that the same request meets again, although its status is one that clients repeat by themselves."""

INTERNAL = RequestError(
    500, "Something went wrong inside this node; its log has the details.", kind="api_error", code="internal_error"
)


def error_response(error: RequestError) -> Response:
    """Returns `error` as an HTTP response."""
    return Response(dump(error.body()), error.status, retry_headers(error), "application/json")


def retry_headers(error: RequestError) -> dict[str, str]:
    """Returns what tells a client whether to send the same request again, and when.

    `retry-after-ms` and `x-should-retry` are OpenAI's; its clients repeat 408, 409, 429 and all from 500 by themselves.
    """
    hopeless = error.code in HOPELESS
    seconds = error.retry_s or (0.0 if hopeless or error.status not in (429, 503) else RETRY_AFTER_S)
    headers = {"x-should-retry": "false"} if hopeless else {}
    if seconds:
        headers |= {"retry-after": str(math.ceil(seconds)), "retry-after-ms": str(math.ceil(seconds * 1_000))}
    return headers


def _told(request: Request, error: RequestError) -> Response:
    account_of(request.scope).error = error.code or error.kind
    return error_response(error)


async def _request_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestError)
    return _told(request, error)


async def _user_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, UserError)
    return _told(request, RequestError(400, str(error)))


def _instead(path: str, routes: Sequence[str]) -> str:
    """Returns what to ask for instead: most who are lost have a base URL without `/v1`, or a slash too many."""
    given = path.rstrip("/")
    meant = next((route for route in routes if given.endswith(route.partition("/v1")[2] or "\0")), "")
    if meant:
        return f"The route is {meant}: the base URL of a client ends in /v1."
    named = {route.split()[1]: " ".join(route.split()[:2]) for route in routes}
    if near := difflib.get_close_matches(given, named, n=1, cutoff=0.8):
        return f"Did you mean {named[near[0]]}?"
    return f"Routes are: {', '.join(routes)}."


def missing(routes: Sequence[str], request: Request, methods: Sequence[str]) -> Response:
    """Answers a request that no route takes.

    Args:
        routes: What there is.
        request: What was asked.
        methods: Those that its path takes.
    """
    path = request.scope["path"][:128]
    if not methods:
        return _told(request, RequestError(404, f"There is no {path}. {_instead(path, routes)}", code="not_found"))
    allowed = ", ".join(methods)
    message = f"{path} does not take {request.method}: use {allowed}."
    response = _told(request, RequestError(405, message, code="method_not_allowed"))
    response.headers["allow"] = allowed
    return response


HANDLERS: dict[type[Exception], Handler] = {RequestError: _request_error, UserError: _user_error}
"""Has every error that an endpoint raises answered in OpenAI's shape."""
