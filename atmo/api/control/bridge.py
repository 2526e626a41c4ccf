"""The control routes of the bridge: what it offers, what it does not and why, and a look on demand."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from atmo.api.control.body import Authorise
from atmo.api.routing import Router
from atmo.services.bridge import BridgeService


def add_bridge_routes(router: Router, authorise: Authorise, bridge: BridgeService) -> None:
    """Adds `GET /bridge` and `POST /bridge/scan`, which answer the same."""

    @router.get("/bridge")
    async def view(request: Request) -> Response:
        await authorise(request)
        return JSONResponse(bridge.view())

    @router.post("/bridge/scan")
    async def scan(request: Request) -> Response:
        await authorise(request)
        await bridge.rescan()
        return JSONResponse(bridge.view())
