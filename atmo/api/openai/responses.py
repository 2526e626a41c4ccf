"""OpenAI's Responses API: a chat in other words, whose answers are kept for a while so that the next can go on."""

# An endpoint is async whether it has to wait for anything or not.
# flake8: noqa: ASYNC124

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping, Sequence
from typing import Any

import trio
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Send

from atmo.api.account import Account, account_of
from atmo.api.documents.schema import TEXT, query, request_body
from atmo.api.exchange import SSE_HEADERS, Body, Exchange, run_json, told
from atmo.api.routing import Router
from atmo.backends.base import Encoded, as_object
from atmo.errors import RequestError
from atmo.gateway.checks import bad, check_body
from atmo.gateway.fields import Schema
from atmo.gateway.gateway import Gateway
from atmo.gateway.jsontext import dump, write_object
from atmo.gateway.responses_answer import Event, ResponseWriter
from atmo.gateway.responses_items import Item
from atmo.gateway.responses_kept import KeepConfig, Kept, KeptResponses
from atmo.gateway.responses_request import ResponseRequest, read_request_untrusted
from atmo.router.capability import CHAT
from atmo.wire import limits

_ID_BYTES = 24
_EVENTS_HELD = 64
"""Events that are written together where the next part is here already. Source: guess."""
_PAGE = 20
_LONGEST_PAGE = 100
"""Items on one page, unless asked for another number, and at most. Source: OpenAI's API reference."""

OBJECT_BYTES = 512
"""What an item, or a part of one, takes in memory beside its text. Source: measured, 400 to 900 bytes."""

ANSWER_BYTES = limits.REQUEST_BYTES
"""Of the events of one stream: what was said is held until its end. Source: what is said must fit the next request."""


_PAGING: dict[str, Schema] = {
    "limit": {"type": "integer", "minimum": 1, "maximum": _LONGEST_PAGE, "default": _PAGE},
    "order": {"type": "string", "enum": ["asc", "desc"], "default": "desc"},
    "after": TEXT,
}


def _paging(given: Mapping[str, str]) -> tuple[int, str, str]:
    limit, order = given.get("limit", str(_PAGE)), given.get("order", "desc")
    if not (limit.isdecimal() and len(limit) <= 4 and 1 <= int(limit) <= _LONGEST_PAGE):
        raise bad("limit", f"must be a whole number from 1 to {_LONGEST_PAGE}")
    if order not in ("asc", "desc"):
        raise bad("order", "must be 'asc' or 'desc'")
    return int(limit), order, given.get("after", "")


def responses_routes(gateway: Gateway, config: KeepConfig | None = None) -> Router:
    """Returns the routes under `/v1/responses`.

    Args:
        gateway: Routes and runs the chats.
        config: Bounds of what is kept.
    """
    router = Router(prefix="/v1/responses")
    kept = KeptResponses(config)

    async def work(body: Body, send: Send, account: Account) -> None:
        await _Turn(gateway, kept, account, read_request_untrusted(body, _new_id)).run(send)

    @router.post("", request_body("input"))
    async def create() -> Response:
        """Answers a conversation, as one object or as a stream of events."""
        return Exchange(gateway.budget, work)

    @router.get("/{response_id}", query(stream={"type": "boolean", "default": False}))
    async def retrieve(request: Request, response_id: str) -> Response:
        """Returns a response that is kept."""
        if request.query_params.get("stream", "false").lower() not in ("false", "0"):
            raise bad("stream", "must be false: only responses in the background can be streamed again")
        found = kept.get(account_of(request.scope).key_id, response_id, trio.current_time())
        return _json(found.response)

    @router.delete("/{response_id}")
    async def delete(request: Request, response_id: str) -> Response:
        """Forgets a response."""
        kept.remove(account_of(request.scope).key_id, response_id, trio.current_time())
        return _json({"id": response_id, "object": "response", "deleted": True})

    @router.post("/{response_id}/cancel")
    async def cancel(request: Request, response_id: str) -> Response:
        """Says that only responses in the background can be cancelled."""
        kept.get(account_of(request.scope).key_id, response_id, trio.current_time())
        message = (
            "Only responses in the background can be cancelled; to stop one that is under way, close its connection."
        )
        raise RequestError(400, message, code="not_cancellable")

    @router.get("/{response_id}/input_items", query(**_PAGING))
    async def input_items(request: Request, response_id: str) -> Response:
        """Lists the items that a response answered, those of the responses that it continues among them."""
        limit, order, after = _paging(request.query_params)
        owner, now = account_of(request.scope).key_id, trio.current_time()
        found = kept.get(owner, response_id, now)
        items = [*kept.history(owner, found.previous, now), *kept.resolved(owner, found.items, now)]
        return _json(_page(items if order == "asc" else items[::-1], after, limit))

    return router


