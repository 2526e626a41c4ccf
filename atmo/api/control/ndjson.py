"""A response that tells the progress of one long job, a JSON object a line, and stops the job when nobody listens."""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import trio
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from atmo.api.exchange import watched
from atmo.errors import RemoteError, UserError, leaf_error
from atmo.services.progress import Progress, Report

log = logging.getLogger(__name__)

KEEP_ALIVE_S = 10.0
"""A line without content goes out after this much silence, so that a client can tell slow from dead (guess)."""

Job = Callable[[Report], Awaitable[dict[str, Any]]]
"""Works, reports progress through the function it is given, and returns what to answer in the end."""


def error_body(error: UserError | RemoteError) -> dict[str, Any]:
    """Returns the body by which the control routes tell an error."""
    if isinstance(error, UserError):
        about: dict[str, Any] = {"about": dict(error.about)} if error.code else {}
        return error_told(error.message, error.hint, code=error.code or None, **about)
    return error_told(str(error), kind="api_error")


def error_told(message: str, hint: str = "", *, kind: str = "invalid_request_error", **more: Any) -> dict[str, Any]:
    """Returns the body of an error in OpenAI's shape, with what to do next beside it."""
    return {"error": {"message": message, "type": kind, "param": None, "code": None, "hint": hint, **more}}


def error_status(error: UserError | RemoteError) -> int:
    """Returns 409 for what this person must change, 502 for what another node did."""
    return 409 if isinstance(error, UserError) else 502


class _Reports:
    """Hands the newest report from the job, which may run in a thread, to the writer; older ones are skipped."""

    def __init__(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        self._wake = trio.Event()
        self._newest: Progress | None = None
        self.end: tuple[int, dict[str, Any]] | None = None

    def put(self, progress: Progress) -> None:
        self._newest = progress
        self._token.run_sync_soon(self._notify, idempotent=True)

    def finish(self, status: int, line: dict[str, Any]) -> None:
        self.end = (status, line)
        self._wake.set()

    def _notify(self) -> None:
        self._wake.set()

    async def next(self) -> Progress | None:
        """Waits for news; None means that the job has ended.

        Raises:
            trio.TooSlowError: There were none for `KEEP_ALIVE_S`.
        """
        with trio.fail_after(KEEP_ALIVE_S):
            while self._newest is None and self.end is None:
                await self._wake.wait()
                self._wake = trio.Event()
        progress, self._newest = self._newest, None
        return progress


class JobResponse(Response):
    """Runs `job` while it is being sent: `{"progress": ...}` lines, then `{"done": ...}` or `{"error": ...}`.

    An error before any progress is the whole answer with a status of 409 or 502, in the same form. When the client
    goes away the job is cancelled.
    """

    media_type = "application/x-ndjson"

    def __init__(self, job: Job) -> None:
        super().__init__()
        self._job = job

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        reports = _Reports()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._work, reports)
            await _write(reports, watched(nursery, receive, send))
            nursery.cancel_scope.cancel()

    async def _work(self, reports: _Reports) -> None:
        try:
            done = await self._job(reports.put)
        except (UserError, RemoteError, BaseExceptionGroup) as error:
            leaf = leaf_error(error)
            if isinstance(leaf, UserError | RemoteError):
                reports.finish(error_status(leaf), error_body(leaf))
            elif isinstance(error, Exception):
                reports.finish(500, _broken(error))
            else:
                raise
        except Exception as error:  # noqa: BLE001 - logged with its traceback, and told to the client
            reports.finish(500, _broken(error))
        else:
            reports.finish(200, {"done": done})


def _broken(error: Exception) -> dict[str, Any]:
    log.error("a job failed", exc_info=error)
    return error_told("Something went wrong inside the node.", "Its log has the details.", kind="api_error")


async def _write(reports: _Reports, send: Send) -> None:
    started = ended = False
    while not ended:
        status, line = 200, b""
        with suppress(trio.TooSlowError):
            progress = await reports.next()
            if progress is not None:
                line = json.dumps({"progress": progress.to_json()}).encode()
            elif reports.end is not None:
                ended, (status, end) = True, reports.end
                line = json.dumps(end).encode()
        if not started:
            started = True
            headers = [(b"content-type", b"application/x-ndjson"), (b"cache-control", b"no-store")]
            await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": line + b"\n", "more_body": not ended})
