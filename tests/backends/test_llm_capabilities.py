from __future__ import annotations

from dataclasses import replace

import pytest

from atmo.backends.llm_capabilities import Terms, capabilities_of
from atmo.backends.llm_names import ModelFacts
from atmo.router.capability import (
    ANY_FEATURE,
    CHAT,
    COMPLETIONS,
    EMBEDDINGS,
    IMAGES,
    JSON_SCHEMA,
    SPEECH,
    TOOLS,
    TRANSCRIPTION,
    VISION,
    Capability,
)

TERMS = Terms("Ollama", "ollama", "ollama", 2, 0.5, "high", "regional", "US")


def one(name: str, facts: ModelFacts = ModelFacts(), terms: Terms = TERMS) -> Capability:
    (capability,) = capabilities_of(name, facts, terms)
    return capability


def test_a_general_model() -> None:
    facts = ModelFacts(family="llama", size="3.2B", context=131_072, quantisation="Q4_K_M", device="gpu")
    capability = one("llama3.2:latest", facts)
    assert capability.description == (
        "llama3.2:latest on Ollama (llama, 3.2B, Q4_K_M, 131072 tokens of context): a language model that answers any"
        " prompt."
    )
    assert (capability.id, capability.general, capability.examples) == ("ollama:llama3.2:latest", True, ())
    assert (capability.concurrency, capability.cost_per_1k) == (2, 0.5)
    assert (capability.size_b, capability.context, capability.device) == (3.2, 131_072, "gpu")
    assert (capability.priority, capability.latency_class, capability.residency) == ("high", "regional", "US")
    assert capability.features == (COMPLETIONS, TOOLS, JSON_SCHEMA)


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
    sees = one("odd", ModelFacts(features=frozenset({VISION})))
    assert "images" in sees.description
    assert sees.features == (COMPLETIONS, VISION)
    assert "images" not in one("gemma3", ModelFacts(features=frozenset({TOOLS}))).description
    assert one("x", ModelFacts(note="It runs elsewhere.")).description.endswith("It runs elsewhere.")
    assert one("x-7b", ModelFacts(size="1B")).size_b == 1
    both = ModelFacts(operations=frozenset({CHAT, EMBEDDINGS}))
    assert [c.id for c in capabilities_of("m", both, TERMS)] == ["ollama:m", "ollama:m#embeddings"]


@pytest.mark.parametrize(
    ("name", "operation", "word"),
    [
        ("nomic-embed-text", EMBEDDINGS, "vectors"),
        ("dall-e-3", IMAGES, "pictures"),
        ("tts-1", SPEECH, "aloud"),
        ("whisper-1", TRANSCRIPTION, "recording"),
        ("davinci-002", COMPLETIONS, "continues"),
    ],
)
def test_other_work(name: str, operation: str, word: str) -> None:
    capability = one(name)
    assert (capability.operation, capability.features) == (operation, ())
    assert word in capability.description
    assert capabilities_of("bge-reranker", ModelFacts(), TERMS) == []


def test_an_unknown_family_may_be_given_anything() -> None:
    capability = one("acme")
    assert capability.features == (COMPLETIONS, ANY_FEATURE)
    assert "images" not in capability.description


def test_what_the_owner_says_the_server_does() -> None:
    assert one("llama3", terms=replace(TERMS, completes=False)).features == (TOOLS, JSON_SCHEMA)
    chat = replace(TERMS, operations=(CHAT, EMBEDDINGS))
    assert one("llama3", terms=chat).features == (TOOLS, JSON_SCHEMA)
    assert one("nomic-embed-text", terms=chat).operation == EMBEDDINGS
    assert COMPLETIONS in one("llama3", terms=replace(TERMS, operations=(CHAT, COMPLETIONS))).features
    # A name that tells nothing: the server's only work is the model's.
    assert one("base.en", terms=replace(TERMS, operations=(TRANSCRIPTION,))).operation == TRANSCRIPTION


def test_names_beyond_the_limit_are_not_offered() -> None:
    assert capabilities_of("n" * 125, ModelFacts(), TERMS) == []
