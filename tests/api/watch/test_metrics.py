from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import trio
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from atmo.api.account import ABANDONED, ANSWERED, FAILED, Account
from atmo.api.watch.metrics import Metrics, StatsCollector
from atmo.api.watch.request_metrics import RequestMetrics
from atmo.services.lan import LanStats
from tests.api.face import in_process, make_app
from tests.gateway.world import Echo, Failing, Lengths, chat, loop_net, refused


def account(model: str = "echo", **more: object) -> Account:
    """Returns the account of a chat that was answered."""
    made = Account("POST", "/v1/chat/completions", operation="chat", model=model, node="alpha", mesh_path="local")
    made.status, made.first_byte_s, made.outcome, made.duration_s = 200, 0.02, ANSWERED, 0.3
    made.prompt_tokens, made.completion_tokens, made.cost, made.queue_s = 7, 5, 0.25, 0.004
    for name, value in more.items():
        setattr(made, name, value)
    return made


class Shown:
    """The samples of an exposition, by name and labels."""

    def __init__(self, text: str) -> None:
        self.families = {family.name: family for family in text_string_to_metric_families(text)}
        self.samples = {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in self.families.values()
            for sample in family.samples
        }

    def __call__(self, name: str, **labels: str) -> float:
        return self.samples[name, tuple(sorted(labels.items()))]

    def models(self) -> Iterator[str]:
        for name, labels in self.samples:
            if name == "atmo_requests_total":
                yield dict(labels)["model"]


async def exposed(metrics: RequestMetrics, registry: CollectorRegistry) -> Shown:
    await trio.lowlevel.checkpoint()
    return Shown(generate_latest(registry).decode())


class TestRequests:
    async def test_one_request_is_counted_in_everything(self) -> None:
        metrics = Metrics()
        metrics.requests.observe(account())
        shown = Shown((await metrics.render()).decode())
        kind = {"operation": "chat", "model": "echo"}
        assert shown("atmo_requests_total", **kind, outcome="answered") == 1
        assert shown("atmo_http_requests_total", method="POST", code="200") == 1
        assert shown("atmo_requests_by_path_total", path="local") == 1
        assert shown("atmo_tokens_total", **kind, direction="input") == 7
        assert shown("atmo_tokens_total", **kind, direction="output") == 5
        assert shown("atmo_cost_dollars_total", **kind) == 0.25
        assert shown("atmo_request_duration_seconds_sum", **kind) == 0.3
        assert shown("atmo_request_duration_seconds_bucket", **kind, le="0.25") == 0
        assert shown("atmo_request_duration_seconds_bucket", **kind, le="0.5") == 1
        assert shown("atmo_time_to_first_byte_seconds_count", **kind) == 1
        assert shown("atmo_queue_seconds_sum", **kind) == 0.004

    async def test_what_nobody_ran_has_no_tokens(self) -> None:
        metrics = Metrics()
        metrics.requests.observe(account("made-up", node="", status=404, outcome="refused", first_byte_s=None))
        metrics.requests.observe(account(outcome=ABANDONED, first_byte_s=None))
        metrics.requests.observe(Account("GET", "/v1/models", status=200, outcome=ANSWERED))
        shown = Shown((await metrics.render()).decode())
        assert shown("atmo_requests_total", operation="chat", model="other", outcome="refused") == 1
        assert shown("atmo_requests_total", operation="chat", model="echo", outcome="abandoned") == 1
        assert shown("atmo_time_to_first_byte_seconds_count", operation="chat", model="echo") == 0
        assert shown("atmo_http_requests_total", method="GET", code="200") == 1
        assert ("atmo_tokens_total", (("direction", "input"), ("model", "other"))) not in shown.samples

    async def test_labels_are_bounded_whoever_asks_for_what(self) -> None:
        registry = CollectorRegistry()
        metrics = RequestMetrics(registry, max_models=3)
        for number in range(20):
            metrics.observe(account(f"invented-{number}", node="", status=404, outcome="refused"))
        for number in range(20):
            metrics.observe(account(f"model-{number}", mesh_path=f"path-{number}", outcome=f"outcome-{number}"))
            metrics.observe(account("model-1", operation=f"operation-{number}", method=f"M{number}", status=number))
        shown = await exposed(metrics, registry)
        assert set(shown.models()) == {"model-0", "model-1", "model-2", "other"}
        outcomes = {dict(labels)["outcome"] for name, labels in shown.samples if name == "atmo_requests_total"}
        assert outcomes == {"refused", "other", "answered"}
        assert shown("atmo_http_requests_total", method="other", code="0") == 20
        assert shown("atmo_requests_by_path_total", path="other") == 20
        assert len(shown.samples) < 500

    async def test_a_failure_has_a_status(self) -> None:
        metrics = Metrics()
        metrics.requests.observe(account(status=502, outcome=FAILED))
        assert Shown((await metrics.render()).decode())("atmo_http_requests_total", method="POST", code="502") == 1


