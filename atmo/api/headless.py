"""The endpoint of a node that serves its mesh only: it answers watchers and the commands of its own machine."""

from __future__ import annotations

import hmac

from starlette.types import ASGIApp, Receive, Scope, Send

from atmo.api.errors import error_response
from atmo.api.keys import CONTROL
from atmo.errors import RequestError

OPEN = frozenset({"/health", "/v1/health", "/metrics"})
"""What watchers poll."""

OWNER = frozenset({"/v1/mesh/topology"})
"""What commands of this machine ask with that token outside of the control API."""


class Headless:
    """Plain ASGI middleware that lets through nothing but health, metrics and the control API.

    Args:
        app: What is behind it.
        token: Of the control API; empty where there is none.
    """

    def __init__(self, app: ASGIApp, token: str = "") -> None:
        self._app = app
        self._expected = f"Bearer {token}".encode() if token else b""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request, or refuses it."""
        path = scope.get("path", "")
        if scope["type"] == "lifespan" or path in OPEN or path.startswith(CONTROL) or self._of_owner(path, scope):
            await self._app(scope, receive, send)
            return
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008, "reason": "this node is headless"})
            return
        await error_response(_refusal())(scope, receive, send)

    def _of_owner(self, path: str, scope: Scope) -> bool:
        if path not in OWNER or not self._expected:
            return False
        given = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
        return hmac.compare_digest(given, self._expected)


def _refusal() -> RequestError:
    message = (
        "This node is headless: it runs requests of its mesh, and takes none here. Ask another node of the mesh, or"
        " start this one with --mode provider."
    )
    return RequestError(403, message, kind="permission_error", code="headless")
