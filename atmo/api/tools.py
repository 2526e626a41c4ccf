"""`/v1/tools`: what the mesh can do as tools that an agent calls, in the contract of LlamaFarm (seed 003).

A tool is an operation of the router with some of its fields fixed. Its parameters are the body of that operation, so
they are described and checked as there.
"""

# An endpoint is async whether it has to wait for anything or not.
# flake8: noqa: ASYNC124

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import trio
from starlette.responses import Response
from starlette.types import Send

from atmo.api.account import Account
from atmo.api.answering import one_answer
from atmo.api.errors import retry_headers
from atmo.api.exchange import Exchange
from atmo.api.routing import Router
from atmo.api.services import ApiServices
from atmo.errors import RequestError
from atmo.gateway.checks import BODIES, bad, check_body
from atmo.gateway.jsontext import write_object
from atmo.router.capability import ANOMALY, CHAT, CLASSIFY, CLUSTER, COMPLETIONS, EMBEDDINGS, FORECAST, IMAGES

Body = dict[str, Any]

_REQUEST_ID = re.compile("[A-Za-z0-9._:-]{1,64}")
_FIXED = {"stream": False}


@dataclass(frozen=True, slots=True)
class Tool:
    """Something that an agent may call.

    Attributes:
        name: By which it is called.
        description: When to use it, for a model that chooses.
        operation: What it runs.
        fixed: Fields of the body that are not the caller's to choose.
    """

    name: str
    description: str
    operation: str
    fixed: Mapping[str, Any] = field(default_factory=dict)

    def schema(self) -> Body:
        """Returns the JSON Schema of its parameters: of the operation's body, without what is fixed."""
        schema = dict(BODIES[self.operation].schema())
        fixed = {*self.fixed, *_FIXED, "stream_options"}
        schema["properties"] = {name: of for name, of in schema.get("properties", {}).items() if name not in fixed}
        schema["required"] = [name for name in schema.get("required", ()) if name not in fixed]
        return schema

    def body(self, params: Mapping[str, Any]) -> Body:
        """Returns the body of the request that a call is."""
        for name, value in {**self.fixed, **_FIXED}.items():
            if params.get(name, value) != value:
                raise bad(f"params.{name}", f"is fixed for {self.name}: leave it out")
        return {**params, **self.fixed}

    def row(self) -> Body:
        """Returns how it is listed; `function` is what OpenAI's `tools` take."""
        parameters = self.schema()
        function = {"name": self.name, "description": self.description, "parameters": parameters}
        return {**function, "operation": self.operation, "type": "function", "function": function}


_CHAT = "Ask a language model of the mesh; the best one is chosen where no model is named."
_GENERATE = "Have a language model go on with a text as it stands."
_EMBED = "Turn texts into vectors, to compare what they mean."
_ALL = (
    Tool("llamafarm_chat", _CHAT, CHAT),
    Tool("llamafarm_generate", _GENERATE, COMPLETIONS),
    Tool("llamafarm_embed", _EMBED, EMBEDDINGS),
    Tool("chat", _CHAT, CHAT),
    Tool("generate", _GENERATE, COMPLETIONS),
    Tool("embed", _EMBED, EMBEDDINGS),
    Tool("generate_image", "Make an image from a description.", IMAGES),
    Tool("classify", "Say to which class each row of data or text belongs, by a fitted model.", CLASSIFY),
    Tool("detect_anomalies", "Say which rows of data are unlike the others.", ANOMALY, {"action": "detect"}),
    Tool("score_anomalies", "Say how unlike the others each row of data is.", ANOMALY, {"action": "score"}),
    Tool("cluster", "Sort rows of data or texts into groups of their like.", CLUSTER),
    Tool("forecast", "Go on with a series of numbers.", FORECAST),
)
TOOLS = {tool.name: tool for tool in _ALL}


def tools_routes(services: ApiServices, wall: Callable[[], float] = time.time) -> Router:
    """Returns the routes under `/v1/tools`.

    Args:
        services: Behind the routes.
        wall: Returns Unix seconds.
    """
    router = Router(prefix="/v1/tools")
    gateway = services.gateway

    async def work(given: Body, send: Send, account: Account) -> None:
        began = trio.current_time()
        node, metadata = services.node_id, dict[str, Any]()
        answer: Body
        headers: dict[str, str] = {}
        try:
            operation, body = call_untrusted(given, account)
            data, execution = await one_answer(gateway, operation, body, account)
            node, metadata["model"] = str(execution.offer.node), account.model
            answer, status = {"success": True, "data": data}, 200
        except RequestError as error:
            account.error = error.code or error.kind
            answer, status = {"success": False, "data": None, **error.body()}, error.status
            headers = retry_headers(error)
        answer["duration_ms"] = round((trio.current_time() - began) * 1_000)
        about = {"node_id": node, "timestamp": int(wall()), "request_id": account.request_id}
        await _send(send, status, headers, answer | {"metadata": metadata | about})

    @router.get("")
    async def tools() -> Response:
        """Lists the tools, with JSON Schemas of their parameters."""
        rows = {"object": "list", "data": [tool.row() for tool in TOOLS.values()]}
        return Response(await write_object(rows), media_type="application/json")

    @router.post("/execute", _schema())
    async def execute() -> Response:
        """Calls a tool. The status is that of the operation; the body says the same by `success` and `error`."""
        return Exchange(gateway.budget, work)

    return router


def call_untrusted(given: Mapping[str, Any], account: Account) -> tuple[str, Body]:
    """Returns the operation and the body of a call; takes over the name that its caller gave it.

    Of `context` only `request_id` counts: who asks is known by its key, not by what it says of itself.

    Raises:
        RequestError: 404, there is no such tool; 400, the parameters are not as they must be.
    """
    name, params, context = given.get("tool_name"), given.get("params", {}), given.get("context") or {}
    if not isinstance(name, str):
        raise bad("tool_name", "must be the name of a tool: GET /v1/tools lists them")
    tool = TOOLS.get(name)
    if tool is None:
        message = f"There is no tool '{name[:64]}'. There are: {', '.join(TOOLS)}."
        raise RequestError(404, message, code="tool_not_found", param="tool_name")
    if not isinstance(params, dict):
        raise bad("params", "must be an object")
    if not isinstance(context, dict):
        raise bad("context", "must be an object")
    request_id = context.get("request_id")
    if request_id is not None:
        if not isinstance(request_id, str) or not _REQUEST_ID.fullmatch(request_id):
            raise bad("context.request_id", "must be 1 to 64 letters, digits, '.', '_', ':' or '-'")
        account.request_id = request_id
    account.operation = tool.operation
    body = tool.body(params)
    check_body(tool.operation, body)
    return tool.operation, body


async def _send(send: Send, status: int, headers: Mapping[str, str], answer: Body) -> None:
    data = await write_object(answer)
    told = {"content-type": "application/json", "content-length": str(len(data)), **headers}
    raw = [(name.encode(), value.encode()) for name, value in told.items()]
    await send({"type": "http.response.start", "status": status, "headers": raw})
    await send({"type": "http.response.body", "body": data})


def _schema() -> Body:
    properties = {
        "tool_name": {"type": "string", "enum": list(TOOLS)},
        "params": {"type": "object", "description": "As GET /v1/tools says of the tool."},
        "context": {"type": "object", "properties": {"request_id": {"type": "string", "pattern": _REQUEST_ID.pattern}}},
    }
    schema = {"type": "object", "required": ["tool_name", "params"], "properties": properties}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}
