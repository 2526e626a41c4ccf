"""A stand-in for an OpenTelemetry collector: it takes spans by OTLP over HTTP and keeps them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


@dataclass(frozen=True)
class Taken:
    """A span as the collector got it."""

    name: str
    trace: str
    id: str
    parent: str
    kind: int
    failed: bool
    node: str
    notes: dict[str, Any] = field(hash=False)


class Collector:
    """Spans in the order of their arrival.

    Args:
        status: With which each post is answered.
    """

    def __init__(self, status: int = 200) -> None:
        self.status = status
        self.spans: list[Taken] = []
        self.posts: list[str] = []
        self.url = ""

    def named(self, name: str, **notes: Any) -> Taken:
        """Returns the one span of a name that has these attributes."""
        found = [one for one in self.spans if one.name == name and all(one.notes.get(k) == v for k, v in notes.items())]
        assert len(found) == 1, f"{len(found)} spans are called {name}"
        return found[0]

    def take(self, path: str, raw: bytes) -> None:
        self.posts.append(path)
        request = ExportTraceServiceRequest()
        request.ParseFromString(raw)
        for resource in request.resource_spans:
            about = _notes(resource.resource.attributes)
            for scope in resource.scope_spans:
                for span in scope.spans:
                    ids = span.trace_id.hex(), span.span_id.hex(), span.parent_span_id.hex()
                    failed, notes = span.status.code == 2, _notes(span.attributes)
                    self.spans.append(Taken(span.name, *ids, span.kind, failed, about["atmo.node.name"], notes))


def _notes(attributes: Any) -> dict[str, Any]:
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in attributes}


@contextmanager
def collecting(status: int = 200) -> Iterator[Collector]:
    """Runs a collector on loopback."""
    collector = Collector(status)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            collector.take(self.path, self.rfile.read(int(self.headers["content-length"])))
            self.send_response(collector.status)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            """Says nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    collector.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield collector
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
