"""`/v1/mesh`: who belongs to the mesh, and what the router would do."""

# An endpoint is async whether it has to wait for anything or not.
# flake8: noqa: ASYNC124

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Send

from atmo.api.account import Account, account_of
from atmo.api.documents.schema import TEXT, query, request_body
from atmo.api.exchange import Body, Exchange, send_json
from atmo.api.routing import Router
from atmo.api.services import ApiServices
from atmo.gateway.checks import bad
from atmo.gateway.jsontext import dump
from atmo.router.capability import CHAT, OPERATIONS
from atmo.services.models import ModelService
from atmo.services.topology import TopologyService


def mesh_routes(services: ApiServices) -> Router:
    """Returns the routes under `/v1/mesh`."""
    router = Router(prefix="/v1/mesh")
    gateway = services.gateway

    async def decision(body: Body, account: Account) -> dict[str, Any]:
        operation = body.get("operation", CHAT)
        if operation not in OPERATIONS:
            raise bad("operation", f"must be one of {', '.join(OPERATIONS)}")
        return (await gateway.route(operation, body, account.models)).to_json()

    async def work(body: Body, send: Send, account: Account) -> None:
        await send_json(send, await decision(body, account))

    @router.get("/nodes")
    async def nodes() -> Response:
        """Lists the nodes of the mesh."""
        return Response(dump({"object": "list", "data": services.mesh.nodes()}), media_type="application/json")

    @router.post("/route", request_body(operation={"type": "string", "default": CHAT}))
    async def route() -> Response:
        """Says who would run a request and why, with every candidate; runs nothing."""
        return Exchange(gateway.budget, work)

    @router.get("/route", query(prompt=TEXT, operation={**TEXT, "default": CHAT}, model=TEXT))
    async def route_query(request: Request) -> Response:
        """Says who would run a prompt and why; the same as POST with these fields."""
        given = request.query_params
        asked = {name: given.get(name, "") for name in ("prompt", "model")}
        asked["operation"] = given.get("operation", CHAT)
        answer = await decision(asked, account_of(request.scope))
        return Response(dump(answer), media_type="application/json")

    if services.topology is not None:
        _add_topology(router, services.topology)
    if services.models is not None:
        _add_models(router, services.models)
    return router


def _add_topology(router: Router, service: TopologyService) -> None:
    @router.get("/topology")
    async def topology() -> Response:
        """Tells who is connected to whom, by which path; asks the nodes of the mesh, one after the other."""
        return Response(dump(await service.topology()), media_type="application/json")


def _add_models(router: Router, service: ModelService) -> None:
    @router.get("/models")
    async def models() -> Response:
        """Tells which versions of which models the mesh has, and who holds them since when."""
        return Response(dump({"mesh_models": await service.mesh_models()}), media_type="application/json")
