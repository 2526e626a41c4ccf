"""The application of a node: all its routes, and the layers around them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

from atmo.api.account import Observer
from atmo.api.bridge import download_routes, extended
from atmo.api.capabilities import capabilities_routes
from atmo.api.documents.page import docs_routes
from atmo.api.errors import HANDLERS, ROUTES, missing
from atmo.api.guard import Guard
from atmo.api.headless import Headless
from atmo.api.health import health_routes, node_metrics
from atmo.api.mesh import mesh_routes
from atmo.api.mesh_join import join_routes
from atmo.api.ml import ml_routes
from atmo.api.openai.responses import responses_routes
from atmo.api.openai.routes import Extend, openai_routes
from atmo.api.routing import Application, Router
from atmo.api.services import ApiServices
from atmo.api.stream import stream_routes
from atmo.api.tools import tools_routes
from atmo.api.watch.events import told_of_requests
from atmo.api.watch.metrics import Metrics
from atmo.api.watch.tracing import Traced
from atmo.version import __version__


def create_app(services: ApiServices) -> Application:
    """Returns the application that serves `services`."""
    app = Application("Atmosphere", __version__, partial(missing, ROUTES), HANDLERS)
    metrics, tracer = node_metrics(services), services.gateway.tracer
    observers = (metrics.requests.observe, told_of_requests(services.events), *services.observers)
    for router in _routers(services, metrics, observers):
        app.include(router)
    app.include(docs_routes(app))
    if not services.serves:
        app.surround(partial(Headless, token=services.token))
    if tracer.active:
        app.surround(partial(Traced, tracer=tracer))
    app.surround(
        partial(
            Guard,
            http_host=services.http_host,
            observers=observers,
            admission=services.admission,
            cors=services.cors,
            hosts=services.hosts,
        )
    )
    return app


def _routers(services: ApiServices, metrics: Metrics, observers: Sequence[Observer]) -> Iterator[Router]:
    if services.bridge is not None:
        yield download_routes(services.bridge, services.http_host)
    yield openai_routes(services.gateway, _extension(services))
    yield responses_routes(services.gateway)
    yield ml_routes(services)
    yield tools_routes(services)
    yield capabilities_routes(services)
    yield mesh_routes(services)
    if services.token:
        yield join_routes(services.token, services.mesh, services.gateway.budget)
    yield stream_routes(services, observers)
    yield health_routes(services, metrics)
    if services.control is not None:
        yield services.control


def _extension(services: ApiServices) -> Extend:
    """Returns what adds to the rows of `/v1/models` how it is downloaded from this machine."""
    bridge = services.bridge
    return (lambda rows: rows) if bridge is None else partial(extended, bridge=bridge, http_host=services.http_host)
