"""Spans by OpenTelemetry's SDK, exported by OTLP over HTTP. Imported only where an endpoint for them is set.

The exporter has a thread and a bounded queue of its own: where the collector is slow or away, the oldest spans are
dropped and requests notice nothing. Sampling follows the SDK's environment (`OTEL_TRACES_SAMPLER`): by default every
trace, and those of others as they decided.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from types import TracebackType

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    set_span_in_context,
)
from opentelemetry.trace import Span as SdkSpan

from atmo.gateway.tracing import Kind, Value
from atmo.version import __version__

QUEUE_SPANS = 2_048
"""That wait to be exported; about 1 KB each. Source: the SDK's default."""

BATCH_SPANS = 512
DELAY_MS = 2_000
"""Until a batch that is not full is sent. Source: guess; the SDK waits 5 s, which is long for a person who looks."""

EXPORT_S = 5.0
"""A collector that takes longer has failed on that batch. Source: guess, half of the SDK's."""

LIMITS = SpanLimits(max_span_attributes=32, max_span_attribute_length=256, max_events=4, max_links=4)
"""What one span may hold: names come from other nodes. Source: guess, far above what is noted."""

_KINDS = {"internal": SpanKind.INTERNAL, "server": SpanKind.SERVER, "client": SpanKind.CLIENT}
_TRACES = "/v1/traces"

log = logging.getLogger(__name__)


class OtelSpan:
    """A span of the SDK; see `tracing.Span`."""

    __slots__ = ("_span", "recording", "traceparent")

    def __init__(self, span: SdkSpan) -> None:
        self._span = span
        self.recording = span.is_recording()
        context = span.get_span_context()
        self.traceparent = f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"

    def note(self, name: str, value: Value) -> None:
        """Adds an attribute."""
        self._span.set_attribute(name, value)

    def fail(self, kind: str) -> None:
        """Marks the work as failed."""
        self._span.set_attribute("error.type", kind)
        self._span.set_status(Status(StatusCode.ERROR))

    def __enter__(self) -> OtelSpan:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ends the span; of an exception its kind alone is noted, as its text may hold what a client sent."""
        if kind is not None:
            self.fail(kind.__name__)
        self._span.end()


class OtelTracer:
    """Records spans and exports them.

    Args:
        endpoint: Base URL of an OTLP/HTTP collector, such as `http://127.0.0.1:4318`; empty to leave it to the
            exporter's environment variables.
        node_id, node_name: Of this node.
    """

    active = True

    def __init__(self, endpoint: str, node_id: str, node_name: str) -> None:
        about = {
            "service.name": "atmosphere",
            "service.version": __version__,
            "service.instance.id": node_id,
            "atmo.node.name": node_name,
        }
        exporter = _Noted(OTLPSpanExporter(traces_url(endpoint) or None, timeout=EXPORT_S))
        self._processor = BatchSpanProcessor(exporter, QUEUE_SPANS, DELAY_MS, BATCH_SPANS)
        provider = TracerProvider(resource=Resource.create(about), span_limits=LIMITS, shutdown_on_exit=False)
        provider.add_span_processor(self._processor)
        self._tracer = provider.get_tracer("atmo", __version__)

    def span(self, name: str, parent: str = "", kind: Kind = "internal") -> OtelSpan:
        """Begins a span; see `tracing.Tracer`."""
        context = Context()
        if parent:
            context = set_span_in_context(NonRecordingSpan(_context_of(parent)), context)
        return OtelSpan(self._tracer.start_span(name, context, _KINDS[kind]))

    def flush(self) -> None:
        """Exports what waits; blocks for `EXPORT_S` seconds at most, so not to be called in trio's thread."""
        self._processor.force_flush(int(EXPORT_S * 1_000))

    def close(self) -> None:
        """Exports what waits and ends; blocks as `flush` does. Its thread ends with the process in any case."""
        self._processor.shutdown()  # type: ignore[no-untyped-call]


class _Noted(SpanExporter):
    """Says once that the collector does not take spans, and once that it does again."""

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter
        self._away = False
        logging.getLogger("opentelemetry.exporter.otlp.proto.http").setLevel(logging.CRITICAL)

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = self._exporter.export(spans)
        away = result is not SpanExportResult.SUCCESS
        if away != self._away:
            if away:
                log.warning("the collector does not take spans: is it there? They are dropped until it does")
            else:
                log.info("the collector takes spans again")
        self._away = away
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return self._exporter.force_flush(timeout_millis)


def traces_url(endpoint: str) -> str:
    """Returns where spans are posted below a collector's base URL; empty for an empty one."""
    base = endpoint.rstrip("/")
    return base if not base or base.endswith(_TRACES) else base + _TRACES


def _context_of(traceparent: str) -> SpanContext:
    """Returns the SDK's context of a checked traceparent."""
    return SpanContext(
        trace_id=int(traceparent[3:35], 16),
        span_id=int(traceparent[36:52], 16),
        is_remote=True,
        trace_flags=TraceFlags(int(traceparent[53:55], 16)),
    )
