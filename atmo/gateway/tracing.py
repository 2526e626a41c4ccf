"""Traces: which work belongs to which request, over all nodes that took part. Source: W3C Trace Context, level 1.

Work is named by its `traceparent`, a string that is handed down with every call, to other nodes in the header of
`atmo/execute/1` and to servers as an HTTP header. So nothing here depends on which task runs what. Without a tracer the
string is passed on as it came; `atmo.gateway.otel` has the one that measures and exports.
"""

from __future__ import annotations

import re
from types import TracebackType
from typing import Literal, Protocol

from atmo.identity import NodeId
from atmo.router.decision import Decision
from atmo.router.offer import Offer

Kind = Literal["internal", "server", "client"]
Value = str | int | float | bool

TRACEPARENT_CHARS = 55
"""Of version 00: `00-` 32 digits `-` 16 digits `-` 2 digits."""

TRACEPARENT_MOST = 512
"""Characters of one of a later version. Source: the specification asks for that much of `tracestate`."""

_TRACEPARENT = re.compile("(?!ff)([0-9a-f]{2})(-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2})(-.*)?")


class Span(Protocol):
    """A stretch of work; a context manager that ends it. An exception that passes is noted by its kind, not its text.

    Attributes:
        recording: Whether it is recorded; what costs something to note is left out where it is not.
        traceparent: To be handed to whatever works for this span; empty where there is no trace.
    """

    @property
    def recording(self) -> bool: ...

    @property
    def traceparent(self) -> str: ...

    def note(self, name: str, value: Value) -> None:
        """Adds an attribute. Never anything of a prompt, an answer or a key."""

    def fail(self, kind: str) -> None:
        """Marks the work as failed, for a reason of a few words."""

    def __enter__(self) -> Span: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Tracer(Protocol):
    """Begins spans.

    Attributes:
        active: Whether spans are recorded.
    """

    @property
    def active(self) -> bool: ...

    def span(self, name: str, parent: str = "", kind: Kind = "internal") -> Span:
        """Begins a span.

        Args:
            name: Few and low in number: `route`, `attempt`, not an id.
            parent: The traceparent of what this works for; a new trace begins where it is empty.
            kind: `server` for what answers a request that came in, `client` for one that goes out.
        """


class PassedOn:
    """The span of nobody who measures: what came is passed on."""

    __slots__ = ("traceparent",)

    recording = False

    def __init__(self, traceparent: str) -> None:
        self.traceparent = traceparent

    def note(self, name: str, value: Value) -> None:
        """Does nothing."""

    def fail(self, kind: str) -> None:
        """Does nothing."""

    def __enter__(self) -> PassedOn:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Does nothing."""


class NoTracer:
    """Records nothing and passes ids on."""

    active = False

    def span(self, name: str, parent: str = "", kind: Kind = "internal") -> Span:
        """Returns a span that passes `parent` on."""
        return PassedOn(parent)


NO_TRACER = NoTracer()


def traceparent_untrusted(value: object) -> str:
    """Returns `value` where it is a traceparent of version 00, else an empty string: a trace is never worth an error.

    Later versions are read as version 00, as the specification wants it: what they add is left out.
    """
    if not isinstance(value, str) or not TRACEPARENT_CHARS <= len(value) <= TRACEPARENT_MOST:
        return ""
    found = _TRACEPARENT.fullmatch(value)
    if found is None or (found[1] == "00" and found[3]):
        return ""
    return "00" + found[2]


def trace_id(traceparent: str) -> str:
    """Returns the trace's id of a checked traceparent; empty for none."""
    return traceparent[3:35]


def note_decision(span: Span, decision: Decision) -> None:
    """Puts what the router decided into its span; nothing of the request's words, which its reasons may repeat."""
    if not span.recording:
        return
    span.note("atmo.operation", decision.request.operation)
    span.note("atmo.rule", decision.rule)
    if decision.chosen is not None:
        note_offer(span, decision.chosen)
    if decision.failure is not None:
        span.fail(decision.failure.code)


def note_offer(span: Span, offer: Offer) -> None:
    """Puts who is to run a request into a span."""
    if not span.recording:
        return
    span.note("gen_ai.request.model", offer.capability.model)
    span.note("atmo.node", offer.node_name)
    span.note("atmo.node.id", str(offer.node))
    span.note("atmo.path", offer.path)


def note_asked(span: Span, node: NodeId, operation: str, model: str) -> None:
    """Puts what another node asked for into a span."""
    if not span.recording:
        return
    span.note("atmo.operation", operation)
    span.note("gen_ai.request.model", model)
    span.note("atmo.asked_by", str(node))
