"""The control API: what the commands of this machine ask of its running node.

Everything below `/atmo/v1/` wants the bearer token that the node writes, readable by its owner only, into
`run/node.json`. Errors are `{"error": {"message", "hint"}}`: 400 for a body that is not what the route takes, 401
without the token, 409 where a person must change something, 413 for a body that is too large, 502 where another node
failed. Importing and pulling answer a JSON object a line (`atmo.api.ndjson`).
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import aclosing
from pathlib import Path
from typing import Any

import trio
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from fastapi.routing import APIRoute

from atmo.api.ndjson import JobResponse, error_body, error_status
from atmo.errors import RemoteError, UserError, leaf_error
from atmo.services.mesh import MeshService
from atmo.services.models import ModelService, Scope
from atmo.services.progress import Report

SCOPES: tuple[Scope, ...] = ("local", "mesh", "available")
MAX_BODY_BYTES = 64 * 1024
"""A join code and a model's configuration fit; nothing that is asked here is larger (guess)."""


class _BadRequestError(Exception):
    """The request itself is wrong."""

    def __init__(self, status: int, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.body = {"error": {"message": message, "hint": hint}}

    def response(self) -> JSONResponse:
        headers = {"www-authenticate": "Bearer"} if self.status == 401 else None
        return JSONResponse(self.body, self.status, headers)


class _ControlRoute(APIRoute):
    """Turns errors of the services into this API's answers."""

    def get_route_handler(self) -> Callable[[Request], Awaitable[Response]]:  # type: ignore[override]
        answer = super().get_route_handler()

        async def handle(request: Request) -> Response:
            try:
                return await answer(request)
            except (_BadRequestError, UserError, RemoteError, BaseExceptionGroup) as error:
                leaf = leaf_error(error)
                if isinstance(leaf, _BadRequestError):
                    response = leaf.response()
                elif isinstance(leaf, UserError | RemoteError):
                    response = JSONResponse(error_body(leaf), error_status(leaf))
                else:
                    raise
            await trio.lowlevel.checkpoint()
            return response

        return handle


def control_router(
    token: str,
    mesh: MeshService,
    models: ModelService,
    status: Callable[[], Mapping[str, Any]],
    examine: Callable[[], Awaitable[Mapping[str, Any]]],
) -> APIRouter:
    """Builds the routes below `/atmo/v1/`.

    Args:
        token: The secret of `run/node.json`; must not be empty.
        mesh: The mesh service.
        models: The model service.
        status: Returns what `atmo status` shows.
        examine: Returns what `atmo mesh doctor` shows.
    """
    assert token
    expected = b"Bearer " + token.encode()

    async def authorise(request: Request) -> None:
        given = request.headers.get("authorization", "").encode("latin-1")
        if not hmac.compare_digest(given, expected):
            raise _BadRequestError(401, "The control API wants this node's token.", "It is in run/node.json.")
        await trio.lowlevel.checkpoint()

    router = APIRouter(prefix="/atmo/v1", route_class=_ControlRoute, include_in_schema=False)
    _add_mesh_routes(router, authorise, mesh)
    _add_model_routes(router, authorise, models)
    _add_import(router, authorise, models)

    @router.get("/status")
    async def get_status(request: Request) -> Response:
        await authorise(request)
        return JSONResponse(dict(status()))

    @router.post("/mesh/doctor")
    async def doctor(request: Request) -> Response:
        await authorise(request)
        return JSONResponse(dict(await examine()))

    return router


_Guard = Callable[[Request], Awaitable[None]]


def _add_mesh_routes(router: APIRouter, authorise: _Guard, mesh: MeshService) -> None:
    @router.get("/mesh/nodes")
    async def nodes(request: Request) -> Response:
        await authorise(request)
        return JSONResponse({"nodes": mesh.nodes()})

    @router.post("/mesh/create")
    async def create(request: Request) -> Response:
        await authorise(request)
        body = await _Body.read(request, {"name"})
        return JSONResponse(await mesh.create(body.text("name")))

    @router.post("/mesh/invite")
    async def invite(request: Request) -> Response:
        await authorise(request)
        body = await _Body.read(request, {"role", "expires_s"})
        return JSONResponse(await mesh.invite(body.text("role", "edge"), body.seconds("expires_s", 86_400)))

    @router.post("/mesh/join")
    async def join(request: Request) -> Response:
        await authorise(request)
        body = await _Body.read(request, {"code"})
        return JSONResponse(await mesh.join(body.text("code")))

    @router.post("/mesh/revoke")
    async def revoke(request: Request) -> Response:
        await authorise(request)
        body = await _Body.read(request, {"node", "force"})
        return JSONResponse(await mesh.revoke(body.text("node"), force=body.flag("force")))

    @router.post("/mesh/hand-over")
    async def hand_over(request: Request) -> Response:
        await authorise(request)
        body = await _Body.read(request, {"node"})
        return JSONResponse(await mesh.hand_over(body.text("node")))


def _add_model_routes(router: APIRouter, authorise: _Guard, models: ModelService) -> None:
    @router.get("/models")
    async def rows(request: Request) -> Response:
        await authorise(request)
        wanted = request.query_params.get("scope", "local")
        scope = next((scope for scope in SCOPES if scope == wanted), None)
        if scope is None:
            raise _BadRequestError(400, f"scope: {wanted!r} is not one of {', '.join(SCOPES)}.")
        return JSONResponse({"models": [row.to_json() for row in models.rows(scope)]})

    @router.get("/models/{name:path}")
    async def info(request: Request, name: str) -> Response:
        await authorise(request)
        return JSONResponse(models.info(name))

    @router.post("/models/pull")
    async def pull(request: Request) -> Response:
        await authorise(request)
        spec = (await _Body.read(request, {"spec"})).text("spec")

        async def job(report: Report) -> dict[str, Any]:
            return (await models.pull(spec, progress=report)).to_json()

        return JobResponse(job)

    @router.post("/models/remove")
    async def remove(request: Request) -> Response:
        await authorise(request)
        body = await _Body.read(request, {"spec"})
        return JSONResponse({"removed": [row.to_json() for row in await models.remove(body.text("spec"))]})


def _add_import(router: APIRouter, authorise: _Guard, models: ModelService) -> None:
    @router.post("/models/import")
    async def import_model(request: Request) -> Response:
        await authorise(request)
        body = await _Body.read(request, {"path", "name", "version", "type", "capabilities", "description"})
        path = Path(body.text("path"))
        if not path.is_absolute():
            raise _BadRequestError(400, f"path: {path} is not absolute.", "The node has another working directory.")
        name, version, kind = (body.optional(key) for key in ("name", "version", "type"))
        capabilities, description = body.names("capabilities"), body.text("description", "")

        async def job(report: Report) -> dict[str, Any]:
            row = await models.import_model(
                path,
                name=name,
                version=version,
                kind=kind,
                capabilities=capabilities,
                description=description,
                progress=report,
            )
            return row.to_json()

        return JobResponse(job)


class _Body:
    """The JSON object of one request, with checks that name the field at fault."""

    def __init__(self, fields: Mapping[str, Any]) -> None:
        self._fields = fields

    @classmethod
    async def read(cls, request: Request, known: set[str]) -> _Body:
        data = bytearray()
        async with aclosing(request.stream()) as stream:
            async for chunk in stream:
                data += chunk
                if len(data) > MAX_BODY_BYTES:
                    raise _BadRequestError(413, f"The body is larger than {MAX_BODY_BYTES} bytes.")
        try:
            fields = json.loads(data or b"{}")
        except (ValueError, RecursionError) as error:
            raise _BadRequestError(400, "The body is not JSON.", _takes(known)) from error
        if not isinstance(fields, dict):
            raise _BadRequestError(400, "The body is not a JSON object.", _takes(known))
        if unknown := sorted(fields.keys() - known):
            raise _BadRequestError(400, f"{unknown[0]} in the JSON body is no field of this request.", _takes(known))
        return cls(fields)

    def text(self, key: str, default: str | None = None) -> str:
        value = self._fields.get(key, default)
        if not isinstance(value, str) or (default is None and not value.strip()):
            raise _unfit(key, "a text that is not empty" if default is None else "a text", '"..."')
        return value

    def flag(self, key: str) -> bool:
        value = self._fields.get(key, False)
        if not isinstance(value, bool):
            raise _unfit(key, "true or false", "true")
        return value

    def optional(self, key: str) -> str | None:
        return None if self._fields.get(key) is None else self.text(key)

    def seconds(self, key: str, default: float) -> float:
        value = self._fields.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e10:
            raise _unfit(key, "a number of seconds above 0", "3600")
        return float(value)

    def names(self, key: str) -> tuple[str, ...]:
        value = self._fields.get(key) or []
        if not isinstance(value, list) or not all(isinstance(item, str) and item for item in value):
            raise _unfit(key, "a list of names", '["..."]')
        return tuple(value)


def _takes(known: Iterable[str]) -> str:
    return f"Send a JSON object; this request takes {', '.join(sorted(known))}."


def _unfit(key: str, wanted: str, example: str) -> _BadRequestError:
    return _BadRequestError(400, f"{key} in the JSON body has to be {wanted}.", f'Send it as {{"{key}": {example}}}.')
