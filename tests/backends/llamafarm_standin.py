"""A stand-in for LlamaFarm: two HTTP servers on loopback that answer in the shapes of LlamaFarm 0.0.27.

It is no LlamaFarm and runs no model: chats echo, detectors compare with the mean of what they were fitted with. What
it is true to are the paths, the fields, the statuses and the habits, such as a web page for paths that it does not know
and a detector that must be loaded from disk before it scores. Sources: `server/api/routers` (health, models, projects,
ml) and `runtimes/universal/routers` (health, chat_completions, embeddings) of llama-farm/llamafarm, and the project's
own notes of its API.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from tests.backends.fake_server import Reply, Server, serve

PAGE = b"<!doctype html><html><title>LlamaFarm Designer</title></html>"
INSTRUCTIONS = "You are the lawyers' assistant. The password is swordfish."


def project(name: str, namespace: str = "default", **config: Any) -> dict[str, Any]:
    """One project as the server lists it."""
    model = {"name": "fast", "provider": "universal", "model": "unsloth/Qwen3-1.7B-GGUF", "default": True}
    base = {
        "version": "v1",
        "name": name,
        "namespace": namespace,
        "prompts": [{"name": "default", "messages": [{"role": "system", "content": INSTRUCTIONS}]}],
        "runtime": {"default_model": "fast", "models": [model]},
    }
    return {
        "namespace": namespace,
        "name": name,
        "config": base | config,
        "validation_error": None,
        "last_modified": "2026-02-16T10:00:00",
    }


@dataclass
class LlamaFarm:
    """What a test sees of the stand-in, and what it may change."""

    server: Server
    runtime: Server
    projects: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    on_disk: list[str] = field(default_factory=list)
    in_memory: dict[str, str] = field(default_factory=dict)
    detectors: dict[str, float] = field(default_factory=dict)
    classifiers: dict[str, list[str]] = field(default_factory=dict)
    ready: set[str] = field(default_factory=set)

    def arrange(self) -> None:
        """Puts the answers where the servers have them; again after a change."""
        server, runtime = self.server, self.runtime
        server.json("/health", {"status": "healthy", "summary": "ok", "components": [{"name": "server"}], "seed": {}})
        rows = [{"id": name, "name": name, "size": 5, "path": f"/hub/{name}"} for name in self.on_disk]
        server.json("/v1/models", {"data": rows})
        server.raw("/v1/projects", 200, "text/html", PAGE)
        for namespace, projects in self.projects.items():
            server.json(f"/v1/projects/{namespace}", {"total": len(projects), "projects": projects})
            for one in projects:
                server.on(f"/v1/projects/{namespace}/{one['name']}/chat/completions", self._chat)
        files = [
            {
                "filename": f"{name}_isolation_forest.joblib",
                "size_bytes": 9,
                "modified": 1.0,
                "backend": "isolation_forest",
            }
            for name in self.detectors
        ]
        server.json("/v1/ml/anomaly/models", {"object": "list", "data": files, "total_count": len(files)})
        models = [
            {"name": name, "path": f"/models/{name}", "labels": labels, "num_classes": len(labels)}
            for name, labels in self.classifiers.items()
        ]
        server.json("/v1/ml/classifier/models", {"object": "list", "data": models, "total": len(models)})
        server.on("/v1/ml/anomaly/load", self._load)
        server.on("/v1/ml/anomaly/score", self._score)
        server.on("/v1/ml/classifier/load", self._load)
        server.on("/v1/ml/classifier/predict", self._predict)
        health = {"status": "healthy", "device": {"device": "cuda", "gpu_name": "x"}, "pid": 1, "timestamp": "now"}
        runtime.json("/health", health | {"loaded_models": list(self.in_memory)})
        loaded = [
            {"id": key, "object": "model", "created": 1, "owned_by": "transformers-runtime", "type": kind}
            for key, kind in self.in_memory.items()
        ]
        runtime.json("/v1/models", {"object": "list", "data": loaded})
        runtime.on("/v1/chat/completions", self._chat)
        runtime.on("/v1/embeddings", self._embed)

    async def _chat(self, reply: Reply) -> None:
        body = reply.request.body
        text = f"You said: {body['messages'][-1]['content']}"
        if not body.get("stream"):
            message = {"role": "assistant", "content": text}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            usage = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
            await reply.json(
                {"id": "chat-1", "object": "chat.completion", "created": 1, "choices": [choice], "usage": usage}
            )
            return
        await reply.start(200, "text/event-stream; charset=utf-8")
        for word in text.split(" "):
            delta = {"index": 0, "delta": {"role": "assistant", "content": word}, "finish_reason": None}
            await reply.piece(f"data: {json.dumps({'id': 'chat-1', 'choices': [delta]})}\n\n".encode())
        # Its streams end without saying why.
        await reply.piece(b"data: [DONE]\n\n")
        await reply.end()

    async def _embed(self, reply: Reply) -> None:
        texts = reply.request.body["input"]
        texts = texts if isinstance(texts, list) else [texts]
        data = [{"object": "embedding", "index": index, "embedding": [0.5, 1.0]} for index in range(len(texts))]
        usage = {"prompt_tokens": 2, "total_tokens": 2}
        await reply.json({"object": "list", "data": data, "model": reply.request.body["model"], "usage": usage})

    async def _load(self, reply: Reply) -> None:
        name = reply.request.body["model"]
        if name not in self.detectors and name not in self.classifiers:
            await reply.json({"detail": f"Model '{name}' not found"}, 404)
            return
        self.ready.add(name)
        await reply.json({"object": "load_result", "model": name, "is_fitted": True, "status": "loaded"})

    async def _score(self, reply: Reply) -> None:
        body = reply.request.body
        name = body["model"]
        if name not in self.ready:
            await reply.json(
                {"detail": "Model not fitted. Call /v1/anomaly/fit first or load a pre-trained model."}, 400
            )
            return
        threshold = body.get("threshold", 0.5)
        scores = [min(1.0, abs(row[0] - self.detectors[name]) / 10) for row in body["data"]]
        data = [
            {"index": index, "score": score, "is_anomaly": score > threshold, "raw_score": -score}
            for index, score in enumerate(scores)
        ]
        summary = {"total_points": len(data), "threshold": threshold}
        await reply.json(
            {"object": "list", "data": data, "model": name, "backend": body["backend"], "summary": summary}
        )

    async def _predict(self, reply: Reply) -> None:
        body = reply.request.body
        name = body["model"]
        if name not in self.ready:
            await reply.json({"detail": f"\"Classifier '{name}' not found\". Fit with /v1/classifier/fit first."}, 404)
            return
        labels = self.classifiers[name]
        results = [
            {
                "text": text,
                "label": labels[0],
                "score": 0.75,
                "all_scores": dict(zip(labels, (0.75, 0.25), strict=True)),
            }
            for text in body["texts"]
        ]
        await reply.json({"object": "classification", "model": name, "results": results})


@asynccontextmanager
async def llamafarm() -> AsyncIterator[LlamaFarm]:
    """Runs the stand-in with a few projects and models."""
    async with serve() as server, serve() as runtime:
        datasets = [{"name": "court_rulings", "files": []}]
        databases = [{"name": "main_db", "type": "ChromaStore"}]
        farm = LlamaFarm(
            server,
            runtime,
            projects={
                "default": [
                    project("legal", datasets=datasets, rag={"databases": databases}),
                    project("helper", mcp={"servers": [{"name": "files"}]}),
                    project("plain", description="Writes  limericks."),
                    project("broken") | {"validation_error": "runtime: field required"},
                ]
            },
            on_disk=["unsloth/Qwen3-1.7B-GGUF", "nomic-ai/nomic-embed-text-v2", "dslim/bert-base-NER", "org/whisper-x"],
            in_memory={
                "language:meta-llama/Llama-3.2-1B:ctxauto:quantdefault": "language",
                "encoder:embedding:BAAI/bge-m3:ctxauto:lenauto:quantdefault": "encoder_embedding",
                "encoder:reranking:BAAI/bge-reranker": "encoder_reranking",
                "anomaly:pumps": "anomaly_isolation_forest",
            },
            detectors={"pumps": 20.0},
            classifiers={"intent": ["booking", "cancel"]},
        )
        farm.arrange()
        yield farm