class _Turn:
    """One request and its answer.

    Args:
        gateway: Runs it.
        kept: Where the conversation so far is, and where the answer goes.
        account: Who asks.
        request: For what.
    """

    def __init__(self, gateway: Gateway, kept: KeptResponses, account: Account, request: ResponseRequest) -> None:
        self._gateway = gateway
        self._kept = kept
        self._account = account
        self._request = request
        self._created_at = int(time.time())
        self._items: list[Item] = []

    async def run(self, send: Send) -> None:
        """Sends the answer."""
        request, now = self._request, trio.current_time()
        history = self._kept.history(self._account.key_id, request.previous, now)
        self._items = self._kept.resolved(self._account.key_id, request.items, now)
        body = request.chat_body([*history, *self._items])
        check_body(CHAT, body)
        if request.stream:
            await self._stream(body, send)
        else:
            await run_json(self._gateway, CHAT, body, send, self._account, self._whole, request.ignored)

    async def _whole(self, answer: Body) -> Body:
        writer = self._writer(str(answer.get("model", "")))
        response = writer.whole(answer, int(time.time()))
        await self._keep(response)
        return response

    async def _stream(self, body: Body, send: Send) -> None:
        """A failure in the middle becomes an `error` event and a failed response."""
        account = self._account
        account.operation = CHAT
        async with self._gateway.execute(CHAT, body, account.asking(stream=True)) as execution:
            account.note(execution)
            writer = self._writer(execution.offer.capability.model)
            headers = [*SSE_HEADERS, *told(execution, self._request.ignored)]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            events, sent = writer.begin(), 0
            try:
                async for part in execution:
                    events += writer.chunk(as_object(part))
                    if not isinstance(part, Encoded) or not part.more or len(events) > _EVENTS_HELD:
                        sent += await _send(send, events)
                        events = []
                    if sent > ANSWER_BYTES:
                        raise _too_long(execution.offer.node_name)
                events += writer.end(int(time.time()))
                await self._keep(writer.response)
            except RequestError as error:
                account.error = error.code or error.kind
                events += writer.fail(error)
            account.note(execution)
            await _send(send, events, more=False)

    def _writer(self, model: str) -> ResponseWriter:
        return ResponseWriter(self._request, model, _new_id("resp"), self._created_at, _new_id)

    async def _keep(self, response: dict[str, Any]) -> None:
        if self._request.store:
            request = self._request
            data = await write_object({"response": response, "items": self._items})
            size = len(data) + OBJECT_BYTES * data.count(b"{")
            kept = Kept(self._account.key_id, response, self._items, request.previous, size)
            self._kept.keep(kept, trio.current_time())


async def _send(send: Send, events: Sequence[Event], *, more: bool = True) -> int:
    """Returns how many bytes these events were."""
    pieces = [b"event: %b\ndata: %b\n\n" % (event["type"].encode(), await write_object(event)) for event in events]
    data = b"".join(pieces)
    if data or not more:
        await send({"type": "http.response.body", "body": data, "more_body": more})
    return len(data)


def _too_long(node: str) -> RequestError:
    message = f"The answer of {node} is longer than {ANSWER_BYTES // 2**20} MiB: give 'max_output_tokens'."
    return RequestError(502, message, kind="api_error", code="bad_answer")


def _page(items: Sequence[Item], after: str, limit: int) -> dict[str, Any]:
    start = 0
    if after:
        places = [place for place, item in enumerate(items) if item["id"] == after]
        if not places:
            raise bad("after", f"is '{after[:64]}', which is no item of this response")
        start = places[0] + 1
    rows = items[start : start + limit]
    return {
        "object": "list",
        "data": rows,
        "first_id": rows[0]["id"] if rows else "",
        "last_id": rows[-1]["id"] if rows else "",
        "has_more": start + limit < len(items),
    }


def _json(value: dict[str, Any]) -> Response:
    return Response(dump(value), media_type="application/json")


def _new_id(word: str) -> str:
    return f"{word}_{secrets.token_hex(_ID_BYTES)}"
