"""Whether the node is well: `/health`, `/v1/health` and `/metrics`."""

# An endpoint is async whether it has to wait for anything or not.
# flake8: noqa: ASYNC124

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import asdict

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.requests import Request
from starlette.responses import Response

from atmo.api.account import account_of
from atmo.api.routing import Router
from atmo.api.services import ApiServices
from atmo.api.watch.metrics import Metrics
from atmo.gateway.jsontext import dump
from atmo.gateway.remote import PROTOCOL
from atmo.version import __version__


def node_metrics(services: ApiServices) -> Metrics:
    """Returns the metrics of a node: its engines' counters, and what runs and waits now."""
    gateway = services.gateway

    def gauges() -> Mapping[str, float]:
        company = {f"mesh_{name}": count for name, count in asdict(gateway.company()).items()}
        own = sum(offer.local for offer in gateway.offers().lasting)
        running = {"requests_in_flight": gateway.in_flight, "requests_waiting": gateway.waiting}
        return {**running, "request_bytes_held": gateway.budget.held, "capabilities": own, **company}

    return Metrics(services.stats, gauges)


def health_routes(services: ApiServices, metrics: Metrics) -> Router:
    """Returns the routes that watchers poll."""
    router = Router()
    gateway = services.gateway

    @router.get("/health")
    @router.get("/v1/health")
    async def health(request: Request) -> Response:
        """Says that the node answers, what it is part of, and how its backends are; the first to everybody."""
        if account_of(request.scope).stranger:
            return Response(dump({"status": "ok"}), media_type="application/json")
        offers = gateway.offers().lasting
        body = {
            "status": "ok",
            "node_id": services.node_id,
            "name": services.node_name,
            "version": __version__,
            "versions": {"atmosphere": __version__, "python": platform.python_version(), "protocol": PROTOCOL},
            "mode": services.mode,
            "mesh": services.mesh.mesh(),
            **asdict(gateway.company()),
            "capabilities": sum(offer.local for offer in offers),
            "mesh_capabilities": len(offers),
            "backends": [asdict(state) for state in gateway.backends()],
            "in_flight": gateway.in_flight,
            "waiting": gateway.waiting,
        }
        return Response(dump(body), media_type="application/json")

    @router.get("/metrics")
    async def exposition() -> Response:
        """Counters in Prometheus' text format."""
        return Response(await metrics.render(), media_type=CONTENT_TYPE_LATEST)

    return router
