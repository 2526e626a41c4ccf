"""The FastAPI application of a node."""

from __future__ import annotations

from functools import partial

from fastapi import FastAPI

from atmo.api.bridge import download_routes, extended
from atmo.api.capabilities import capabilities_routes
from atmo.api.direct import Direct, DirectRoutes
from atmo.api.docs import add_docs
from atmo.api.errors import add_handlers
from atmo.api.events import told_of_requests
from atmo.api.guard import Guard
from atmo.api.headless import Headless
from atmo.api.health import health_routes, node_metrics
from atmo.api.mesh import mesh_routes
from atmo.api.mesh_join import join_routes
from atmo.api.ml import ml_routes
from atmo.api.openai import Extend, openai_routes
from atmo.api.openapi import DescribedApp
from atmo.api.responses import responses_routes
from atmo.api.services import ApiServices
from atmo.api.stream import stream_routes
from atmo.api.tools import tools_routes
from atmo.api.tracing import Traced
from atmo.version import __version__


def create_app(services: ApiServices) -> FastAPI:
    """Returns the application that serves `services`.

    FastAPI's pages under `/docs` and `/redoc` are off: they run scripts of a foreign server with the rights of this
    endpoint. `api.docs` has one of our own.
    """
    app = DescribedApp(title="Atmosphere", version=__version__, docs_url=None, redoc_url=None, redirect_slashes=False)
    metrics, tracer = node_metrics(services), services.gateway.tracer
    observers = (metrics.requests.observe, told_of_requests(services.events), *services.observers)
    direct = DirectRoutes()
    app.add_middleware(Direct, routes=direct, handlers=app.exception_handlers)
    if not services.serves:
        app.add_middleware(Headless, token=services.token)
    if tracer.active:
        app.add_middleware(Traced, tracer=tracer)
    app.add_middleware(
        Guard,
        http_host=services.http_host,
        observers=observers,
        admission=services.admission,
        cors=services.cors,
    )
    add_handlers(app)
    if services.bridge is not None:
        app.include_router(download_routes(services.bridge, services.http_host))
    app.include_router(direct.add(openai_routes(services.gateway, _extension(services))))
    app.include_router(direct.add(responses_routes(services.gateway)))
    app.include_router(direct.add(ml_routes(services)))
    app.include_router(tools_routes(services))
    app.include_router(capabilities_routes(services))
    app.include_router(mesh_routes(services))
    if services.token:
        app.include_router(join_routes(services.token, services.mesh, services.gateway.budget))
    app.include_router(stream_routes(services, observers))
    app.include_router(health_routes(services, metrics))
    if services.control is not None:
        app.include_router(services.control)
    add_docs(app)
    return app


def _extension(services: ApiServices) -> Extend:
    """Returns what adds to the rows of `/v1/models` how it is downloaded from this machine."""
    bridge = services.bridge
    return (lambda rows: rows) if bridge is None else partial(extended, bridge=bridge, http_host=services.http_host)
