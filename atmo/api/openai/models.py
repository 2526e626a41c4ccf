"""`/v1/models`: what the mesh has."""

# An endpoint is async whether it has to wait for anything or not.
# flake8: noqa: ASYNC124

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from atmo.api.account import account_of
from atmo.api.routing import Router
from atmo.errors import RequestError
from atmo.gateway.gateway import Gateway
from atmo.gateway.jsontext import dump
from atmo.router.choice import may_use

_NAMES_SHOWN = 8

Extend = Callable[[list[dict[str, Any]]], list[dict[str, Any]]]
"""Takes the rows of `/v1/models` and returns them with more."""


def add_models(router: Router, gateway: Gateway, extend: Extend) -> None:
    """Adds the list of models and each one's own route."""

    def usable(request: Request) -> list[dict[str, Any]]:
        patterns = account_of(request.scope).models
        return [_auto(), *(row for row in extend(gateway.models()) if may_use(patterns, row["id"]))]

    @router.get("/models")
    async def models(request: Request) -> Response:
        """Lists every model of the mesh that the key may use, and `auto`, by which the mesh chooses."""
        return Response(dump({"object": "list", "data": usable(request)}), media_type="application/json")

    @router.get("/models/{model:path}")
    async def model(request: Request, model: str) -> Response:
        """Describes one model of the mesh."""
        return Response(dump(find_model(model, usable(request))), media_type="application/json")


def find_model(name: str, models: list[dict[str, Any]]) -> dict[str, Any]:
    """Returns the model that `name` means: its id, its id without Ollama's `:latest`, or `id@version`.

    Raises:
        RequestError: 404, saying which there are.
    """
    base, _, version = name.partition("@")
    for model in models:
        if model["id"] in (name, f"{name}:latest") or (model["id"] == base and version in model.get("versions", ())):
            return model
    shown = ", ".join(model["id"] for model in models[:_NAMES_SHOWN])
    message = f"The model '{name[:128]}' does not exist. There are {len(models)}: {shown}. GET /v1/models lists all."
    raise RequestError(404, message, code="model_not_found", param="model")


def _auto() -> dict[str, Any]:
    return {
        "id": "auto",
        "object": "model",
        "created": 0,
        "owned_by": "atmosphere",
        "description": "The mesh chooses the model: by what the request means, and what each node can do.",
    }
