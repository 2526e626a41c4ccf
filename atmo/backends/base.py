"""The interface between the gateway and whatever runs a request on this machine."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from atmo.router.capability import CHAT, COMPLETIONS, Capability

STREAMED = frozenset({CHAT, COMPLETIONS})
"""Operations whose streams end with a chunk of usage."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """One JSON object of an answer that is passed on as it came.

    Attributes:
        data: UTF-8 JSON without line breaks, already seen to have the right shape. It has no `usage`.
        more: The next part is here already, so whoever writes need not write yet.
    """

    data: bytes
    more: bool = False


Object = dict[str, Any]
"""A JSON object."""

Part = Object | Encoded
"""One JSON object of an answer: the whole body, or one streamed chunk."""


def as_object(part: Part) -> Object:
    """Returns a part for somebody who looks inside."""
    if isinstance(part, Encoded):
        value: Object = json.loads(part.data)
        return value
    return part


@dataclass(frozen=True, slots=True)
class Head:
    """What is known of an answer when its work begins.

    Attributes:
        queue_s: How long the request waited for its turn.
        ignored: Fields of the request that change meaning and that the backend does not honour.
    """

    queue_s: float = 0.0
    ignored: tuple[str, ...] = ()


def _nobody(_head: Head) -> None:
    """Takes the head of an answer of which nobody wants to know."""


@dataclass(frozen=True, slots=True)
class Call:
    """One request for one capability of this machine.

    Attributes:
        capability: What was chosen.
        body: The client's JSON body, validated by the API: OpenAI's shape, or `{data | input, ...}` for `classify` and
            its neighbours. The backend answers with `capability.model` as the model's name. Streams of chats and
            completions always ask for usage; a stream's last part is then a chunk with `usage` and no choices.
        stream: Yield the parts of an answer as they come instead of one body.
        request_id: For logs and for the `id` of answers.
        asked: The operation that the client asked for, where it is another than the capability's: `completions` of a
            chat model; else empty.
        trace: W3C `traceparent`, empty for none.
        begun: Told when the work begins.
    """

    capability: Capability
    body: Mapping[str, Any]
    stream: bool = False
    request_id: str = ""
    asked: str = ""
    trace: str = ""
    begun: Callable[[Head], None] = _nobody

    @property
    def operation(self) -> str:
        """What the client asked for."""
        return self.asked or self.capability.operation


class Backend(Protocol):
    """Something that offers capabilities and runs calls.

    `discover` answers quickly (bounded by its own deadline), returns an empty list when its runner is away, and is
    asked again every `recheck_s` seconds. `execute` is an async generator: without `stream` it yields exactly one
    body; with it, chunks in order. Embeddings bodies always carry base64 strings of little-endian float32. It raises
    `RequestError` for what a client should read, and cancelling it stops the work.
    """

    name: str
    recheck_s: float
    delegates: bool = False
    """It has others do the work: its calls take no place among the requests that the machine runs at once."""

    async def discover(self) -> Sequence[Capability]: ...

    async def prepare(self, call: Call) -> None:
        """Does what has to be done before the work begins, such as loading a model: it counts as waiting."""
        return

    def execute(self, call: Call) -> AsyncGenerator[Part, None]: ...

    def ignored(self, call: Call) -> tuple[str, ...]:
        """Returns the fields of the request that change meaning and that this backend does not honour."""
        return ()

    def loads(self) -> Sequence[Object]:
        """Returns, for people, what of its models is loaded and what would have to be loaded first, if that is so."""
        return ()

    async def aclose(self) -> None:
        """Lets go of what the backend holds open, at the end of the node; who inherits this holds nothing."""
        return
