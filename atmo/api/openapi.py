"""`/openapi.json`: what every route takes and gives, with a curl line for each."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from atmo.api.answers import ANSWERS
from atmo.api.examples import EXAMPLES, Example
from atmo.api.schema import FORM, JSON, bodies, ref
from atmo.api.schema_answers import ANSWER_SCHEMAS

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


class DescribedApp(FastAPI):
    """An application whose `/openapi.json` is made by `describe`."""

    def openapi(self) -> dict[str, Any]:
        """Returns the OpenAPI document, made once."""
        return describe(self)


def describe(app: FastAPI) -> dict[str, Any]:
    """Returns the OpenAPI document of an application, made once."""
    if app.openapi_schema is None:
        document = get_openapi(title=app.title, version=app.version, description=_ABOUT, routes=app.routes)
        document["paths"] = dict(sorted(document["paths"].items(), key=lambda item: item[0].startswith(_FIRST_TRIED)))
        for path, method, operation in operations(document):
            _complete(path, method, operation)
        schemas = {**ANSWER_SCHEMAS, **bodies()}
        components: dict[str, Any] = {"schemas": dict(sorted(schemas.items())), "responses": {"Error": _ERROR}}
        key = {
            "type": "http",
            "scheme": "bearer",
            "description": "A key of `atmo key create`, where the node wants one.",
        }
        document["components"] = {**components, "securitySchemes": {"key": key}}
        document["security"] = [{}, {"key": []}]
        app.openapi_schema = document
    return app.openapi_schema


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yields path, method and description of every operation, in the order of the routes."""
    for path, item in document["paths"].items():
        for method in _METHODS:
            if method in item:
                yield path, method, item[method]


def _complete(path: str, method: str, operation: dict[str, Any]) -> None:
    """Puts a route's own answers, the errors and the example in the place of what FastAPI makes up."""
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
