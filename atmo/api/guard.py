"""The outermost layer: who may speak to the endpoint, and what is said when something breaks.

Bound to loopback, the endpoint is still reachable by every web page that this machine's browsers show. A page that had
its own name rebound to 127.0.0.1 sends that name as `Host`; a page that posts across sites sends its own `Origin`. Both
are refused, and no CORS header is sent, save to origins that the settings name.
"""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import Sequence
from functools import lru_cache
from urllib.parse import urlsplit

import trio
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from atmo.api.account import ABANDONED, Account, Observer, account_of, outcome_of
from atmo.api.cors import Cors, Headers
from atmo.api.errors import INTERNAL, error_response
from atmo.api.keys import Admission
from atmo.errors import RequestError

log = logging.getLogger(__name__)


class Guard:
    """Plain ASGI middleware. It opens the account of each request, and tells the observers when the request has ended.

    Every answer, refusals included, has the id under which the account is told of as `x-request-id`.

    Args:
        app: What is guarded.
        http_host: The address that the server is bound to.
        observers: Told of each request.
        admission: Says who is let in; None for everybody.
        cors: Origins whose web pages may use the endpoint.
        hosts: Names by which requests may address it. They are no origins of pages: `cors` is for those.
    """

    def __init__(
        self,
        app: ASGIApp,
        http_host: str,
        observers: Sequence[Observer] = (),
        admission: Admission | None = None,
        cors: Sequence[str] = (),
        hosts: Sequence[str] = (),
    ) -> None:
        self._app = app
        self._admission = Admission() if admission is None else admission
        self._observers = (*observers, self._admission.observe)
        self._cors = Cors(cors)
        self._names = frozenset(hosts)
        self._bound = http_host.strip("[]").lower()
        self._abroad = not is_loopback(self._bound)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request, or refuses it."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        account = account_of(scope)

        async def watched(message: Message) -> None:
            if message["type"] == "http.response.start":
                account.status = message["status"]
                account.first_byte_s = trio.current_time() - account.started
                named = (b"x-request-id", account.request_id.encode())
                message = {**message, "headers": [*message.get("headers", ()), named]}
            elif message["type"] == "http.response.body" and not message.get("more_body", False):
                account.end(outcome_of(account))
            await send(message)

        try:
            await self._serve(scope, receive, watched, account)
        finally:
            account.end(ABANDONED)
            for observer in self._observers:
                observer(account)

    async def _serve(self, scope: Scope, receive: Receive, send: Send, account: Account) -> None:
        host, origin = _named(scope)
        refusal = self._refusal(host, origin)
        if refusal is None and origin is not None and self._cors.allows(origin):
            preflight = self._cors.preflight(scope, origin)
            if preflight is not None:
                await preflight(scope, receive, send)
                return
            send = _with_headers(send, self._cors.headers(origin))
        refusal = refusal or self._admission.enter(scope, account)
        if refusal is not None:
            account.error = refusal.code or refusal.kind
            await self._refuse(refusal, scope, receive, send)
            return
        try:
            await self._app(scope, receive, send)
        except Exception:
            log.exception("%r failed", scope["path"][:128])
            if account.first_byte_s is not None:
                raise
            await error_response(INTERNAL)(scope, receive, send)
        finally:
            self._admission.leave(account)

    def _refusal(self, host: str | None, origin: str | None) -> RequestError | None:
        name = _host_of(f"//{host or ''}")
        if name not in self._names and not self._is_own(name):
            use = "its address" if self._abroad else "http://127.0.0.1 or localhost"
            message = (
                f"This endpoint does not answer to the host '{(host or '')[:128]}': use {use}, or name that one in the"
                " setting `hosts`."
            )
            return RequestError(403, message, kind="permission_error", code="host_not_allowed")
        if origin is not None and not self._is_own(_host_of(origin)) and not self._cors.allows(origin):
            message = (
                f"Web pages of '{origin[:128]}' may not use this endpoint: the setting `cors` names those that may."
            )
            return RequestError(403, message, kind="permission_error", code="origin_not_allowed")
        return None

    def _is_own(self, host: str) -> bool:
        if host in ("localhost", self._bound) or is_loopback(host):
            return True
        return self._abroad and _is_address(host)

    async def _refuse(self, error: RequestError, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008, "reason": error.message[:120]})
            return
        response = error_response(error)
        if error.status == 401:
            response.headers["www-authenticate"] = "Bearer"
        await response(scope, receive, send)


def _named(scope: Scope) -> tuple[str | None, str | None]:
    """Returns `Host` and `Origin` of a request."""
    host = origin = None
    for name, value in scope["headers"]:
        if name == b"host":
            host = value.decode("latin-1")
        elif name == b"origin":
            origin = value.decode("latin-1")
    return host, origin


def _with_headers(send: Send, headers: Headers) -> Send:
    async def send_more(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", ()), *headers]}
        await send(message)

    return send_more


@lru_cache(maxsize=256)
def _host_of(url: str) -> str:
    try:
        return (urlsplit(url).hostname or "").rstrip(".")
    except ValueError:
        return ""


@lru_cache(maxsize=256)
def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


@lru_cache(maxsize=256)
def is_loopback(host: str) -> bool:
    """Says whether only this machine reaches that address."""
    return host == "localhost" or (_is_address(host) and ipaddress.ip_address(host).is_loopback)
