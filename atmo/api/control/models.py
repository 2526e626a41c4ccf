"""The control routes of models and transfers. Importing and pulling answer a JSON object a line (`control.ndjson`)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from atmo.api.control.body import Authorise, BadRequestError, Body
from atmo.api.control.ndjson import JobResponse
from atmo.api.routing import Router
from atmo.services.bulk_import import import_folder
from atmo.services.deployment import deployment_status
from atmo.services.jobs import JOBS, Job, ModelSide
from atmo.services.models import ModelService, Scope
from atmo.services.progress import Report
from atmo.services.transfer import TransferRow

SCOPES: tuple[Scope, ...] = ("local", "mesh", "available")
_SAID = {"path", "name", "version", "type", "capabilities", "description"}


def add_model_routes(router: Router, authorise: Authorise, side: ModelSide) -> None:
    """Adds listing, pulling, importing and removing models, what is done with transfers, and all jobs."""
    models = side.models
    _add_reading(router, authorise, side)
    _add_pull(router, authorise, models)
    _add_import(router, authorise, models)
    _add_transfers(router, authorise, models)
    for name, job in JOBS.items():
        _add_job(router, authorise, side, name, job)


def _add_reading(router: Router, authorise: Authorise, side: ModelSide) -> None:
    models = side.models

    @router.get("/models")
    async def rows(request: Request) -> Response:
        await authorise(request)
        wanted = request.query_params.get("scope", "local")
        scope = next((scope for scope in SCOPES if scope == wanted), None)
        if scope is None:
            raise BadRequestError(400, f"scope: {wanted!r} is not one of {', '.join(SCOPES)}.")
        return JSONResponse({"models": [row.to_json() for row in models.rows(scope)]})

    @router.get("/models/{name:path}")
    async def info(request: Request, name: str) -> Response:
        await authorise(request)
        return JSONResponse(models.info(name))

    @router.get("/publishers")
    async def publishers(request: Request) -> Response:
        await authorise(request)
        return JSONResponse({"publishers": models.consent.rows()})

    @router.get("/deprecations")
    async def deprecations(request: Request) -> Response:
        await authorise(request)
        return JSONResponse({"deprecations": side.publishing.deprecations()})

    @router.get("/updates")
    async def updates(request: Request) -> Response:
        await authorise(request)
        return JSONResponse({"updates": side.versions.rows()})

    @router.get("/deployment")
    async def deployment(request: Request) -> Response:
        await authorise(request)
        return JSONResponse(await deployment_status(models, request.query_params.get("name")))


def _add_pull(router: Router, authorise: Authorise, models: ModelService) -> None:
    @router.post("/models/pull-later")
    async def pull_later(request: Request) -> Response:
        await authorise(request)
        left = await models.pull_later((await Body.read(request, {"spec"})).text("spec"))
        return JSONResponse({"transfer" if isinstance(left, TransferRow) else "model": left.to_json()})

    @router.post("/models/remove")
    async def remove(request: Request) -> Response:
        await authorise(request)
        body = await Body.read(request, {"spec"})
        return JSONResponse({"removed": [row.to_json() for row in await models.remove(body.text("spec"))]})


def _add_job(router: Router, authorise: Authorise, side: ModelSide, name: str, job: Job) -> None:
    @router.post(f"/models/{name}")
    async def start(request: Request) -> Response:
        await authorise(request)
        body = await Body.read(request, set(job.fields))
        given = {key: body.of_kind(key, kind) for key, kind in job.fields.items()}
        return JobResponse(lambda report: job.run(side, given, report))


def _add_import(router: Router, authorise: Authorise, models: ModelService) -> None:
    @router.post("/models/preview")
    async def preview(request: Request) -> Response:
        await authorise(request)
        body = await Body.read(request, _SAID)
        said = {
            "name": body.optional("name"),
            "version": body.optional("version"),
            "type": body.optional("type"),
            "capabilities": body.names("capabilities"),
            "description": body.text("description", ""),
        }
        return JSONResponse((await models.preview(body.path("path"), said)).to_json())

    @router.post("/models/import")
    async def import_model(request: Request) -> Response:
        await authorise(request)
        body = await Body.read(request, {*_SAID, "private"})
        path, private = body.path("path"), body.flag("private")
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
                private=private,
                progress=report,
            )
            return row.to_json()

        return JobResponse(job)

    @router.post("/models/import-folder")
    async def import_all(request: Request) -> Response:
        await authorise(request)
        body = await Body.read(request, {"path", "type"})
        folder, kind = body.path("path"), body.optional("type")

        async def job(report: Report) -> dict[str, Any]:
            return (await import_folder(models, folder, kind, report)).to_json()

        return JobResponse(job)


def _add_transfers(router: Router, authorise: Authorise, models: ModelService) -> None:
    transfers = models.transfers

    @router.get("/transfers")
    async def rows(request: Request) -> Response:
        await authorise(request)
        return _told(await transfers.rows(over=request.query_params.get("over") == "1"))

    def act(path: str, do: Callable[[str], Awaitable[list[TransferRow]]]) -> None:
        @router.post(path)
        async def perform(request: Request) -> Response:
            await authorise(request)
            return _told(await do((await Body.read(request, {"which"})).text("which")))

    act("/transfers/pause", transfers.pause)
    act("/transfers/resume", transfers.resume)

    @router.post("/transfers/cancel")
    async def cancel(request: Request) -> Response:
        await authorise(request)
        body = await Body.read(request, {"which", "keep"})
        return _told(await transfers.cancel(body.text("which"), keep=body.flag("keep")))


def _told(rows: list[TransferRow]) -> Response:
    return JSONResponse({"transfers": [row.to_json() for row in rows]})
