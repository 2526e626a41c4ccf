"""Spans of requests, as a collector gets them; skipped where the extra `otel` is not installed."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import trio

pytest.importorskip("opentelemetry.exporter.otlp.proto.http", reason="the extra `otel` is not installed")

from atmo.gateway.otel import OtelTracer, traces_url
from atmo.gateway.tracing import traceparent_untrusted
from tests.api.face import in_process, make_app
from tests.gateway.otlp import Collector, collecting
from tests.gateway.world import Echo, Failing, chat, loop_net, refused

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
SERVER, CLIENT = 2, 3


@contextmanager
def tracing(collector: Collector, *names: str) -> Iterator[list[OtelTracer]]:
    """Runs a tracer for each node; at the end all of their spans are at the collector."""
    tracers = [OtelTracer(collector.url, f"id-{name}", name) for name in names]
    yield tracers
    for tracer in tracers:
        tracer.close()


async def test_one_trace_over_two_nodes() -> None:
    with collecting() as collector, tracing(collector, "alpha", "beta") as (one, two):
        async with loop_net() as net:
            alpha, echo = await net.add("alpha", tracer=one), Echo()
            await net.add("beta", echo, tracer=two)
            async with in_process(make_app(alpha)) as client:
                answer = await client.post(
                    "/v1/chat/completions", json=chat("my secret", stream=True), headers={"traceparent": PARENT}
                )
    assert answer.status_code == 200
    assert set(collector.posts) == {"/v1/traces"}
    assert {span.trace for span in collector.spans} == {PARENT[3:35]}
    http = collector.named("HTTP POST")
    route, attempt = collector.named("route"), collector.named("attempt")
    serve, run = collector.named("serve"), collector.named("run")
    assert http.parent == PARENT[36:52]
    assert (route.parent, attempt.parent, serve.parent, run.parent) == (http.id, http.id, attempt.id, serve.id)
    assert [span.node for span in (http, route, attempt, serve, run)] == ["alpha"] * 3 + ["beta"] * 2
    assert (http.kind, attempt.kind, serve.kind) == (SERVER, CLIENT, SERVER)
    assert (http.notes["gen_ai.response.model"], http.notes["atmo.node"]) == ("echo", "beta")
    assert http.notes["http.response.status_code"] == 200
    assert attempt.notes["atmo.path"] == "direct"
    assert serve.notes["atmo.asked_by"] == str(alpha.id)
    assert echo.calls[0].trace == f"00-{run.trace}-{run.id}-01"
    assert not any("secret" in str(span) for span in collector.spans)


async def test_every_attempt_has_a_span_and_failures_are_marked() -> None:
    with collecting() as collector, tracing(collector, "alpha", "beta") as (one, two):
        async with loop_net() as net:
            alpha = await net.add("alpha", Failing(error=refused(503)), tracer=one)
            await net.add("beta", Echo(Failing().offered[0]), tracer=two)
            async with in_process(make_app(alpha)) as client:
                await client.post("/v1/chat/completions", json=chat())
                lost = await client.post("/v1/chat/completions", json=chat(model="nobody's"))
    assert lost.status_code == 404
    bad, good = (collector.named("attempt", **{"atmo.node": name}) for name in ("alpha", "beta"))
    assert (bad.failed, good.failed) == (True, False)
    assert (bad.trace, bad.notes["error.type"]) == (good.trace, "no")
    failed = [span for span in collector.spans if span.name == "route" and span.failed]
    assert [span.notes["error.type"] for span in failed] == ["model_not_found"]
    assert failed[0].trace != good.trace, "each request without a trace begins one"


@pytest.mark.parametrize("given", ["", "x", PARENT.upper(), f"00-{'0' * 32}-{'0' * 16}-00"])
async def test_what_is_no_trace_begins_a_new_one(given: str) -> None:
    with collecting() as collector, tracing(collector, "alpha") as (tracer,):
        async with loop_net() as net, in_process(make_app(await net.add("alpha", Echo(), tracer=tracer))) as client:
            await client.post("/v1/chat/completions", json=chat(), headers={"traceparent": given})
    http = collector.named("HTTP POST")
    assert http.parent == ""
    assert collector.named("run").trace == http.trace != "0" * 32


async def test_a_collector_that_is_away_harms_nobody(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "atmo.gateway.otel")
    with collecting(status=400) as collector:
        tracer = OtelTracer(collector.url, "id", "alpha")
        async with loop_net() as net, in_process(make_app(await net.add("alpha", Echo(), tracer=tracer))) as client:
            for _ in range(3):
                assert (await client.post("/v1/chat/completions", json=chat())).status_code == 200
                await trio.to_thread.run_sync(tracer.flush)
            collector.status = 200
            await client.post("/v1/chat/completions", json=chat())
            await trio.to_thread.run_sync(tracer.flush)
        tracer.close()
    said = [record.levelname for record in caplog.records if record.name == "atmo.gateway.otel"]
    assert said == ["WARNING", "INFO"], "once when it goes, once when it is back"


def test_a_span_that_is_not_sampled_is_passed_on() -> None:
    with collecting() as collector, tracing(collector, "alpha") as (tracer,):
        parent = PARENT[:-2] + "00"
        with tracer.span("any", parent) as span:
            assert not span.recording
            assert traceparent_untrusted(span.traceparent)
            assert span.traceparent[3:35] == parent[3:35]
            assert span.traceparent.endswith("-00")
    assert collector.spans == []


@pytest.mark.parametrize(
    ("endpoint", "url"),
    [
        ("", ""),
        ("http://c:4318", "http://c:4318/v1/traces"),
        ("http://c:4318/", "http://c:4318/v1/traces"),
        ("http://c/otlp/v1/traces", "http://c/otlp/v1/traces"),
    ],
)
def test_where_spans_are_posted(endpoint: str, url: str) -> None:
    assert traces_url(endpoint) == url
