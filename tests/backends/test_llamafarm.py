"""The LlamaFarm backend against a stand-in that speaks LlamaFarm's API over real HTTP."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from typing import Any

import pytest

from atmo.backends.base import Call, as_object
from atmo.backends.llamafarm import LlamaFarmBackend
from atmo.backends.llamafarm_ml import detectors
from atmo.backends.llamafarm_names import disk_models, loaded_models, projects_of
from atmo.errors import RequestError, UserError
from atmo.router.capability import ANOMALY, CHAT, CLASSIFY, EMBEDDINGS, TOOLS, Capability
from tests.backends.llamafarm_standin import PAGE, LlamaFarm, llamafarm, project


@pytest.fixture
async def farm() -> AsyncIterator[LlamaFarm]:
    async with llamafarm() as farm:
        yield farm


@pytest.fixture
async def backend(farm: LlamaFarm) -> AsyncIterator[LlamaFarmBackend]:
    backend = LlamaFarmBackend(farm.server.url, farm.runtime.url)
    yield backend
    await backend.aclose()


async def offered(backend: LlamaFarmBackend) -> dict[str, Capability]:
    return {capability.id: capability for capability in await backend.discover()}


async def run(
    backend: LlamaFarmBackend, capability: Capability, body: Mapping[str, Any], stream: bool = False
) -> list[dict[str, Any]]:
    async with aclosing(backend.execute(Call(capability, body, stream, "r"))) as parts:
        return [as_object(part) async for part in parts]


async def test_what_is_offered(backend: LlamaFarmBackend) -> None:
    found = await offered(backend)
    assert [(key, c.operation, c.model, c.general) for key, c in found.items()] == [
        ("llamafarm:rag:default/legal", CHAT, "legal", False),
        ("llamafarm:agent:default/helper", CHAT, "helper", False),
        ("llamafarm:project:default/plain", CHAT, "plain", False),
        ("llamafarm:anomaly:pumps", ANOMALY, "pumps", False),
        ("llamafarm:classifier:intent", CLASSIFY, "intent", False),
        ("llamafarm:llm:meta-llama/Llama-3.2-1B", CHAT, "meta-llama/Llama-3.2-1B", True),
        ("llamafarm:embeddings:BAAI/bge-m3", EMBEDDINGS, "BAAI/bge-m3", True),
        ("llamafarm:llm:unsloth/Qwen3-1.7B-GGUF", CHAT, "unsloth/Qwen3-1.7B-GGUF", True),
        ("llamafarm:embeddings:nomic-ai/nomic-embed-text-v2", EMBEDDINGS, "nomic-ai/nomic-embed-text-v2", True),
    ]
    assert {c.backend for c in found.values()} == {"llamafarm"}
    assert "court rulings, main db" in found["llamafarm:rag:default/legal"].description
    assert found["llamafarm:project:default/plain"].description == "Writes limericks."
    assert "booking, cancel" in found["llamafarm:classifier:intent"].description
    # A project's instructions may hold secrets, and adverts go to the whole mesh.
    assert not any("swordfish" in c.description for c in found.values())
    model = found["llamafarm:llm:unsloth/Qwen3-1.7B-GGUF"]
    assert (model.features, model.size_b, model.device) == ((TOOLS,), 1.7, "gpu")


async def test_a_project_answers_without_a_session(farm: LlamaFarm, backend: LlamaFarmBackend) -> None:
    legal = (await offered(backend))["llamafarm:rag:default/legal"]
    body = {"model": "legal", "messages": [{"role": "developer", "content": "x"}, {"role": "user", "content": "Hi"}]}
    (answer,) = await run(backend, legal, body | {"rag_top_k": 3, "max_completion_tokens": 9})
    assert (answer["model"], answer["choices"][0]["message"]["content"]) == ("legal", "You said: Hi")
    request = farm.server.received[-1]
    headers = {name.lower(): value for name, value in request.headers.items()}
    assert headers["x-no-session"] == "true"
    # `model` would choose among the project's own models.
    assert "model" not in request.body
    assert (request.body["messages"][0]["role"], request.body["rag_top_k"]) == ("system", 3)
    chunks = await run(backend, legal, body | {"stream_options": {"include_usage": True}}, stream=True)
    texts = [choice["delta"].get("content", "") for chunk in chunks for choice in chunk["choices"]]
    assert "".join(texts) == "Yousaid:Hi"
    assert [c["finish_reason"] for chunk in chunks for c in chunk["choices"]][-1] == "stop"
    ignored = backend.ignored(Call(legal, body | {"temperature": 0.5, "tools": [1], "rag_top_k": 3}))
    assert ignored == ("temperature",)


async def test_the_runtime_chats_and_embeds(farm: LlamaFarm, backend: LlamaFarmBackend) -> None:
    found = await offered(backend)
    model = found["llamafarm:llm:unsloth/Qwen3-1.7B-GGUF"]
    body = {"messages": [{"role": "user", "content": "Hi"}], "max_completion_tokens": 9, "n_ctx": 5, "seed": 1}
    (answer,) = await run(backend, model, body)
    assert answer["choices"][0]["message"]["content"] == "You said: Hi"
    sent = farm.runtime.received[-1].body
    assert (sent["model"], sent["max_tokens"], sent["n_ctx"]) == ("unsloth/Qwen3-1.7B-GGUF", 9, 5)
    assert backend.ignored(Call(model, body)) == ("seed",)
    embedder = found["llamafarm:embeddings:BAAI/bge-m3"]
    (answer,) = await run(backend, embedder, {"input": ["a", "b"]})
    assert [row["embedding"] for row in answer["data"]] == ["AAAAPwAAgD8="] * 2
    assert farm.runtime.received[-1].body["model"] == "BAAI/bge-m3"
    assert backend.ignored(Call(embedder, {"input": "x", "seed": 1})) == ()


async def test_detectors_are_loaded_when_they_are_asked(farm: LlamaFarm, backend: LlamaFarmBackend) -> None:
    pumps = (await offered(backend))["llamafarm:anomaly:pumps"]
    for asked in (3, 1):
        before = len(farm.server.received)
        (answer,) = await run(backend, pumps, {"data": [[20.0, 1.0], [40.0, 1.0]]})
        assert len(farm.server.received) - before == asked
        assert answer == {
            "object": "ml.anomaly",
            "model": "pumps",
            "version": "",
            "results": [{"score": 0.0, "is_anomaly": False}, {"score": 1.0, "is_anomaly": True}],
            "threshold": 0.5,
            "anomalies": [1],
        }
    (answer,) = await run(backend, pumps, {"input": [[40.0]], "threshold": 5})
    assert (answer["threshold"], answer["anomalies"]) == (5, [])
    assert farm.server.received[-1].body["backend"] == "isolation_forest"
    for data in (None, [], [1.0], "x", [[1.0]] * 100_001):
        with pytest.raises(RequestError) as caught:
            await run(backend, pumps, {"data": data})
        assert caught.value.status == 400


async def test_classifiers(farm: LlamaFarm, backend: LlamaFarmBackend) -> None:
    intent = (await offered(backend))["llamafarm:classifier:intent"]
    (answer,) = await run(backend, intent, {"input": ["Cancel my trip"]})
    assert answer["predictions"] == [{"label": "booking", "score": 0.75, "scores": {"booking": 0.75, "cancel": 0.25}}]
    assert answer["labels"] == ["booking", "cancel"]
    del farm.classifiers["intent"]
    farm.ready.clear()
    with pytest.raises(RequestError, match="not found") as caught:
        await run(backend, intent, {"input": ["x"]})
    assert caught.value.status == 404


@pytest.mark.parametrize(
    ("operation", "path", "answer"),
    [
        (ANOMALY, "/v1/ml/anomaly/score", {"data": []}),
        (ANOMALY, "/v1/ml/anomaly/score", {"data": [{"score": "high"}]}),
        (ANOMALY, "/v1/ml/anomaly/score", {"data": [{"score": 10**400}]}),
        (ANOMALY, "/v1/ml/anomaly/score", {"data": [{"score": float("nan")}]}),
        (ANOMALY, "/v1/ml/anomaly/score", [1]),
        (CLASSIFY, "/v1/ml/classifier/predict", {"results": [{"score": 1}]}),
        (CLASSIFY, "/v1/ml/classifier/predict", {"results": ["booking"]}),
        (CLASSIFY, "/v1/ml/classifier/predict", {}),
    ],
)
async def test_answers_of_another_shape(
    farm: LlamaFarm, backend: LlamaFarmBackend, operation: str, path: str, answer: Any
) -> None:
    farm.server.json(path, answer)
    capability = Capability(id="llamafarm:x:y", operation=operation, model="y")
    body = {"data": [[1.0]]} if operation == ANOMALY else {"input": ["x"]}
    with pytest.raises(RequestError, match="LlamaFarm at") as caught:
        await run(backend, capability, body)
    assert caught.value.status == 502


async def test_a_threshold_that_is_no_number_is_left_out(farm: LlamaFarm, backend: LlamaFarmBackend) -> None:
    farm.server.json("/v1/ml/anomaly/score", {"data": [{"score": 1}], "summary": {"threshold": 10**400}})
    capability = Capability(id="llamafarm:anomaly:y", operation=ANOMALY, model="y")
    (answer,) = await run(backend, capability, {"data": [[1.0]]})
    assert answer["threshold"] is None


async def test_half_of_it_may_be_away(farm: LlamaFarm) -> None:
    async with llamafarm() as gone:
        url = gone.server.url
    for backend, kinds in (
        (LlamaFarmBackend(farm.server.url, url), {"rag", "agent", "project", "anomaly", "classifier"}),
        (LlamaFarmBackend(url, farm.runtime.url), {"llm", "embeddings"}),
        (LlamaFarmBackend(None, farm.runtime.url), {"llm", "embeddings"}),
        (LlamaFarmBackend(farm.server.url, None), {"rag", "agent", "project", "anomaly", "classifier"}),
        (LlamaFarmBackend(url, url), set()),
    ):
        assert {key.split(":")[1] for key in await offered(backend)} == kinds
        await backend.aclose()


@pytest.mark.parametrize(
    "health",
    [
        {"status": "ok", "node_id": "abc", "version": "1", "models": 3},
        {"status": "ok", "node_id": "abc", "components": []},
        {"status": "ok"},
        [],
        None,
    ],
)
async def test_other_programs_at_its_ports(farm: LlamaFarm, caplog: pytest.LogCaptureFixture, health: Any) -> None:
    caplog.set_level(logging.DEBUG, "atmo")
    for server in (farm.server, farm.runtime):
        server.json("/health", health) if health is not None else server.raw("/health", 200, "text/html", PAGE)
    backend = LlamaFarmBackend(farm.server.url, farm.runtime.url)
    for _ in range(2):
        assert await backend.discover() == []
    assert len(caplog.records) == 1
    await backend.aclose()


async def test_older_answers_are_read_too(farm: LlamaFarm, backend: LlamaFarmBackend) -> None:
    farm.server.json("/health", {"service": "llamafarm"})
    rows = [
        {"id": "rag-docs", "name": "Documentation RAG", "type": "rag", "documents": 3},
        {"id": "x/y", "name": "Odd", "type": "agent", "description": "Helps."},
    ]
    farm.server.json("/v1/projects", {"data": rows})
    farm.server.on("/v1/projects/default/x%2Fy/chat/completions", farm._chat)
    for path in ("/v1/models", "/v1/ml/anomaly/models", "/v1/ml/classifier/models"):
        farm.server.raw(path, 200, "text/html", PAGE)
    found = await offered(backend)
    assert list(found)[:2] == ["llamafarm:rag:default/rag-docs", "llamafarm:agent:default/x/y"]
    assert "Documentation RAG" in found["llamafarm:rag:default/rag-docs"].description
    (answer,) = await run(
        backend, found["llamafarm:agent:default/x/y"], {"messages": [{"role": "user", "content": "a"}]}
    )
    assert answer["choices"][0]["message"]["content"] == "You said: a"


def test_lists_of_another_shape() -> None:
    bodies: list[Any] = [
        None,
        [],
        "x",
        {},
        {"projects": "x"},
        {"data": [3, None, {}]},
        {"projects": [{"namespace": 5, "name": "x"}]},
    ]
    for body in bodies:
        assert projects_of(body) == []
        assert disk_models(body) == []
        assert loaded_models(body) == []
        assert detectors(body) == []
    assert projects_of([project("n" * 130), project("a\nb")]) == []
    (other,) = projects_of({"projects": [project("a", "team")]})
    assert (other.key, other.model) == ("llamafarm:project:team/a", "team/a")
    assert loaded_models({"data": [{"id": "plain-name", "type": "language"}, {"id": "x", "type": "ocr"}]}) == [
        ("plain-name", CHAT)
    ]
    assert detectors({"data": [{"filename": "a.bin"}, {"model_name": "b", "backend": "../x"}, {"name": "b"}]}) == [
        ("b", "isolation_forest")
    ]


def test_bad_urls() -> None:
    for urls in (("x", None), (None, "ftp://x")):
        with pytest.raises(UserError, match="llamafarm"):
            LlamaFarmBackend(*urls)
