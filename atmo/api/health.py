"""Whether the node is well: `/health`, `/v1/health` and `/metrics`."""

# FastAPI runs plain functions in threads, so routes without an await are async all the same.
# flake8: noqa: ASYNC124

from __future__ import annotations

from dataclasses import asdict

from fastapi import APIRouter
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.responses import Response

from atmo.api.metrics import render
from atmo.api.services import ApiServices
from atmo.gateway.jsontext import dump
from atmo.version import __version__


def health_routes(services: ApiServices) -> APIRouter:
    """Returns the routes that watchers poll."""
    router = APIRouter()
    gateway = services.gateway

    @router.get("/health")
    @router.get("/v1/health")
    async def health() -> Response:
        """Says that the node answers, and what it is part of."""
        offers = gateway.offers()
        body = {
            "status": "ok",
            "node_id": services.node_id,
            "name": services.node_name,
            "version": __version__,
            "mesh": services.mesh.mesh(),
            **asdict(gateway.company()),
            "capabilities": sum(offer.local for offer in offers),
            "mesh_capabilities": len(offers),
            "in_flight": gateway.in_flight,
        }
        return Response(dump(body), media_type="application/json")

    @router.get("/metrics")
    async def metrics() -> Response:
        """Counters in Prometheus' text format."""
        company = {f"mesh_{name}": count for name, count in asdict(gateway.company()).items()}
        gauges = {"requests_in_flight": gateway.in_flight, **company}
        return Response(render(services.stats(), gauges), media_type=CONTENT_TYPE_LATEST)

    return router
