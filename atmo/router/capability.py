"""What a node can do, as it tells the mesh."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from atmo.wire import limits
from atmo.wire.schema import Most

CHAT = "chat"
EMBEDDINGS = "embeddings"
CLASSIFY = "classify"
ANOMALY = "anomaly"
OPERATIONS = (CHAT, EMBEDDINGS, CLASSIFY, ANOMALY)
"""Operations of this version. An advert with another operation is kept and never chosen."""

Name = Annotated[str, Most(limits.NAME_CHARS)]

CapabilityKey = tuple[str, ...]
"""The texts by which requests are compared with a capability: its description, then its examples."""


@dataclass(frozen=True, slots=True)
class Capability:
    """One thing that one node can run.

    Attributes:
        id: Unique on its node and stable while it is offered, such as `onnx:iris@1.0.0` or `ollama:llama3.2:latest`.
        operation: One of `OPERATIONS`.
        model: The name a request uses: `iris`, `llama3.2:latest`, `all-minilm-l6-v2`, `atmosphere-docs`.
        version: PEP 440 version of a model from the store, else empty.
        description: What it does, one or two sentences; routing by meaning compares requests with it.
        examples: Things a user may ask of it; at most 32. Embedded by whoever receives the advert.
        general: True for a model that takes any prompt of its operation (an LLM): it wins where no specialist is near.
        concurrency: How many requests it runs at once; more wait in its queue.
        cost_per_1k: Price of a thousand tokens in US dollars, 0 when it is the owner's own machine.
        backend: Who runs it, for people: `ollama`, `openai`, `onnx`, `builtin`, `rag`.
    """

    id: Name
    operation: Name
    model: Name
    version: Name = ""
    description: Annotated[str, Most(1_024)] = ""
    examples: Annotated[tuple[Annotated[str, Most(512)], ...], Most(32)] = ()
    general: bool = False
    concurrency: int = 1
    cost_per_1k: float = 0.0
    backend: Name = ""


def key_of(capability: Capability) -> CapabilityKey:
    """Returns the texts that tell what `capability` does; its model's name where it does not say."""
    if capability.description:
        return (capability.description, *capability.examples)
    return capability.examples or (capability.model,)
