"""The backend `builtin`: OpenAI embeddings from the sentence embedder that every node carries."""

from __future__ import annotations

import base64
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any

from atmo.backends.base import Backend, Call, Part
from atmo.backends.embedder import MODEL, Embedder
from atmo.backends.honoured import unhonoured
from atmo.errors import RequestError
from atmo.router.capability import EMBEDDINGS, Capability

MAX_INPUTS = 2_048
"""Source: OpenAI's API reference, `input` of `/v1/embeddings`."""

CAPABILITY = Capability(
    id=f"builtin:{MODEL}",
    operation=EMBEDDINGS,
    model=MODEL,
    description=(
        "Turns sentences and short texts into vectors of 384 numbers, for search by meaning, for comparing and for"
        " grouping texts. Works offline; best for English."
    ),
    examples=(
        "Make sentence embeddings of these texts.",
        "How similar are these two sentences?",
        "Vectors for semantic search over my documents",
        "Group these customer reviews by what they say.",
        "Find duplicate questions.",
    ),
    general=True,
    concurrency=4,
    backend="builtin",
)


class EmbeddingsBackend(Backend):
    """Offers the built-in embedder to the mesh.

    Args:
        embedder: Shared with everything else on this node that compares texts.
    """

    name = "builtin"
    recheck_s = 3_600.0

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder

    async def discover(self) -> Sequence[Capability]:
        """Returns the one capability; it is always there."""
        return (CAPABILITY,)

    def ignored(self, call: Call) -> tuple[str, ...]:
        """Returns whatever is asked for beside texts: the vectors are always the same."""
        return unhonoured(call.body, ("input",))

    async def execute(self, call: Call) -> AsyncGenerator[Part, None]:
        """Yields one OpenAI list of embeddings in base64, of full length: whoever asked shortens them.

        Raises:
            RequestError: 400, `input` is not what OpenAI's API takes.
        """
        texts = _texts(call.body, self._embedder)
        vectors = await self._embedder.embed(texts)
        tokens = await self._embedder.tokens_read(texts)
        data = [
            {"object": "embedding", "index": index, "embedding": base64.b64encode(vector.tobytes()).decode()}
            for index, vector in enumerate(vectors.astype("<f4"))
        ]
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        yield {"object": "list", "data": data, "model": call.capability.model, "usage": usage}


def _texts(body: Mapping[str, Any], embedder: Embedder) -> list[str]:
    given = body.get("input")
    if isinstance(given, str) or _is_token_ids(given):
        given = [given]
    if not isinstance(given, list) or not given:
        raise _bad("'input' must be a text or a list of texts that is not empty.")
    if len(given) > MAX_INPUTS:
        raise _bad(f"'input' has {len(given)} items; at most {MAX_INPUTS} are allowed. Send several requests.")
    return [_text(item, index, embedder) for index, item in enumerate(given)]


def _text(item: object, index: int, embedder: Embedder) -> str:
    if isinstance(item, str) and item:
        return item
    if isinstance(item, list) and _is_token_ids(item):
        try:
            return embedder.decode(item)
        except ValueError as error:
            message = (
                f"Item {index} of 'input' is not for this model: {error}. Send text;"
                " in LangChain set check_embedding_ctx_length=False."
            )
            raise _bad(message) from error
    raise _bad(f"Item {index} of 'input' must be a text or a list of token ids, and not empty.")


def _is_token_ids(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(type(item) is int for item in value)


def _bad(message: str) -> RequestError:
    return RequestError(400, message, param="input", code="invalid_value")
