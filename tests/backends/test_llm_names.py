from __future__ import annotations

import pytest

from atmo.backends.llm_names import billions_of, context_of, features_of, is_known_family, operations_of
from atmo.router.capability import (
    ANY_FEATURE,
    AUDIO,
    CHAT,
    COMPLETIONS,
    EMBEDDINGS,
    IMAGES,
    JSON_SCHEMA,
    SPEECH,
    TOOLS,
    TRANSCRIPTION,
    VISION,
)


@pytest.mark.parametrize(
    ("name", "operations"),
    [
        ("llama3.2:latest", {CHAT}),
        ("gpt-4o-mini", {CHAT}),
        ("gpt-4o-audio-preview", {CHAT}),
        ("hf.co/bartowski/Llama-3.2-3B-Instruct-GGUF:Q4_K_M", {CHAT}),
        ("nomic-embed-text:latest", {EMBEDDINGS}),
        ("text-embedding-3-small", {EMBEDDINGS}),
        ("BAAI/bge-m3", {EMBEDDINGS}),
        ("intfloat/multilingual-e5-large", {EMBEDDINGS}),
        ("all-minilm:l6-v2", {EMBEDDINGS}),
        ("thenlper/gte-base", {EMBEDDINGS}),
        ("sentence-transformers/all-mpnet-base-v2", {EMBEDDINGS}),
        ("mxbai-embed-large", {EMBEDDINGS}),
        ("hkunlp/instructor-xl", {EMBEDDINGS}),
        ("whisper-1", {TRANSCRIPTION}),
        ("Systran/faster-whisper-small", {TRANSCRIPTION}),
        ("gpt-4o-transcribe", {TRANSCRIPTION}),
        ("Qwen/Qwen3-ASR-1.7B", {TRANSCRIPTION}),
        ("tts-1-hd", {SPEECH}),
        ("gpt-4o-mini-tts", {SPEECH}),
        ("hexgrad/kokoro-82M", {SPEECH}),
        ("dall-e-3", {IMAGES}),
        ("gpt-image-1", {IMAGES}),
        ("black-forest-labs/flux.1-dev", {IMAGES}),
        ("stabilityai/stable-diffusion-xl-base-1.0", {IMAGES}),
        ("davinci-002", {COMPLETIONS}),
        ("gpt-3.5-turbo-instruct", {COMPLETIONS}),
        ("omni-moderation-latest", set()),
        ("bge-reranker-v2-m3", set()),
        ("llama-guard3:8b", set()),
        ("gpt-4o-realtime-preview", set()),
        ("sora-2", set()),
    ],
)
def test_what_a_name_means(name: str, operations: set[str]) -> None:
    assert operations_of(name) == operations


@pytest.mark.parametrize(
    ("name", "features"),
    [
        ("llama3.2:latest", {TOOLS}),
        ("llama3.2-vision:11b", {TOOLS, VISION}),
        ("llama2:13b", set()),
        ("meta-llama/Llama-2-7b-chat-hf", set()),
        ("Llama-4-Scout-17B", {TOOLS, VISION}),
        ("qwen3:30b-a3b", {TOOLS}),
        ("qwen2.5vl:7b", {TOOLS, VISION}),
        ("Qwen/Qwen2.5-VL-7B-Instruct", {TOOLS, VISION}),
        ("qwen2-audio", {TOOLS, AUDIO}),
        ("qwen2.5-omni-7b", {TOOLS, VISION, AUDIO}),
        ("gemma3:4b", {TOOLS, VISION}),
        ("gemma3:1b", {TOOLS}),
        ("gemma2:9b", set()),
        ("mistral-small3.1:24b", {TOOLS, VISION}),
        ("phi3:mini", set()),
        ("phi-4-multimodal-instruct", {TOOLS, VISION, AUDIO}),
        ("gpt-4o", {TOOLS, VISION}),
        ("o1-mini", set()),
        ("o3", {TOOLS, VISION}),
        ("claude-sonnet-4-5", {TOOLS, VISION}),
        ("gemini-2.5-pro", {TOOLS, VISION, AUDIO}),
        ("llava:13b", {VISION}),
    ],
)
def test_what_a_family_takes(name: str, features: set[str]) -> None:
    assert features_of(name) == features | {JSON_SCHEMA}


def test_of_an_unknown_family_nothing_is_ruled_out() -> None:
    assert features_of("acme-turbo") == {ANY_FEATURE}
    assert not is_known_family("acme-turbo")
    assert is_known_family("Org/Qwen3-8B")


@pytest.mark.parametrize(
    ("name", "billions"),
    [
        ("llama-3.1-70B-instruct", 70),
        ("qwen3:30b-a3b", 30),
        ("mixtral:8x7b", 56),
        ("gemma3n:e4b", 4),
        ("smollm2:135m", 0.135),
        ("Qwen3-0.6B-Q4_K_M.gguf", 0.6),
        ("8.0B", 8),
        ("1.2T", 1_200),
        ("model-4bit", 0),
        ("phi3:mini", 0),
        ("9999999999b", 0),
        ("99999b-model", 99_999),
        ("99999t", 0),
    ],
)
def test_sizes(name: str, billions: float) -> None:
    assert billions_of(name) == billions


@pytest.mark.parametrize(
    ("name", "tokens"),
    [("gpt-4o-mini", 128_000), ("openai/gpt-4.1", 1_047_576), ("o3", 200_000), ("o1-mini", 0), ("my-gpt-4o", 0)],
)
def test_contexts_of_well_known_models(name: str, tokens: int) -> None:
    assert context_of(name) == tokens
