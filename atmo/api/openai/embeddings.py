"""`/v1/embeddings`: texts to vectors, in the form that the client asked for."""

# An endpoint is async whether it has to wait for anything or not.
# flake8: noqa: ASYNC124

from __future__ import annotations

import base64
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import trio
from numpy.typing import NDArray
from starlette.responses import Response
from starlette.types import Send

from atmo.api.account import Account
from atmo.api.documents.schema import takes
from atmo.api.exchange import Body, Exchange, run_json
from atmo.api.routing import Router
from atmo.errors import RequestError
from atmo.gateway.checks import check_body
from atmo.gateway.gateway import Gateway
from atmo.router.capability import EMBEDDINGS

_THREAD_ROWS = 64


def add_embeddings(router: Router, gateway: Gateway) -> None:
    """Adds the route."""

    async def work(body: Body, send: Send, account: Account) -> None:
        check_body(EMBEDDINGS, body)
        await run_json(gateway, EMBEDDINGS, body, send, account, partial(as_asked, body))

    @router.post("/embeddings", takes(EMBEDDINGS))
    async def embeddings() -> Response:
        """Turns texts, or token ids, into vectors."""
        return Exchange(gateway.budget, work)


async def as_asked(body: Mapping[str, Any], answer: Body) -> Body:
    """Returns a backend's embeddings in the form that a request asks for; see `embeddings_answer`."""
    form, dimensions = body.get("encoding_format") or "float", body.get("dimensions")
    rows = answer.get("data")
    if isinstance(rows, list) and len(rows) > _THREAD_ROWS:
        return await trio.to_thread.run_sync(embeddings_answer, answer, form, dimensions)
    return embeddings_answer(answer, form, dimensions)


def embeddings_answer(answer: Body, encoding: str, dimensions: int | None) -> Body:
    """Returns a backend's embeddings in the form that the client asked for.

    Args:
        answer: OpenAI's shape; each embedding is base64 of little-endian float32, or a list of numbers.
        encoding: `float` or `base64`.
        dimensions: Longer vectors are cut to so many numbers and brought back to length 1, None to leave them.

    Raises:
        RequestError: 502, it is no answer to an embeddings request; 400, the model has fewer dimensions.
    """
    rows = answer.get("data")
    if not isinstance(rows, list):
        raise _odd()
    data = []
    for index, row in enumerate(rows):
        vector = _vector(row)
        if dimensions is not None and dimensions != len(vector):
            vector = _cut(vector, dimensions)
        given = row["embedding"]
        embedding: Any
        if encoding == "float":
            embedding = vector.tolist()
        elif isinstance(given, str) and dimensions is None:
            embedding = given
        else:
            embedding = base64.b64encode(vector.tobytes()).decode()
        data.append({"object": "embedding", "index": index, "embedding": embedding})
    usage = answer.get("usage")
    if not isinstance(usage, dict):
        usage = {"prompt_tokens": 0, "total_tokens": 0}
    return {"object": "list", "data": data, "model": answer.get("model", ""), "usage": usage}


def _vector(row: object) -> NDArray[np.float32]:
    value = row.get("embedding") if isinstance(row, dict) else None
    if isinstance(value, str):
        try:
            vector = np.frombuffer(base64.b64decode(value, validate=True), "<f4")
        except ValueError:
            raise _odd() from None
    elif isinstance(value, list) and all(type(number) in (int, float) for number in value):
        with np.errstate(over="ignore"):
            vector = np.asarray(value, np.float64).astype("<f4")
    else:
        raise _odd()
    if not len(vector) or not np.isfinite(vector).all():
        raise _odd()
    return vector


def _cut(vector: NDArray[np.float32], dimensions: int) -> NDArray[np.float32]:
    if dimensions > len(vector):
        message = f"'dimensions' is {dimensions}, but the model has {len(vector)}: ask for fewer, or leave it out."
        raise RequestError(400, message, param="dimensions", code="invalid_value")
    short = vector[:dimensions]
    length = float(np.linalg.norm(short))
    return np.asarray(short / length if length else short, "<f4")


def _odd() -> RequestError:
    message = "The node answered with something else than embeddings."
    return RequestError(502, message, kind="api_error", code="bad_answer")
