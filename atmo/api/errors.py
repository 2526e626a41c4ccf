"""Every error of the API in OpenAI's shape, whoever raised it."""

# FastAPI runs plain functions in threads, so routes without an await are async all the same.
# flake8: noqa: ASYNC124

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from atmo.errors import RequestError, UserError
from atmo.gateway.jsontext import dump

ROUTES = (
    "POST /v1/chat/completions",
    "POST /v1/embeddings",
    "GET /v1/models",
    "GET /v1/models/download/{model}",
    "POST /v1/ml/classify",
    "POST /v1/ml/anomaly",
    "GET /v1/mesh/nodes",
    "GET /v1/mesh/models",
    "POST /v1/mesh/route",
    "GET /health",
)
"""What somebody who asks for a route that does not exist is told."""

RETRY_AFTER_S = 2
"""For clients that were refused because the node is busy. Source: guess."""

INTERNAL = RequestError(
    500, "Something went wrong inside this node; its log has the details.", kind="api_error", code="internal_error"
)


def error_response(error: RequestError) -> Response:
    """Returns `error` as an HTTP response."""
    headers = {"retry-after": str(RETRY_AFTER_S)} if error.status in (429, 503) else None
    return Response(dump(error.body()), error.status, headers, "application/json")


def add_handlers(app: FastAPI, routes: Sequence[str] = ROUTES) -> None:
    """Has every error that a route raises answered in OpenAI's shape.

    Args:
        app: The application.
        routes: Its routes, for who asks for another one.
    """
    app.add_exception_handler(RequestError, _request_error)
    app.add_exception_handler(UserError, _user_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(HTTPException, partial(_http_error, routes))


async def _request_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestError)
    return error_response(error)


async def _user_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, UserError)
    return error_response(RequestError(400, str(error)))


async def _validation_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    param = ".".join(str(step) for step in first["loc"][1:]) or str(first["loc"][0])
    return error_response(RequestError(400, f"'{param}': {first['msg']}.", param=param, code="invalid_value"))


async def _http_error(routes: Sequence[str], request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    path = request.url.path[:128]
    if error.status_code == 404:
        message, code = f"There is no {path}. Routes are: {', '.join(routes)}.", "not_found"
    elif error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "another method")
        message, code = f"{path} does not take {request.method}: use {allowed}.", "method_not_allowed"
    else:
        message, code = str(error.detail), "http_error"
    response = error_response(RequestError(error.status_code, message, code=code))
    response.headers.update(error.headers or {})
    return response
