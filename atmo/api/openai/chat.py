"""`/v1/chat/completions` and `/v1/completions`: one answer, or a stream of chunks."""

# An endpoint is async whether it has to wait for anything or not.
# flake8: noqa: ASYNC124

from __future__ import annotations

from functools import partial

from starlette.responses import Response
from starlette.types import Send

from atmo.api.account import Account
from atmo.api.documents.schema import takes
from atmo.api.exchange import Body, Exchange, run_json, run_stream
from atmo.api.routing import Router
from atmo.gateway.checks import check_body, wants_stream
from atmo.gateway.gateway import Gateway
from atmo.router.capability import CHAT, COMPLETIONS


def add_chat(router: Router, gateway: Gateway) -> None:
    """Adds both routes."""

    async def work(operation: str, body: Body, send: Send, account: Account) -> None:
        check_body(operation, body)
        run = run_stream if wants_stream(body) else run_json
        await run(gateway, operation, body, send, account)

    @router.post("/chat/completions", takes(CHAT))
    async def chat() -> Response:
        """Answers a chat, as one object or, with `stream`, as server-sent events."""
        return Exchange(gateway.budget, partial(work, CHAT))

    @router.post("/completions", takes(COMPLETIONS))
    async def completions() -> Response:
        """Continues a text as it stands, as one object or, with `stream`, as server-sent events."""
        return Exchange(gateway.budget, partial(work, COMPLETIONS))
