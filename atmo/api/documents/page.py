"""`/docs`: every route with what it takes and gives, and a curl line. Made on this side: the page runs no script."""

# An endpoint is async whether it has to wait for anything or not.
# flake8: noqa: ASYNC124

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from functools import cache
from html import escape
from pathlib import Path
from typing import Any

from starlette.responses import Response

from atmo.api.documents.openapi import describe, operations
from atmo.api.documents.schema import ref
from atmo.api.routing import Application, Router
from atmo.gateway.jsontext import dump

_MOST_FIELDS = 64
_DEPTH = 3
"""Of fields within fields that are shown."""


def docs_routes(app: Application) -> Router:
    """Returns the routes of the document and of the page, for the application that they describe."""
    router = Router(shown=False)
    document = cache(lambda: describe(app))

    @router.get("/openapi.json")
    async def openapi() -> Response:
        """Describes the routes of this node."""
        return Response(dump(document()), media_type="application/json")

    @router.get("/docs")
    async def docs() -> Response:
        """Shows the routes of this node."""
        return Response(page(document()), media_type="text/html", headers=_headers())

    return router


def page(document: dict[str, Any]) -> str:
    """Returns the page of an OpenAPI document."""
    routes = list(operations(document))
    info = document["info"]
    listed = "\n".join(
        f'<li><a href="#{_anchor(path, method)}">{_verb(method)} <code>{escape(path)}</code></a></li>'
        for path, method, _ in routes
    )
    shown = "\n".join(_section(document, path, method, operation) for path, method, operation in routes)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(info["title"])} API</title>
<style>{_style()}</style>
</head>
<body>
<header>
<h1>{escape(info["title"])} <small>{escape(info["version"])}</small></h1>
<p>{_prose(info.get("description", ""))}</p>
<p>The same for programs: <a href="/openapi.json">/openapi.json</a>. <code>WS /v1/stream</code> carries requests and
live events over one WebSocket.</p>
</header>
<nav><ul>
{listed}
</ul></nav>
<main>
{shown}
<section id="errors"><h2>Errors</h2>
{_details(document, "Every error, whatever its status", ref("Error"))}
</section>
</main>
</body>
</html>
"""


def _section(document: dict[str, Any], path: str, method: str, operation: dict[str, Any]) -> str:
    parts = [
        f'<section id="{_anchor(path, method)}">',
        f"<h2>{_verb(method)} <code>{escape(path)}</code></h2>",
        f"<p>{_prose(operation.get('description', ''))}</p>",
        *(f"<pre>{escape(sample['source'])}</pre>" for sample in operation.get("x-codeSamples", ())),
        _parameters(document, operation),
        *(
            _details(document, f"Body: {kind}", content.get("schema", {}))
            for kind, content in operation.get("requestBody", {}).get("content", {}).items()
        ),
        *(
            _details(document, f"Answer {status}: {kind}", content.get("x-event") or content.get("schema", {}))
            for status, answer in operation["responses"].items()
            for kind, content in answer.get("content", {}).items()
        ),
        "</section>",
    ]
    return "\n".join(part for part in parts if part)


def _parameters(document: dict[str, Any], operation: dict[str, Any]) -> str:
    given = operation.get("parameters", ())
    schema = {
        "properties": {row["name"]: row.get("schema", {}) for row in given},
        "required": [row["name"] for row in given if row.get("required")],
    }
    return _details(document, "Parameters", schema) if given else ""


def _details(document: dict[str, Any], title: str, schema: dict[str, Any]) -> str:
    rows = "\n".join(_rows(document, schema))
    about = _resolved(document, schema).get("description", "")
    inside = f"<p>{_prose(about)}</p>" if about else ""
    inside += f"<table>{rows}</table>" if rows else ""
    return f"<details><summary>{escape(title)}</summary>{inside}</details>" if inside else f"<p>{escape(title)}</p>"


def _rows(document: dict[str, Any], schema: dict[str, Any], prefix: str = "", depth: int = 0) -> Iterator[str]:
    schema = _resolved(document, schema)
    required = schema.get("required", ())
    for name, field in list(schema.get("properties", {}).items())[:_MOST_FIELDS]:
        field = _resolved(document, field)
        mark = " <b>required</b>" if name in required else ""
        about = _prose(str(field.get("description", "")))
        yield (
            f"<tr><td><code>{escape(prefix + name)}</code>{mark}</td>"
            f"<td>{escape(_kind(document, field))}</td><td>{about}</td></tr>"
        )
        if depth < _DEPTH:
            yield from _rows(document, field, f"{prefix}{name}.", depth + 1)
            if "items" in field:
                yield from _rows(document, field["items"], f"{prefix}{name}[].", depth + 1)


def _kind(document: dict[str, Any], schema: dict[str, Any]) -> str:
    """Returns in a few words what a value is."""
    schema = _resolved(document, schema)
    if "anyOf" in schema:
        kinds = dict.fromkeys(_kind(document, one) for one in schema["anyOf"] if one.get("type") != "null")
        return " or ".join(kinds)
    if "const" in schema:
        return f'"{schema["const"]}"'
    if "enum" in schema:
        return ", ".join(f'"{word}"' for word in schema["enum"] if word is not None)
    given = schema.get("type", "anything")
    kind = " or ".join(one for one in given if one != "null") if isinstance(given, list) else given
    if "items" in schema:
        return f"list of {_kind(document, schema['items'])}"
    least, most = schema.get("minimum"), schema.get("maximum")
    if least is not None and most is not None and most < 2**53:
        return f"{kind} {least:g} to {most:g}"
    return str(kind)


def _resolved(document: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    name = schema.get("$ref", "").rpartition("/")[2]
    return document["components"]["schemas"].get(name, {}) if name else schema


def _verb(method: str) -> str:
    return f'<span class="{method}">{method.upper()}</span>'


def _anchor(path: str, method: str) -> str:
    return "".join(char if char.isalnum() else "-" for char in f"{method}{path}")


def _prose(text: str) -> str:
    """Returns text as HTML; what stands between backticks becomes code."""
    pieces = escape(text).split("`")
    return "".join(f"<code>{piece}</code>" if at % 2 else piece for at, piece in enumerate(pieces))


@cache
def _style() -> str:
    return (Path(__file__).parent / "page.css").read_text(encoding="utf-8")


@cache
def _headers() -> dict[str, str]:
    """Nothing is loaded, run, framed or sent from the page; its one style is named by its hash."""
    digest = base64.b64encode(hashlib.sha256(_style().encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    return {
        "content-security-policy": f"{policy}; frame-ancestors 'none'",
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
    }
