from __future__ import annotations

from typing import Any

import pytest

from atmo.backends.llm_names import ModelFacts
from atmo.backends.model_rows import facts_of, owner_of, props_facts, rows_of
from atmo.backends.openai_shapes import BadAnswer
from atmo.router.capability import AUDIO, CHAT, EMBEDDINGS, IMAGES, JSON_SCHEMA, SPEECH, TOOLS, TRANSCRIPTION, VISION

LM_STUDIO = {
    "id": "qwen2-vl-7b-instruct", "object": "model", "type": "vlm", "publisher": "mlx-community", "arch": "qwen2_vl",
    "compatibility_type": "mlx", "quantization": "4bit", "state": "not-loaded", "max_context_length": 32_768,
}  # fmt: skip
LLAMA_SERVER = {
    "id": "tiny.gguf", "object": "model", "created": 1, "owned_by": "llamacpp",
    "architecture": {"input_modalities": ["text", "image"], "output_modalities": ["text"]},
    "meta": {"n_ctx": 512, "n_ctx_train": 8_192, "n_params": 3_212_749_888, "size": 1},
}  # fmt: skip
OPENROUTER = {
    "id": "acme/turbo", "context_length": 65_536, "supported_parameters": ["tools", "max_tokens"],
    "architecture": {"input_modalities": ["text", "audio"], "output_modalities": ["text"], "tokenizer": "GPT"},
}  # fmt: skip
MISTRAL = {
    "id": "mistral-ocr-latest", "object": "model", "owned_by": "mistralai", "max_context_length": 16_384,
    "capabilities": {"completion_chat": False, "function_calling": False, "vision": True},
}  # fmt: skip


@pytest.mark.parametrize(
    ("row", "facts"),
    [
        ({"id": "m"}, ModelFacts()),
        ({"id": "m", "max_model_len": 4_096, "owned_by": "vllm"}, ModelFacts(context=4_096)),
        ({"id": "m", "context_window": True, "max_model_len": -1}, ModelFacts()),
        (
            LM_STUDIO,
            ModelFacts(
                frozenset({CHAT}), frozenset({VISION, JSON_SCHEMA, TOOLS}), "qwen2_vl", "", 32_768, "4bit"
            ),
        ),
        (LM_STUDIO | {"type": "embeddings"}, ModelFacts(frozenset({EMBEDDINGS}), None, "qwen2_vl", "", 32_768, "4bit")),
        ({"id": "x", "type": "tts"}, ModelFacts(frozenset({SPEECH}))),
        ({"id": "x", "type": "stt"}, ModelFacts(frozenset({TRANSCRIPTION}))),
        ({"id": "x", "type": "rerank"}, ModelFacts(frozenset())),
        ({"id": "x", "mode": "chat"}, ModelFacts(frozenset({CHAT}))),
        ({"id": "x", "architecture": {"output_modalities": ["image"]}}, ModelFacts(frozenset({IMAGES}))),
        ({"id": "llama3", "capabilities": ["vision"]}, ModelFacts(features=frozenset({VISION, TOOLS, JSON_SCHEMA}))),
        (OPENROUTER, ModelFacts(features=frozenset({AUDIO, TOOLS, JSON_SCHEMA}), context=65_536)),
        (MISTRAL, ModelFacts(frozenset(), frozenset({VISION, TOOLS, JSON_SCHEMA}), context=16_384)),
        ({"id": "x", "meta": {"n_params": 135_000_000}}, ModelFacts(size="135.0M")),
        ({"id": "x", "meta": [], "architecture": 3, "capabilities": 7, "type": []}, ModelFacts()),
    ],
)  # fmt: skip
def test_rows_of_many_servers(row: dict[str, Any], facts: ModelFacts) -> None:
    assert facts_of(row) == facts


def test_what_llama_server_tells_of_its_model() -> None:
    facts = facts_of(LLAMA_SERVER)
    assert (facts.size, facts.context) == ("3.2B", 512)
    assert facts.features is not None
    assert VISION in facts.features
    props = {
        "default_generation_settings": {"n_ctx": 2_048},
        "modalities": {"vision": False, "audio": True},
        "chat_template_caps": {"supports_tools": False},
    }
    told = props_facts(facts, props)
    assert (told.features, told.context) == (frozenset({AUDIO, JSON_SCHEMA}), 2_048)
    assert props_facts(facts, {}).features == frozenset({JSON_SCHEMA, TOOLS})
    assert props_facts(facts, "x") == facts


def test_lists() -> None:
    rows = rows_of({"data": [{"id": "a", "owned_by": "me"}, {"id": "a"}, {"name": "b"}, 3, {"id": ""}, {"id": "c"}]})
    assert [row["id"] for row in rows] == ["a", "c"]
    assert owner_of(rows) == "me"
    assert owner_of([]) == ""
    assert rows_of([{"id": "bare-list"}]) == [{"id": "bare-list"}]
    assert rows_of({"object": "list", "data": None}) == []
    for body in ({}, {"data": "x"}, "x", None):
        with pytest.raises(BadAnswer):
            rows_of(body)
