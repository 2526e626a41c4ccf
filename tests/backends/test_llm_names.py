from __future__ import annotations

import pytest

from atmo.backends.llm_names import ModelFacts, capabilities_of, operations_of
from atmo.router.capability import CHAT, EMBEDDINGS, Capability


@pytest.mark.parametrize(
    ("name", "operations"),
    [
        ("llama3.2:latest", {CHAT}),
        ("gpt-4o-mini", {CHAT}),
        ("hf.co/bartowski/Llama-3.2-3B-Instruct-GGUF:Q4_K_M", {CHAT}),
        ("nomic-embed-text:latest", {EMBEDDINGS}),
        ("text-embedding-3-small", {EMBEDDINGS}),
        ("BAAI/bge-m3", {EMBEDDINGS}),
        ("intfloat/multilingual-e5-large", {EMBEDDINGS}),
        ("all-minilm:l6-v2", {EMBEDDINGS}),
        ("thenlper/gte-base", {EMBEDDINGS}),
        ("sentence-transformers/all-mpnet-base-v2", {EMBEDDINGS}),
        ("mxbai-embed-large", {EMBEDDINGS}),
        ("whisper-1", set()),
        ("tts-1-hd", set()),
        ("dall-e-3", set()),
        ("omni-moderation-latest", set()),
        ("bge-reranker-v2-m3", set()),
        ("llama-guard3:8b", set()),
        ("gpt-4o-realtime-preview", set()),
    ],
)
def test_what_a_name_means(name: str, operations: set[str]) -> None:
    assert operations_of(name) == operations


def one(name: str, facts: ModelFacts = ModelFacts()) -> Capability:
    (capability,) = capabilities_of(name, "Ollama", "ollama", facts, backend="ollama", concurrency=2, price=0.5)
    return capability


def test_a_general_model() -> None:
    capability = one("llama3.2:latest", ModelFacts(family="llama", size="3.2B", context=131_072))
    assert capability.description == (
        "llama3.2:latest on Ollama (llama, 3.2B, 131072 tokens of context): a language model that answers any prompt."
    )
    assert (capability.id, capability.general, capability.examples) == ("ollama:llama3.2:latest", True, ())
    assert (capability.concurrency, capability.cost_per_1k) == (2, 0.5)


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("qwen2.5-coder:7b", "code"),
        ("llava:13b", "images"),
        ("deepseek-r1:8b", "step by step"),
        ("qwen2-math", "mathematical"),
        ("medgemma:4b", "medical"),
        ("aya:8b", "translates"),
    ],
)
def test_specialities_have_examples(name: str, word: str) -> None:
    capability = one(name)
    assert word in capability.description
    assert capability.general
    assert 0 < len(capability.examples) <= 32


def test_facts_win_over_the_name() -> None:
    assert one("odd", ModelFacts(operations=frozenset({EMBEDDINGS}))).operation == EMBEDDINGS
    assert "images" in one("gemma3", ModelFacts(vision=True)).description
    assert one("x", ModelFacts(note="It runs elsewhere.")).description.endswith("It runs elsewhere.")
    both = ModelFacts(operations=frozenset({CHAT, EMBEDDINGS}))
    found = capabilities_of("m", "Ollama", "ollama", both, backend="ollama", concurrency=1)
    assert [c.id for c in found] == ["ollama:m", "ollama:m#embeddings"]


def test_names_beyond_the_limit_are_not_offered() -> None:
    assert capabilities_of("n" * 125, "Ollama", "ollama", ModelFacts(), backend="ollama", concurrency=1) == []