class TestStats:
    def test_numbers_are_counters_and_maps_are_counters_by_key(self) -> None:
        @dataclass
        class Stats:
            count: int = 2
            ok: bool = True
            name: str = "x"
            by_kind: dict[str, int] = field(default_factory=lambda: {'a"b': 3})

        registry = CollectorRegistry()
        registry.register(StatsCollector(lambda: {"engine-1": Stats(), "other": object()}, dict))
        text = generate_latest(registry).decode()
        assert "# TYPE atmo_engine_1_count_total counter\natmo_engine_1_count_total 2.0" in text
        assert r'atmo_engine_1_by_kind_total{key="a\"b"} 3.0' in text
        assert "ok" not in text
        assert "name" not in text

    async def test_values_of_now_are_gauges(self) -> None:
        metrics = Metrics(lambda: {"lan": LanStats(seen=3, mesh=2, dials=1)}, lambda: {"nodes": 4})
        shown = Shown((await metrics.render()).decode())
        assert (shown.families["atmo_lan_seen"].type, shown("atmo_lan_seen")) == ("gauge", 3)
        assert (shown.families["atmo_lan_dials"].type, shown("atmo_lan_dials_total")) == ("counter", 1)
        assert (shown.families["atmo_nodes"].type, shown("atmo_nodes")) == ("gauge", 4)

    async def test_the_process_and_the_build_are_shown(self) -> None:
        shown = Shown((await Metrics().render()).decode())
        assert shown("process_resident_memory_bytes") > 0
        assert shown("process_cpu_seconds_total") > 0
        assert any(name == "atmo_build_info" and dict(labels)["version"] for name, labels in shown.samples)


class TestRoute:
    async def test_every_kind_of_request_over_http(self) -> None:
        async with loop_net() as net:
            alpha = await net.add("alpha", Echo(), Lengths())
            await net.add("beta", Failing(error=refused(400)))
            async with in_process(make_app(alpha)) as client:
                await client.post("/v1/chat/completions", json=chat(model="echo"))
                await client.post("/v1/chat/completions", json=chat(stream=True, model="echo"))
                await client.post("/v1/chat/completions", json=chat(model="nobody's"))
                await client.post("/v1/chat/completions", content=b"{")
                await client.post("/v1/embeddings", json={"input": ["a", "b"]})
                shown = Shown((await client.get("/metrics")).text)
        assert shown("atmo_requests_total", operation="chat", model="echo", outcome="answered") == 2
        assert shown("atmo_requests_total", operation="chat", model="other", outcome="refused") == 1
        assert shown("atmo_requests_total", operation="embeddings", model="lengths", outcome="answered") == 1
        assert shown("atmo_tokens_total", operation="embeddings", model="lengths", direction="input") == 2
        assert shown("atmo_http_requests_total", method="POST", code="400") == 1
        assert shown("atmo_requests_in_flight") == 0
        assert shown("atmo_requests_waiting") == 0
        assert shown("atmo_capabilities") == 2
