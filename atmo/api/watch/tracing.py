"""A span for each HTTP request, where spans are recorded."""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send

from atmo.api.account import Account, account_of
from atmo.api.headless import OPEN
from atmo.gateway.tracing import Span, Tracer

PATH_CHARS = 128


class Traced:
    """Plain ASGI middleware within the guard: only who was let in is traced, and no watcher that polls.

    Args:
        app: What is traced.
        tracer: Records.
    """

    def __init__(self, app: ASGIApp, tracer: Tracer) -> None:
        self._app = app
        self._tracer = tracer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request within its span."""
        if scope["type"] != "http" or scope["path"] in OPEN:
            await self._app(scope, receive, send)
            return
        account = account_of(scope)
        with self._tracer.span(f"HTTP {account.method}", account.trace, "server") as span:
            account.trace = span.traceparent
            try:
                await self._app(scope, receive, send)
            finally:
                note_account(span, account)


def note_account(span: Span, account: Account) -> None:
    """Puts what is known of a request into its span. Names as in OpenTelemetry's conventions where there are any."""
    if not span.recording:
        return
    span.note("http.request.method", account.method)
    span.note("url.path", account.path[:PATH_CHARS])
    span.note("atmo.request.id", account.request_id)
    if account.status:
        span.note("http.response.status_code", account.status)
    if account.key:
        span.note("atmo.key", account.key)
    if account.operation:
        span.note("gen_ai.operation.name", account.operation)
    if account.node:
        span.note("gen_ai.response.model", account.model)
        span.note("gen_ai.usage.input_tokens", account.prompt_tokens)
        span.note("gen_ai.usage.output_tokens", account.completion_tokens)
        span.note("atmo.node", account.node)
        span.note("atmo.path", account.mesh_path)
        span.note("atmo.rule", account.rule)
        span.note("atmo.queue_s", account.queue_s)
        span.note("atmo.cost_dollars", account.cost)
    if account.status >= 500:
        span.fail(account.error or str(account.status))
