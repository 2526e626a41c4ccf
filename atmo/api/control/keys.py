"""The control routes of the keys of clients."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from atmo.api.control.body import Authorise, Body
from atmo.api.routing import Router
from atmo.services.keys import KeyService


def add_key_routes(router: Router, authorise: Authorise, keys: KeyService) -> None:
    """Adds making, showing and taking back keys."""

    @router.get("/keys")
    async def rows(request: Request) -> Response:
        await authorise(request)
        return JSONResponse({"keys": keys.rows()})

    @router.get("/keys/{which}")
    async def row(request: Request, which: str) -> Response:
        await authorise(request)
        return JSONResponse(keys.row(which))

    @router.post("/keys/create")
    async def create(request: Request) -> Response:
        await authorise(request)
        body = await Body.read(request, {"name", "models", "rate", "budget", "expires_s"})
        expires_s = body.seconds("expires_s", 0.0) if body.has("expires_s") else None
        made = await keys.create(
            body.text("name"), body.names("models"), body.optional("rate"), body.optional("budget"), expires_s
        )
        return JSONResponse(made, headers={"cache-control": "no-store"})

    @router.post("/keys/revoke")
    async def revoke(request: Request) -> Response:
        await authorise(request)
        return JSONResponse(await keys.revoke((await Body.read(request, {"which"})).text("which")))
