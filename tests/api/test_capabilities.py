from __future__ import annotations

from typing import Any

import jsonschema
import numpy as np
import trio
import trio.testing

from atmo.api.capabilities import type_of
from atmo.router.capability import CHAT, CLASSIFY, EMBEDDINGS, IMAGES, SPEECH, Capability
from tests.api.face import in_process, make_app
from tests.gateway.world import Echo, Lengths, Signs, loop_net

LLAMA = Capability(
    "ollama:llama3.2:latest",
    CHAT,
    "llama3.2:latest",
    description="Writes and reasons.",
    general=True,
    concurrency=4,
    backend="ollama",
    features=("completions", "tools"),
    size_b=7.0,
    context=128_000,
    cost_per_1k=0.02,
)

ANNOUNCEMENT = {
    "type": "object",
    "required": ["node_id", "timestamp", "capabilities", "resources", "config"],
    "additionalProperties": False,
    "properties": {
        "node_id": {"type": "string"},
        "timestamp": {"type": "integer"},
        "capabilities": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["id", "type", "name", "description", "models", "metadata", "embedding"],
                "additionalProperties": False,
                "properties": {
                    **{key: {"type": "string"} for key in ("id", "type", "name", "description")},
                    "models": {"type": "array", "items": {"type": "string"}},
                    "metadata": {"type": "object", "required": ["provider", "size", "context_length"]},
                    "embedding": {
                        "anyOf": [
                            {"type": "null"},
                            {"type": "array", "items": {"type": "number"}, "minItems": 384, "maxItems": 384},
                        ]
                    },
                },
            },
        },
        "resources": {
            "type": "object",
            "required": [
                "current_load",
                "queue_depth",
                "available_vram_gb",
                "gpu_utilization",
                "tokens_per_second",
            ],
        },
        "config": {"type": "object", "required": ["mode", "discoverable", "max_concurrent_requests"]},
    },
}
"""The shape of seed 003, "API Contracts"."""


async def test_the_announcement_has_the_contracts_shape() -> None:
    async with loop_net() as net:
        alpha = await net.add("alpha", Echo(LLAMA), Signs())
        await net.add("beta", Lengths())
        app = make_app(alpha, mode="provider", discoverable=False)
        async with in_process(app) as client:
            before = (await client.get("/v1/atmosphere/capabilities")).json()
            await net.nursery.start(alpha.gateway.run)
            await trio.testing.wait_all_tasks_blocked()
            after = (await client.get("/v1/atmosphere/capabilities")).json()
    for body in (before, after):
        jsonschema.validate(body, ANNOUNCEMENT)
    assert [row["embedding"] for row in before["capabilities"]] == [None, None], "nothing was embedded yet"
    llama, signs = after["capabilities"]
    assert (llama["id"], llama["type"], llama["name"]) == ("ollama:llama3.2:latest", "llm", "llama3.2:latest")
    assert (llama["models"], llama["description"]) == (["llama3.2:latest"], "Writes and reasons.")
    assert (llama["metadata"]["provider"], llama["metadata"]["size"]) == ("ollama", "7B")
    assert (llama["metadata"]["context_length"], llama["metadata"]["operations"]) == (128_000, ["chat", "completions"])
    assert abs(float(np.linalg.norm(llama["embedding"])) - 1) < 1e-3
    assert (signs["type"], signs["metadata"]["version"]) == ("classify", "1.0.0")
    assert after["node_id"] == str(alpha.id)
    assert after["resources"] == {
        "current_load": 0.0,
        "queue_depth": 0,
        "available_vram_gb": None,
        "gpu_utilization": None,
        "tokens_per_second": None,
    }
    assert after["config"] == {"mode": "provider", "discoverable": False, "max_concurrent_requests": 5}


async def test_this_machines_and_those_of_the_mesh() -> None:
    async with loop_net() as net:
        alpha = await net.add("alpha", Echo(LLAMA))
        await net.add("beta", Echo(LLAMA), Lengths())
        async with in_process(make_app(alpha)) as client:
            own = (await client.get("/v1/capabilities")).json()
            mesh = (await client.get("/v1/mesh/capabilities")).json()
    assert [row["id"] for row in own["data"]] == ["ollama:llama3.2:latest"]
    chats, embeddings = mesh["data"]
    assert (chats["model"], chats["operation"], chats["local"]) == ("llama3.2:latest", "chat", True)
    assert [node["name"] for node in chats["nodes"]] == ["alpha", "beta"]
    assert (chats["nodes"][1]["path"], chats["nodes"][1]["concurrency"]) == ("direct", 4)
    assert (embeddings["model"], embeddings["local"]) == ("lengths", False)


def test_categories() -> None:
    def kind(operation: str, **more: Any) -> str:
        return type_of(Capability("x", operation, "m", **more))

    assert [kind(operation) for operation in (CHAT, EMBEDDINGS, IMAGES, SPEECH, CLASSIFY)] == [
        "llm",
        "embeddings",
        "vision",
        "audio",
        "classify",
    ]
    assert kind(CHAT, backend="rag") == "rag"
