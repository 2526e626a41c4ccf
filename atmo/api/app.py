"""The FastAPI application of a node."""

from __future__ import annotations

from functools import partial

from fastapi import FastAPI

from atmo.api.bridge import download_routes, extended
from atmo.api.errors import add_handlers
from atmo.api.guard import Guard
from atmo.api.health import health_routes
from atmo.api.mesh import mesh_routes
from atmo.api.ml import ml_routes
from atmo.api.openai import Extend, openai_routes
from atmo.api.responses import responses_routes
from atmo.api.services import ApiServices
from atmo.version import __version__


def create_app(services: ApiServices) -> FastAPI:
    """Returns the application that serves `services`.

    There is no page under `/docs`: it would run scripts of a foreign server with the rights of this endpoint.
    """
    app = FastAPI(title="Atmosphere", version=__version__, docs_url=None, redoc_url=None, redirect_slashes=False)
    app.add_middleware(Guard, http_host=services.http_host, observers=services.observers)
    add_handlers(app)
    if services.bridge is not None:
        app.include_router(download_routes(services.bridge, services.http_host))
    app.include_router(openai_routes(services.gateway, _extension(services)))
    app.include_router(responses_routes(services.gateway))
    app.include_router(ml_routes(services))
    app.include_router(mesh_routes(services))
    app.include_router(health_routes(services))
    if services.control is not None:
        app.include_router(services.control)
    return app


def _extension(services: ApiServices) -> Extend:
    """Returns what adds to the rows of `/v1/models` how it is downloaded from this machine."""
    bridge = services.bridge
    return (lambda rows: rows) if bridge is None else partial(extended, bridge=bridge, http_host=services.http_host)
