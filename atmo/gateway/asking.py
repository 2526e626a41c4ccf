"""What a request brings beside its body."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Asking:
    """How a request is to be run, and for whom.

    Attributes:
        stream: Parts as they come instead of one body.
        request_id: For logs here and on the node that runs it; made up where it is empty.
        models: Patterns of the models that whoever asks may use; empty for all.
        trace: W3C `traceparent` of what the request is a part of, empty for none.
    """

    stream: bool = False
    request_id: str = ""
    models: tuple[str, ...] = ()
    trace: str = ""


ANYBODY = Asking()
