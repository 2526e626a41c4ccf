"""What this node and its mesh can do: `/v1/capabilities`, `/v1/atmosphere/capabilities`, `/v1/mesh/capabilities`."""

# An endpoint is async whether it has to wait for anything or not.
# flake8: noqa: ASYNC124

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

from starlette.responses import Response

from atmo.api.routing import Router
from atmo.api.services import ApiServices
from atmo.gateway.jsontext import write_object
from atmo.router.capability import CHAT, IMAGES, SPEECH, TRANSCRIPTION, Capability
from atmo.router.offer import Offer

Row = dict[str, Any]

_TYPES = {CHAT: "llm", IMAGES: "vision", TRANSCRIPTION: "audio", SPEECH: "audio"}
"""Seed 003's categories by operation; the others are called as their operations."""

_UNKNOWN = ("available_vram_gb", "gpu_utilization", "tokens_per_second")
"""Of the contract's resources, what this node does not measure: null."""


def capabilities_routes(services: ApiServices, wall: Callable[[], float] = time.time) -> Router:
    """Returns the routes that tell what can be done.

    Args:
        services: Behind the routes.
        wall: Returns Unix seconds.
    """
    router = Router(prefix="/v1")
    gateway = services.gateway

    def own() -> list[Capability]:
        return [offer.capability for offer in gateway.offers().lasting if offer.local]

    async def answer(body: Row) -> Response:
        return Response(await write_object(body), media_type="application/json")

    @router.get("/capabilities")
    async def capabilities() -> Response:
        """Lists what this machine can run."""
        return await answer({"object": "list", "data": [capability_row(capability) for capability in own()]})

    @router.get("/atmosphere/capabilities")
    async def announcement() -> Response:
        """Tells what this machine can run as LlamaFarm tells it, with the vectors that requests are compared with."""
        there = own()
        rows = [{**capability_row(one), "embedding": gateway.meaning.vector(one)} for one in there]
        running, most = gateway.in_flight, sum(max(1, capability.concurrency) for capability in there)
        load = round(min(1.0, running / most), 3) if most else 0.0
        return await answer(
            {
                "node_id": services.node_id,
                "timestamp": int(wall()),
                "capabilities": rows,
                "resources": {"current_load": load, "queue_depth": gateway.waiting, **dict.fromkeys(_UNKNOWN)},
                "config": {
                    "mode": services.mode,
                    "discoverable": services.discoverable,
                    "max_concurrent_requests": most,
                },
            }
        )

    @router.get("/mesh/capabilities")
    async def mesh_capabilities() -> Response:
        """Lists what the mesh can run, each model of an operation once, with the nodes that do."""
        return await answer({"object": "list", "data": aggregated(gateway.offers())})

    return router


def capability_row(capability: Capability) -> Row:
    """Returns a capability in the contract's shape, without its embedding."""
    return {
        "id": capability.id,
        "type": type_of(capability),
        "name": capability.model,
        "description": capability.description,
        "models": [capability.model],
        "metadata": {
            "provider": capability.backend,
            "operations": list(capability.operations),
            "version": capability.version or None,
            "size": f"{capability.size_b:g}B" if capability.size_b else None,
            "context_length": capability.context or None,
            "features": list(capability.features),
            "general": capability.general,
            "examples": list(capability.examples),
            "max_concurrent": capability.concurrency,
            "cost_per_1k": capability.cost_per_1k,
            "device": capability.device or None,
            "latency_class": capability.latency_class or None,
            "priority": capability.priority or None,
            "data_residency": capability.residency or None,
        },
    }


def type_of(capability: Capability) -> str:
    """Returns the category of a capability: `llm`, `rag`, `embeddings`, `vision`, `audio`, or its operation."""
    if capability.backend == "rag":
        return "rag"
    return _TYPES.get(capability.operation, capability.operation)


def aggregated(offers: Iterable[Offer]) -> list[Row]:
    """Returns one row for each model of an operation, sorted, with the nodes that offer it."""
    rows: dict[tuple[str, str], Row] = {}
    for offer in offers:
        capability = offer.capability
        key = capability.operation, capability.model
        row = rows.get(key)
        if row is None:
            row = rows[key] = {
                "type": type_of(capability),
                "operation": capability.operation,
                "model": capability.model,
                "description": capability.description,
                "features": [],
                "versions": [],
                "local": False,
                "nodes": [],
            }
        row["local"] = row["local"] or offer.local
        row["features"] = sorted({*row["features"], *capability.features})
        row["versions"] = sorted({*row["versions"], *([capability.version] if capability.version else ())})
        row["nodes"].append(
            {
                "node": str(offer.node),
                "name": offer.node_name,
                "capability": capability.id,
                "path": offer.path,
                "rtt_ms": None if offer.rtt_s is None else round(offer.rtt_s * 1_000, 2),
                "load": offer.load,
                "concurrency": capability.concurrency,
                "cost_per_1k": capability.cost_per_1k,
            }
        )
    return [rows[key] for key in sorted(rows)]
