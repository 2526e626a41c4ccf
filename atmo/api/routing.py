"""Which endpoint answers a method and a path, and what each route says of itself.

An endpoint is an async function that returns a `Response`. It may take `request`, and the parameters of its path by
their names; a query it reads itself. Requests are checked where they are understood, by tables that peers share
(`gateway.checks`), so a framework that validates them had nothing to do here, and most of a request's time.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocket

from atmo.api.account import account_of

Endpoint = Callable[..., Awaitable[Response]]
Socket = Callable[[WebSocket], Awaitable[None]]
Wrap = Callable[[Endpoint], Endpoint]
Handler = Callable[[Request, Exception], Awaitable[Response]]
Missing = Callable[[Request, Sequence[str]], Response]
"""Answers a request that no route takes; gets the methods that others of its path take."""

_PARAMETER = re.compile(r"{(\w+)(:path)?}")


@dataclass(frozen=True, slots=True)
class Route:
    """One method of one path.

    Attributes:
        method, path: With parameters as `{name}`, or `{name:path}` for one that may have slashes.
        endpoint: Answers.
        takes: The arguments of `endpoint` that it is to be given.
        about: What `/openapi.json` says beside what follows from the route: body and query.
        shown: It is in `/openapi.json`.
    """

    method: str
    path: str
    endpoint: Endpoint
    takes: tuple[str, ...]
    about: Mapping[str, Any]
    shown: bool

    @property
    def parameters(self) -> list[str]:
        """The names of the parameters of its path."""
        return [name for name, _ in _PARAMETER.findall(self.path)]


@dataclass(slots=True)
class Router:
    """Routes below one prefix; its methods are decorators of endpoints.

    Attributes:
        prefix: Before each path.
        wrap: Put around each endpoint.
        shown: Its routes are in `/openapi.json`.
    """

    prefix: str = ""
    wrap: Wrap | None = None
    shown: bool = True
    routes: list[Route] = field(default_factory=list)
    sockets: dict[str, Socket] = field(default_factory=dict)

    def get(self, path: str, about: Mapping[str, Any] | None = None, *, shown: bool = True) -> Wrap:
        """Has an endpoint answer GET, and HEAD."""
        return self._adds("GET", path, about or {}, shown)

    def post(self, path: str, about: Mapping[str, Any] | None = None) -> Wrap:
        """Has an endpoint answer POST."""
        return self._adds("POST", path, about or {}, shown=True)

    def delete(self, path: str) -> Wrap:
        """Has an endpoint answer DELETE."""
        return self._adds("DELETE", path, {}, shown=True)

    def websocket(self, path: str) -> Callable[[Socket], Socket]:
        """Has a function serve WebSockets."""

        def add(serve: Socket) -> Socket:
            self.sockets[self.prefix + path] = serve
            return serve

        return add

    def _adds(self, method: str, path: str, about: Mapping[str, Any], shown: bool) -> Wrap:
        def add(endpoint: Endpoint) -> Endpoint:
            takes = tuple(inspect.signature(endpoint).parameters)
            used = endpoint if self.wrap is None else self.wrap(endpoint)
            self.routes.append(Route(method, self.prefix + path, used, takes, about, shown and self.shown))
            return endpoint

        return add


class Application:
    """Routes as an ASGI application, with middleware around them.

    Args:
        title, version: Of what it serves.
        missing: Answers a request that no route takes.
        handlers: Answer an error that an endpoint raises before its answer has begun, by type.
    """

    def __init__(self, title: str, version: str, missing: Missing, handlers: Mapping[type[Exception], Handler]) -> None:
        self.title = title
        self.version = version
        self.routes: list[Route] = []
        self._missing = missing
        self._handlers = handlers
        self._exact: dict[tuple[str, str], Route] = {}
        self._patterns: list[tuple[re.Pattern[str], Route]] = []
        self._sockets: dict[str, Socket] = {}
        self._outermost: ASGIApp = self._serve

    def include(self, router: Router) -> None:
        """Takes the routes of a router; of two that fit a request, the one that came first."""
        self._sockets |= router.sockets
        for route in router.routes:
            self.routes.append(route)
            if "{" in route.path:
                self._patterns.append((_pattern(route.path), route))
            else:
                self._exact.setdefault((route.method, route.path), route)

    def surround(self, middleware: Callable[[ASGIApp], ASGIApp]) -> None:
        """Puts another layer around all that is there."""
        self._outermost = middleware(self._outermost)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request or WebSocket."""
        await self._outermost(scope, receive, send)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await self._serve_socket(scope, receive, send)
            return
        if scope["type"] != "http":
            return
        request = Request(scope, receive)
        try:
            response = await self._answer(request)
            await response(scope, receive, send)
        except Exception as error:
            handler = next((self._handlers[kind] for kind in type(error).__mro__ if kind in self._handlers), None)
            if handler is None or account_of(scope).first_byte_s is not None:
                raise
            await (await handler(request, error))(scope, receive, send)

    async def _answer(self, request: Request) -> Response:
        method, path = request.scope["method"], request.scope["path"]
        if method == "HEAD":  # who answers GET need not know; the server sends no body
            method = "GET"
        route = self._exact.get((method, path))
        given: dict[str, Any] = {}
        if route is None:
            for pattern, candidate in self._patterns:
                found = pattern.fullmatch(path) if candidate.method == method else None
                if found is not None:
                    route, given = candidate, found.groupdict()
                    break
        if route is None:
            return self._missing(request, self._methods(path))
        if "request" in route.takes:
            given["request"] = request
        return await route.endpoint(**given)

    def _methods(self, path: str) -> list[str]:
        found = {method for method, exact in self._exact if exact == path}
        found |= {route.method for pattern, route in self._patterns if pattern.fullmatch(path)}
        return sorted(found | ({"HEAD"} if "GET" in found else set()))

    async def _serve_socket(self, scope: Scope, receive: Receive, send: Send) -> None:
        serve = self._sockets.get(scope["path"])
        if serve is None:
            await receive()
            await send({"type": "websocket.close", "code": 1008, "reason": "There is no WebSocket here."})
            return
        await serve(WebSocket(scope, receive, send))


def _pattern(path: str) -> re.Pattern[str]:
    parts, at = [], 0
    for found in _PARAMETER.finditer(path):
        parts.append(re.escape(path[at : found.start()]))
        parts.append(f"(?P<{found[1]}>{'.+' if found[2] else '[^/]+'})")
        at = found.end()
    return re.compile("".join([*parts, re.escape(path[at:])]), re.DOTALL)
