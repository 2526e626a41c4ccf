"""Models to download: `/v1/models/download/...` of the node's endpoint, and a port of its own in seed 001's shape."""

# An endpoint is async whether it has to wait for anything or not.
# flake8: noqa: ASYNC124

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import Response

from atmo.api.account import account_of
from atmo.api.documents.schema import query
from atmo.api.downloads import Downloads
from atmo.api.errors import HANDLERS, missing
from atmo.api.guard import Guard, is_loopback
from atmo.api.routing import Application, Router
from atmo.errors import RequestError
from atmo.gateway.jsontext import dump
from atmo.router.choice import may_use
from atmo.services.bridge import BridgeService, source_of
from atmo.storage.registry import LocalModel
from atmo.version import __version__

ROUTES = ("GET /v1/models", "GET /v1/models/{model}", "GET /v1/models/download/{model}", "GET /health")
DOWNLOAD = "/v1/models/download/"


def download_routes(bridge: BridgeService, http_host: str) -> Router:
    """Returns the routes of downloads, for the node's endpoint and for the bridge's port.

    Args:
        bridge: Has the models.
        http_host: The address that the server is bound to; other machines get only what everyone may read.
    """
    router, downloads, public = Router(), Downloads(bridge), not is_loopback(http_host)

    @router.get(f"{DOWNLOAD}{{model:path}}", query(file={"type": "string", "description": "Of a model of several."}))
    async def download(request: Request, model: str) -> Response:
        """Sends the main file of a model on this machine, or the one that `file` names; ranges are served."""
        found = _find(bridge, model, public)
        if not may_use(account_of(request.scope).models, found.name):
            message = f"Your key may not use the model '{found.name}'."
            raise RequestError(403, message, kind="permission_error", code="model_not_allowed", param="model")
        return downloads.response(found, request.query_params.get("file"))

    return router


def create_bridge_app(
    bridge: BridgeService, node_id: str, node_name: str, http_host: str, wall: Callable[[], float] = time.time
) -> Application:
    """Returns the application of the bridge's own port.

    Args:
        bridge: Has the models.
        node_id, node_name: Of this node.
        http_host: The address that the server is bound to.
        wall: Returns Unix seconds.
    """
    app = Application("Atmosphere models", __version__, partial(missing, ROUTES), HANDLERS)
    app.surround(partial(Guard, http_host=http_host))
    app.include(download_routes(bridge, http_host))
    router, public = Router(), not is_loopback(http_host)

    @router.get("/v1/models")
    async def models(request: Request) -> Response:
        """Lists the models of this machine."""
        catalog = {
            "type": "model_catalog",
            "node_id": node_id,
            "node_name": node_name,
            "timestamp": int(wall() * 1_000),
            "models": [entry(model) for model in bridge.entries(public)],
            "transfer_endpoints": {"http": str(request.base_url).rstrip("/"), "websocket": False},
        }
        return Response(dump(catalog), media_type="application/json")

    @router.get("/v1/models/{model:path}")
    async def about(model: str) -> Response:
        """Describes one model of this machine."""
        return Response(dump(entry(_find(bridge, model, public))), media_type="application/json")

    @router.get("/health")
    async def health() -> Response:
        """Says that the bridge answers, and what it has."""
        there, view = list(bridge.entries(public)), bridge.view()
        body = {
            "status": "ok",
            "node_id": node_id,
            "node_name": node_name,
            "version": __version__,
            "models": len(there),
            "size_bytes": sum(model.manifest.size_bytes for model in there),
            "waiting": view["waiting"],
        }
        return Response(dump(body), media_type="application/json")

    app.include(router)
    return app


def entry(model: LocalModel) -> dict[str, Any]:
    """Returns a model in seed 001's shape, and where it is downloaded."""
    source, reference = source_of(model)
    manifest = model.manifest
    return {
        "model_id": model.name,
        "name": model.name,
        "type": model.type,
        "format": model.format,
        "size_bytes": manifest.size_bytes,
        "sha256": manifest.checksum_sha256.hex(),
        "version": model.version,
        "capabilities": list(model.capabilities),
        "source": source,
        "source_ref": reference,
        "files": [file.path for file in manifest.files],
        "download": path_of(model),
    }


def path_of(model: LocalModel) -> str:
    """Returns the path under which a model is downloaded."""
    return DOWNLOAD + quote(f"{model.name}@{model.version}", safe="/:@+")


def extended(rows: list[dict[str, Any]], bridge: BridgeService, http_host: str) -> list[dict[str, Any]]:
    """Adds to rows of the endpoint's `/v1/models` how the model is downloaded from this machine, if it is here."""
    here = bridge.newest(public=not is_loopback(http_host))
    return [{**row, **_download_of(here[row["id"]])} if row["id"] in here else row for row in rows]


def _download_of(model: LocalModel) -> dict[str, Any]:
    source, reference = source_of(model)
    sha256 = model.manifest.checksum_sha256.hex()
    return {"sha256": sha256, "source": source, "source_ref": reference, "download": path_of(model)}


def _find(bridge: BridgeService, name: str, public: bool) -> LocalModel:
    model = bridge.find(name, public)
    if model is None:
        there = [model.name for model in bridge.entries(public)]
        shown = ", ".join(there[:8])
        message = f"The model '{name[:128]}' is not on this machine. There are {len(there)} here: {shown}."
        raise RequestError(404, message, code="model_not_found", param="model")
    return model
