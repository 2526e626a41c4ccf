"""The little that `/openapi.json` says of request bodies; they are checked in `gateway.checks`."""

from __future__ import annotations

from typing import Any


def request_body(*required: str, **fields: dict[str, Any]) -> dict[str, Any]:
    """Returns the OpenAPI extra of a route that takes a JSON object with at least these fields."""
    properties: dict[str, Any] = {name: {} for name in required} | fields
    properties["model"] = {"type": "string", "default": "auto"}
    schema = {"type": "object", "required": list(required), "properties": properties, "additionalProperties": True}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}
