"""The control API: what the commands of this machine ask of its running node.

Everything below `/atmo/v1/` wants the bearer token that the node writes, readable by its owner only, into
`run/node.json`. Errors are those of the other routes with a `hint` beside: 400 for a body that is not what the route
takes, 401 without the token, 409 where a person must change something, 413 for a body that is too large, 502 where
another node failed. Importing and pulling answer a JSON object a line (`atmo.api.control.ndjson`).
"""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol

import trio
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from atmo.api.control.body import Authorise, BadRequestError, Body, told_to_owner
from atmo.api.control.bridge import add_bridge_routes
from atmo.api.control.keys import add_key_routes
from atmo.api.control.models import add_model_routes
from atmo.api.routing import Router
from atmo.services.bridge import BridgeService
from atmo.services.jobs import ModelSide
from atmo.services.keys import KeyService
from atmo.services.mesh import MeshService


class ControlServices(ModelSide, Protocol):
    """The services behind the routes."""

    @property
    def mesh(self) -> MeshService: ...


def control_router(
    token: str,
    services: ControlServices,
    status: Callable[[], Mapping[str, Any]],
    examine: Callable[[], Awaitable[Mapping[str, Any]]],
    bridge: BridgeService | None = None,
    keys: KeyService | None = None,
    config: Sequence[Mapping[str, Any]] = (),
) -> Router:
    """Builds the routes below `/atmo/v1/`.

    Args:
        token: The secret of `run/node.json`; must not be empty.
        services: What they ask.
        status: Returns what `atmo status` shows.
        examine: Returns what `atmo mesh doctor` shows.
        bridge: Models of other programs; None where there is no such service.
        keys: Of clients of the endpoint; the same.
        config: The values that the node runs with, and where they come from, without secrets.
    """
    assert token
    expected = b"Bearer " + token.encode()

    async def authorise(request: Request) -> None:
        given = request.headers.get("authorization", "").encode("latin-1")
        if not hmac.compare_digest(given, expected):
            raise BadRequestError(401, "The control API wants this node's token.", "It is in run/node.json.")
        await trio.lowlevel.checkpoint()

    router = Router("/atmo/v1", wrap=told_to_owner, shown=False)
    _add_mesh_routes(router, authorise, services.mesh)
    add_model_routes(router, authorise, services)
    if bridge is not None:
        add_bridge_routes(router, authorise, bridge)
    if keys is not None:
        add_key_routes(router, authorise, keys)

    @router.get("/config")
    async def get_config(request: Request) -> Response:
        await authorise(request)
        return JSONResponse({"config": list(config)})

    @router.get("/status")
    async def get_status(request: Request) -> Response:
        await authorise(request)
        return JSONResponse(dict(status()))

    @router.post("/mesh/doctor")
    async def doctor(request: Request) -> Response:
        await authorise(request)
        return JSONResponse(dict(await examine()))

    return router


def _add_mesh_routes(router: Router, authorise: Authorise, mesh: MeshService) -> None:
    @router.get("/mesh/nodes")
    async def nodes(request: Request) -> Response:
        await authorise(request)
        return JSONResponse({"nodes": mesh.nodes()})

    @router.post("/mesh/create")
    async def create(request: Request) -> Response:
        await authorise(request)
        body = await Body.read(request, {"name"})
        return JSONResponse(await mesh.create(body.text("name")))

    @router.post("/mesh/invite")
    async def invite(request: Request) -> Response:
        await authorise(request)
        body = await Body.read(request, {"role", "expires_s"})
        return JSONResponse(await mesh.invite(body.text("role", "edge"), body.seconds("expires_s", 86_400)))

    @router.post("/mesh/join")
    async def join(request: Request) -> Response:
        await authorise(request)
        body = await Body.read(request, {"code"})
        return JSONResponse(await mesh.join(body.text("code")))

    @router.post("/mesh/revoke")
    async def revoke(request: Request) -> Response:
        await authorise(request)
        body = await Body.read(request, {"node", "force"})
        return JSONResponse(await mesh.revoke(body.text("node"), force=body.flag("force")))

    @router.post("/mesh/hand-over")
    async def hand_over(request: Request) -> Response:
        await authorise(request)
        body = await Body.read(request, {"node"})
        return JSONResponse(await mesh.hand_over(body.text("node")))
