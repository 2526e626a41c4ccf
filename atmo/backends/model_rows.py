"""What the rows of a server's list of models tell beyond the name. No I/O.

Every server adds fields of its own: llama-server its modalities and sizes, vLLM the length of the context, LM Studio
the kind of each model, OpenRouter and Mistral what it takes. What has another shape than expected is left unread.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from atmo.backends.llm_names import SERVED, ModelFacts, features_of, operations_of
from atmo.backends.openai_shapes import BadAnswer
from atmo.router.capability import (
    AUDIO,
    CHAT,
    EMBEDDINGS,
    IMAGES,
    JSON_SCHEMA,
    SPEECH,
    TOOLS,
    TRANSCRIPTION,
    VISION,
)
from atmo.wire import limits

MAX_CONTEXT = 2**31
MAX_ROWS = 4_096
"""Rows that are looked at: a router of clouds lists several hundred."""

_CONTEXT_KEYS = ("max_model_len", "max_context_length", "context_length", "context_window", "max_context_window")
_TYPES = {
    "llm": CHAT,
    "chat": CHAT,
    "language": CHAT,
    "vlm": CHAT,
    "embedding": EMBEDDINGS,
    "embeddings": EMBEDDINGS,
    "image": IMAGES,
    "stt": TRANSCRIPTION,
    "transcribe": TRANSCRIPTION,
    "tts": SPEECH,
}
"""Kinds of models in the words of LM Studio, Together, LiteLLM and LlamaFarm's runtime."""

_OTHER_TYPES = frozenset({"rerank", "reranker", "moderation", "video", "classifier", "anomaly", "ocr", "vision"})
"""Kinds that do nothing which this version sends to such servers."""

_FEATURE_WORDS = {
    "vision": VISION,
    "image": VISION,
    "multimodal": VISION,
    "audio": AUDIO,
    "tools": TOOLS,
    "tool_use": TOOLS,
    "function_calling": TOOLS,
}


def rows_of(body: Any) -> list[Mapping[str, Any]]:
    """Returns the rows of a `/models` answer that name a model, each name once.

    Raises:
        BadAnswer: It is not such an answer.
    """
    rows = body.get("data") if isinstance(body, Mapping) else body
    if rows is None and isinstance(body, Mapping) and body.get("object") == "list":
        rows = []
    if not isinstance(rows, list):
        raise BadAnswer("gave no list of models at /models; it is not an OpenAI-compatible server")
    named: dict[str, Mapping[str, Any]] = {}
    for row in rows[:MAX_ROWS]:
        name = row.get("id") if isinstance(row, Mapping) else None
        if isinstance(name, str) and 0 < len(name) <= limits.NAME_CHARS:
            named.setdefault(name, row)
    return list(named.values())


def is_elsewhere(row: Mapping[str, Any]) -> bool:
    """Returns whether a row is what an Atmosphere node tells of others: asked for it, it may well ask this one."""
    return row.get("owned_by") == "atmosphere" or ("nodes" in row and row.get("local") is not True)


def owner_of(rows: Iterable[Mapping[str, Any]]) -> str:
    """Returns who the first row says it belongs to, which tells the servers' programs apart."""
    owner = next((row.get("owned_by") for row in rows), None)
    return owner if isinstance(owner, str) else ""


def facts_of(row: Mapping[str, Any]) -> ModelFacts:
    """Returns what one row tells."""
    name = str(row["id"])
    said = {_FEATURE_WORDS[word] for word in _words(row) if word in _FEATURE_WORDS}
    facts = ModelFacts(
        operations=_operations(row),
        features=_features(row, name, said),
        family=_text(row.get("arch")),
        size=_size(row.get("meta")),
        context=_context(row),
        quantisation=_text(row.get("quantization")),
    )
    if isinstance(row.get("capabilities"), Mapping) and row["capabilities"].get("completion_chat") is False:
        # Mistral lists what does no chat in the same list.
        facts = replace(facts, operations=operations_of(name) - {CHAT})
    return facts


def props_facts(facts: ModelFacts, props: Any) -> ModelFacts:
    """Adds what llama-server's `/props` tells of its one model."""
    if not isinstance(props, Mapping):
        return facts
    features = {JSON_SCHEMA}
    modalities = props.get("modalities")
    if isinstance(modalities, Mapping):
        features |= {feature for feature in (VISION, AUDIO) if modalities.get(feature) is True}
    template = props.get("chat_template_caps")
    if not isinstance(template, Mapping) or template.get("supports_tools") is not False:
        features.add(TOOLS)
    settings = props.get("default_generation_settings")
    context = _tokens(settings.get("n_ctx")) if isinstance(settings, Mapping) else 0
    return replace(facts, features=frozenset(features), context=context or facts.context)


def _operations(row: Mapping[str, Any]) -> frozenset[str] | None:
    if "nodes" in row and (words := _strings(row.get("operations"))):
        # An Atmosphere node knows; its rows have a `type`, too, which is that of a stored model.
        return frozenset(words).intersection(SERVED)
    kind = row.get("type") or row.get("mode")
    kind = kind.lower() if isinstance(kind, str) else ""
    if kind in _TYPES:
        return frozenset({_TYPES[kind]})
    if kind in _OTHER_TYPES:
        return frozenset()
    out = _strings(_mapping(row.get("architecture")).get("output_modalities"))
    if out and "text" not in out:
        return frozenset({IMAGES} if "image" in out else ())
    return None


def _features(row: Mapping[str, Any], name: str, said: set[str]) -> frozenset[str] | None:
    architecture = _mapping(row.get("architecture"))
    takes = _strings(architecture.get("input_modalities"))
    if takes:
        said |= {feature for word, feature in (("image", VISION), ("audio", AUDIO)) if word in takes}
        supported = _strings(row.get("supported_parameters"))
        known = features_of(name) - {VISION, AUDIO}
        if supported:
            known = frozenset({JSON_SCHEMA} | ({TOOLS} if "tools" in supported else set()))
        return known | said
    if row.get("type") == "vlm":
        said.add(VISION)
    if row.get("type") in ("vlm", "llm") and "compatibility_type" in row:
        # LM Studio knows which of its models see; it lets every one call tools, some better than others.
        return frozenset(said | {JSON_SCHEMA, TOOLS})
    return features_of(name) | said if said else None


def _words(row: Mapping[str, Any]) -> list[str]:
    words = row.get("capabilities")
    if isinstance(words, Mapping):
        return [str(word) for word, there in words.items() if there is True]
    return _strings(words)


def _context(row: Mapping[str, Any]) -> int:
    found = next((tokens for key in _CONTEXT_KEYS if (tokens := _tokens(row.get(key)))), 0)
    meta = _mapping(row.get("meta"))
    return found or _tokens(meta.get("n_ctx")) or _tokens(meta.get("n_ctx_train"))


def _size(meta: Any) -> str:
    count = _mapping(meta).get("n_params")
    if type(count) is not int or not 0 < count < 10**15:
        return ""
    return f"{count / 1e9:.1f}B" if count >= 10**9 else f"{count / 1e6:.1f}M"


def _tokens(value: Any) -> int:
    return value if type(value) is int and 0 < value < MAX_CONTEXT else 0


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _strings(value: Any) -> list[str]:
    return [word for word in value if isinstance(word, str)] if isinstance(value, list) else []


def _text(value: Any) -> str:
    return value[:64] if isinstance(value, str) else ""
