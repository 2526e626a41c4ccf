"""`/v1/ml`: classification and anomaly detection, by fitted models of the mesh, and fitting them on this machine."""

# FastAPI runs plain functions in threads, so routes without an await are async all the same.
# flake8: noqa: ASYNC124

from __future__ import annotations

from functools import partial

from fastapi import APIRouter
from starlette.responses import Response
from starlette.types import Send

from atmo.api.account import Account
from atmo.api.exchange import Body, Exchange, run_json, send_json
from atmo.api.schema import request_body
from atmo.api.services import ApiServices
from atmo.errors import RequestError
from atmo.gateway.checks import ACTIONS, bad, check_body, model_of
from atmo.router.capability import ANOMALY, CLASSIFY

FIT = "fit"


def ml_routes(services: ApiServices) -> APIRouter:
    """Returns the routes under `/v1/ml`."""
    router = APIRouter(prefix="/v1/ml")
    for operation in (CLASSIFY, ANOMALY):
        _add(router, services, operation)
    return router


def _add(router: APIRouter, services: ApiServices, operation: str) -> None:
    budget = services.gateway.budget
    actions = {"action": {"type": "string", "enum": [FIT, *ACTIONS[operation]], "default": "predict"}}

    @router.post(f"/{operation}", name=operation, openapi_extra=request_body("data", **actions))
    async def by_body() -> Response:
        """Fits a model, or asks one; `action` in the body says which."""
        return Exchange(budget, partial(_work, services, operation, None))

    @router.post(f"/{operation}/{{action}}", name=f"{operation}_action", openapi_extra=request_body("data"))
    async def by_path(action: str) -> Response:
        """Fits a model, or asks one."""
        return Exchange(budget, partial(_work, services, operation, action))


async def _work(
    services: ApiServices, operation: str, action: str | None, body: Body, send: Send, account: Account
) -> None:
    if action is not None:
        if body.get("action", action) != action:
            raise bad("action", f"differs from the path, which says {action[:32]}")
        body = {**body, "action": action}
    if body.get("action") == FIT:
        model_of(body)
        if services.trainer is None:
            message = "This node cannot fit models; send the request to one that can."
            raise RequestError(503, message, kind="api_error", code="no_trainer")
        await send_json(send, await services.trainer.fit(operation, body))
        return
    check_body(operation, body)
    await run_json(services.gateway, operation, body, send, account)
