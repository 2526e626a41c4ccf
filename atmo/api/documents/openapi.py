"""`/openapi.json`: what every route takes and gives, with a curl line for each."""

from __future__ import annotations

import inspect
import json
import re
import shlex
from collections.abc import Iterator
from typing import Any

from atmo.api.documents.answers import ANSWERS
from atmo.api.documents.examples import EXAMPLES, Example
from atmo.api.documents.schema import FORM, JSON, bodies, ref
from atmo.api.documents.schema_answers import ANSWER_SCHEMAS
from atmo.api.routing import Application, Route

DEFAULT_URL = "http://127.0.0.1:11451"
"""Where a node's endpoint is unless somebody moved it."""

_FIRST_TRIED = "/v1/models/download/"
"""A route that has to stand before `/v1/models/{model}`, which takes all below; whoever reads wants others first."""

_METHODS = ("get", "post", "put", "patch", "delete")
_ABOUT = (
    "A peer-to-peer agent behind one OpenAI-compatible endpoint: every request is run by the best model of the mesh."
    " Fields that are not in these schemas pass to whoever runs the request."
    " The header `x-atmosphere-warning` of an answer names fields that the model does not honour."
)
_ERROR = {
    "description": "Every error, whatever its status.",
    "content": {JSON: {"schema": ref("Error")}},
}
_ANSWERED: dict[str, Any] = {"description": "The answer.", "content": {JSON: {"schema": {"type": "object"}}}}


def describe(app: Application) -> dict[str, Any]:
    """Returns the OpenAPI document of an application."""
    paths: dict[str, Any] = {}
    for route in sorted((one for one in app.routes if one.shown), key=lambda one: one.path.startswith(_FIRST_TRIED)):
        operation = _operation(route)
        path = route.path.replace(":path}", "}")
        _complete(path, route.method.lower(), operation)
        paths.setdefault(path, {})[route.method.lower()] = operation
    schemas = {**ANSWER_SCHEMAS, **bodies()}
    key = {
        "type": "http",
        "scheme": "bearer",
        "description": "A key of `atmo key create`, where the node wants one.",
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": app.title, "description": _ABOUT, "version": app.version},
        "paths": paths,
        "components": {
            "schemas": dict(sorted(schemas.items())),
            "responses": {"Error": _ERROR},
            "securitySchemes": {"key": key},
        },
        "security": [{}, {"key": []}],
    }


def _operation(route: Route) -> dict[str, Any]:
    """Returns what a route says of itself."""
    name = route.endpoint.__name__
    inside = [{"name": one, "in": "path", "required": True, "schema": {"type": "string"}} for one in route.parameters]
    about = {"parameters": [], **route.about}
    return {
        "summary": name.replace("_", " ").capitalize(),
        "description": inspect.cleandoc(route.endpoint.__doc__ or ""),
        "operationId": re.sub(r"\W+", "_", f"{name}{route.path}_{route.method.lower()}"),
        **about,
        "parameters": [*inside, *about["parameters"]],
    }


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yields path, method and description of every operation, in the order of the routes."""
    for path, item in document["paths"].items():
        for method in _METHODS:
            if method in item:
                yield path, method, item[method]


def _complete(path: str, method: str, operation: dict[str, Any]) -> None:
    """Puts a route's own answers, the errors and the example to what it says of itself."""
    name = f"{method.upper()} {path}"
    operation["responses"] = {"200": ANSWERS.get(name, _ANSWERED), "default": {"$ref": "#/components/responses/Error"}}
    example = EXAMPLES.get(name, Example())
    content = operation.get("requestBody", {}).get("content", {})
    for body in content.values():
        body["example"] = dict(example.body)
    line = curl(method, path, example, FORM in content)
    operation["x-codeSamples"] = [{"lang": "Shell", "label": "curl", "source": line}]


def curl(method: str, path: str, example: Example, form: bool) -> str:
    """Returns a command that sends an example to a node of this machine."""
    words = ["curl"]
    if method != "get" and not (method == "post" and example.body):
        words += ["-X", method.upper()]
    words.append(shlex.quote(DEFAULT_URL + (example.path or path)))
    if form:
        for name, value in example.body.items():
            words += ["-F", shlex.quote(f"{name}={value}")]
    elif example.body:
        body = json.dumps(example.body, ensure_ascii=False)
        words += ["-H", shlex.quote(f"content-type: {JSON}"), "-d", shlex.quote(body)]
    return " ".join([*words, *([example.options] if example.options else [])])
