"""The FastAPI application of a node."""

from __future__ import annotations

from fastapi import FastAPI

from atmo.api.errors import add_handlers
from atmo.api.guard import Guard
from atmo.api.health import health_routes
from atmo.api.mesh import mesh_routes
from atmo.api.ml import ml_routes
from atmo.api.openai import openai_routes
from atmo.api.services import ApiServices
from atmo.version import __version__


def create_app(services: ApiServices) -> FastAPI:
    """Returns the application that serves `services`.

    There is no page under `/docs`: it would run scripts of a foreign server with the rights of this endpoint.
    """
    app = FastAPI(title="Atmosphere", version=__version__, docs_url=None, redoc_url=None, redirect_slashes=False)
    app.add_middleware(Guard, http_host=services.http_host)
    add_handlers(app)
    app.include_router(openai_routes(services.gateway))
    app.include_router(ml_routes(services))
    app.include_router(mesh_routes(services))
    app.include_router(health_routes(services))
    if services.control is not None:
        app.include_router(services.control)
    return app
