"""The interface between the gateway and whatever runs a request on this machine."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from atmo.router.capability import Capability

Part = dict[str, Any]
"""One JSON object of an answer: the whole body, or one streamed chunk."""


@dataclass(frozen=True, slots=True)
class Call:
    """One request for one capability of this machine.

    Attributes:
        capability: What was chosen.
        body: The client's JSON body, validated by the API: OpenAI's chat or embeddings shape, or
            `{data | input, ...}` for `classify` and `anomaly`. The backend answers with `capability.model` as the
            model's name.
        stream: Yield OpenAI stream chunks (chat only) instead of one body.
        request_id: For logs and for the `id` of answers.
    """

    capability: Capability
    body: Mapping[str, Any]
    stream: bool = False
    request_id: str = ""


class Backend(Protocol):
    """Something that offers capabilities and runs calls.

    `discover` answers quickly (bounded by its own deadline), returns an empty list when its runner is away, and is
    asked again every `recheck_s` seconds. `execute` is an async generator: without `stream` it yields exactly one
    body; with it, chunks in order. Embeddings bodies always carry base64 strings of little-endian float32. It raises
    `RequestError` for what a client should read, and cancelling it stops the work.
    """

    name: str
    recheck_s: float

    async def discover(self) -> Sequence[Capability]: ...

    def execute(self, call: Call) -> AsyncGenerator[Part, None]: ...

    async def aclose(self) -> None:
        """Lets go of what the backend holds open, at the end of the node; who inherits this holds nothing."""
        return
