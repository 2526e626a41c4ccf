"""The short way to endpoints that take nothing from FastAPI: no search among routes, no dependencies, no validation.

Most of what a request costs is FastAPI's share (docs/measurements.md, section Gateway), and the endpoints that matter
read the request themselves. They are declared as all others are, so `/openapi.json` and wrong methods are FastAPI's.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from fastapi import APIRouter
from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from atmo.api.account import account_of

Endpoint = Callable[[], Awaitable[Response]]
Handlers = Mapping[Any, Callable[[Request, Exception], Any]]


class DirectRoutes:
    """Endpoints by method and path."""

    def __init__(self) -> None:
        self._endpoints: dict[tuple[str, str], Endpoint] = {}

    def add(self, router: APIRouter) -> APIRouter:
        """Takes the routes of `router` that need nothing but to be called; returns it."""
        for route in router.routes:
            if isinstance(route, APIRoute) and _takes_nothing(route):
                for method in route.methods or ():
                    self._endpoints[method, route.path] = route.endpoint
        return router

    def find(self, scope: Scope) -> Endpoint | None:
        """Returns the endpoint of a request, None where FastAPI has to look."""
        return self._endpoints.get((scope["method"], scope["path"])) if scope["type"] == "http" else None


class Direct:
    """Plain ASGI middleware, the innermost one.

    Args:
        app: For all other requests.
        routes: Endpoints that are called past it.
        handlers: What answers an error that an endpoint raises, by its type.
    """

    def __init__(self, app: ASGIApp, routes: DirectRoutes, handlers: Handlers) -> None:
        self._app = app
        self._routes = routes
        self._handlers = handlers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request."""
        endpoint = self._routes.find(scope)
        if endpoint is None:
            await self._app(scope, receive, send)
            return
        try:
            response = await endpoint()
            await response(scope, receive, send)
        except Exception as error:
            handler = next((self._handlers[kind] for kind in type(error).__mro__ if kind in self._handlers), None)
            if handler is None or account_of(scope).first_byte_s is not None:
                raise
            answer = await handler(Request(scope, receive), error)
            await answer(scope, receive, send)


def _takes_nothing(route: APIRoute) -> bool:
    return "{" not in route.path and not route.dependencies and not inspect.signature(route.endpoint).parameters
