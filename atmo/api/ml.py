"""`/v1/ml`: classes, anomalies, groups, forecasts and vectors, by models of the mesh; fitting them on this machine."""

# An endpoint is async whether it has to wait for anything or not.
# flake8: noqa: ASYNC124

from __future__ import annotations

from functools import partial

import trio
from starlette.responses import Response
from starlette.types import Send

from atmo.api.account import Account
from atmo.api.documents.schema import request_body, takes
from atmo.api.exchange import Body, Exchange, run_json, send_json
from atmo.api.openai.embeddings import embeddings_answer
from atmo.api.routing import Router
from atmo.api.services import ApiServices
from atmo.errors import RequestError
from atmo.gateway.checks import ACTIONS, bad, check_body, model_of
from atmo.router.capability import EMBEDDINGS
from atmo.router.choice import may_use

FIT = "fit"


def ml_routes(services: ApiServices) -> Router:
    """Returns the routes under `/v1/ml`."""
    router = Router(prefix="/v1/ml")
    for operation in ACTIONS:
        _add(router, services, operation)

    @router.post("/embed", request_body("texts"))
    async def embed() -> Response:
        """Turns texts into vectors of plain numbers, in a shape of our own; `/v1/embeddings` has OpenAI's."""
        return Exchange(services.gateway.budget, partial(_embed, services))

    return router


def _add(router: Router, services: ApiServices, operation: str) -> None:
    budget = services.gateway.budget

    @router.post(f"/{operation}", takes(operation))
    async def by_body() -> Response:
        """Fits a model, or asks one; `action` in the body says which."""
        return Exchange(budget, partial(_work, services, operation, None))

    @router.post(f"/{operation}/{{action}}", takes(operation))
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
        if not may_use(account.models, model_of(body)):
            message = f"Your key may not fit a model of the name '{model_of(body)[:128]}'."
            raise RequestError(403, message, kind="permission_error", code="model_not_allowed", param="model")
        if services.trainer is None:
            message = "This node cannot fit models; send the request to one that can."
            raise RequestError(503, message, kind="api_error", code="no_trainer")
        await send_json(send, await services.trainer.fit(operation, body))
        return
    check_body(operation, body)
    await run_json(services.gateway, operation, body, send, account)


async def _embed(services: ApiServices, body: Body, send: Send, account: Account) -> None:
    texts = body.get("texts", body.get("input", body.get("data")))
    request = {name: value for name, value in body.items() if name not in ("texts", "data", "encoding_format")}
    request["input"] = texts
    if texts is None:
        raise bad("texts", "is missing: send a string or a list of strings")
    check_body(EMBEDDINGS, request)

    async def finish(answer: Body) -> Body:
        plain = await trio.to_thread.run_sync(embeddings_answer, answer, "float", body.get("dimensions"))
        vectors = [row["embedding"] for row in plain["data"]]
        return {
            "object": "ml.embeddings",
            "model": plain["model"],
            "dimensions": len(vectors[0]) if vectors else 0,
            "embeddings": vectors,
        }

    await run_json(services.gateway, EMBEDDINGS, request, send, account, finish)
