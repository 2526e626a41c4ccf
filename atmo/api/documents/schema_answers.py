"""The schemas of answers in `/openapi.json`: what clients may rely on. Every object may have further fields."""

from __future__ import annotations

from typing import Any

from atmo.api.documents.schema import ref
from atmo.gateway.fields import Schema, or_null

_TEXT: Schema = {"type": "string"}
_COUNT: Schema = {"type": "integer", "minimum": 0}
_NUMBER: Schema = {"type": "number"}
_FLAG: Schema = {"type": "boolean"}


def _object(required: dict[str, Schema], optional: dict[str, Schema] | None = None, about: str = "") -> Schema:
    schema: Schema = {"type": "object", "properties": required | (optional or {}), "required": list(required)}
    return schema | ({"description": about} if about else {})


def _list(item: Schema) -> Schema:
    return {"type": "array", "items": item}


def _const(word: str) -> Schema:
    return {"type": "string", "const": word}


_HEAD: dict[str, Schema] = {"id": _TEXT, "created": _COUNT, "model": _TEXT}
_CALL = _object({"id": _TEXT, "type": _TEXT, "function": _object({"name": _TEXT, "arguments": _TEXT})})
_CALL_DELTA = _object({"index": _COUNT}, {"id": _TEXT, "type": _TEXT, "function": {"type": "object"}})
_MESSAGE = _object(
    {"role": _const("assistant"), "content": or_null(_TEXT)},
    {"refusal": or_null(_TEXT), "tool_calls": _list(_CALL)},
)
_DELTA = _object(
    {}, {"role": _TEXT, "content": or_null(_TEXT), "refusal": or_null(_TEXT), "tool_calls": _list(_CALL_DELTA)}
)
_LOGPROBS: Schema = {"type": ["object", "null"]}

_OPENAI: dict[str, Schema] = {
    "Error": _object(
        {
            "error": _object(
                {"message": _TEXT, "type": _TEXT, "param": or_null(_TEXT), "code": or_null(_TEXT)},
            )
        },
        about="What went wrong, and what to do about it. In mid-stream it is the last event.",
    ),
    "Usage": _object({"prompt_tokens": _COUNT, "total_tokens": _COUNT}, {"completion_tokens": _COUNT}),
    "ChatAnswer": _object(
        {
            **_HEAD,
            "object": _const("chat.completion"),
            "choices": _list(
                _object({"index": _COUNT, "message": _MESSAGE, "finish_reason": _TEXT}, {"logprobs": _LOGPROBS})
            ),
        },
        {"usage": ref("Usage"), "system_fingerprint": or_null(_TEXT)},
    ),
    "ChatChunk": _object(
        {
            **_HEAD,
            "object": _const("chat.completion.chunk"),
            "choices": _list(
                _object({"index": _COUNT, "delta": _DELTA, "finish_reason": or_null(_TEXT)}, {"logprobs": _LOGPROBS})
            ),
        },
        {"usage": {"anyOf": [ref("Usage"), {"type": "null"}]}},
        "An event of a stream. All have one id; the first delta has the role; the last one of a choice is empty and"
        " has the `finish_reason`; then comes a chunk with `usage` and no choices where `stream_options.include_usage`"
        " asked for it, then `data: [DONE]`.",
    ),
    "CompletionAnswer": _object(
        {
            **_HEAD,
            "object": _const("text_completion"),
            "choices": _list(
                _object({"index": _COUNT, "text": _TEXT, "finish_reason": or_null(_TEXT)}, {"logprobs": _LOGPROBS})
            ),
        },
        {"usage": ref("Usage")},
        "An answer, or an event of a stream.",
    ),
    "EmbeddingsAnswer": _object(
        {
            "object": _const("list"),
            "data": _list(
                _object(
                    {
                        "object": _const("embedding"),
                        "index": _COUNT,
                        "embedding": {
                            "anyOf": [_list(_NUMBER), {"type": "string", "contentEncoding": "base64"}],
                            "description": "Numbers, or with `encoding_format: base64` packed little-endian float32.",
                        },
                    }
                )
            ),
            "model": _TEXT,
            "usage": ref("Usage"),
        }
    ),
    "Model": _object(
        {"id": _TEXT, "object": _const("model"), "created": _COUNT, "owned_by": _TEXT},
        {"description": _TEXT, "versions": _list(_TEXT)},
    ),
    "ModelList": _object({"object": _const("list"), "data": _list(ref("Model"))}),
    "ImagesAnswer": _object({"created": _COUNT, "data": _list(_object({}, {"b64_json": _TEXT, "url": _TEXT}))}),
    "Transcription": _object({"text": _TEXT}, {"language": _TEXT, "duration": _NUMBER, "segments": _list({})}),
    "TranscriptionEvent": _object(
        {"type": {"type": "string", "enum": ["transcript.text.delta", "transcript.text.done"]}},
        {"delta": _TEXT, "text": _TEXT},
    ),
    "SpeechEvent": _object(
        {"type": {"type": "string", "enum": ["speech.audio.delta", "speech.audio.done"]}},
        {"audio": {"type": "string", "contentEncoding": "base64"}, "usage": {"type": "object"}},
    ),
}

_FIT: dict[str, Schema] = {"type": _TEXT, "samples": _COUNT, "metrics": {"type": "object"}}
"""Of an answer to `fit`."""


def _fitted(about: str, **fields: Schema) -> Schema:
    return _object({"object": _TEXT, "model": _TEXT, "version": _TEXT}, _FIT | fields, about)


_MODELS: dict[str, Schema] = {
    "Classes": _fitted(
        "The class of each row, or what came of fitting.",
        predictions=_list(_object({"label": {}, "score": _NUMBER}, {"scores": {"type": "object"}})),
        labels=_list({}),
    ),
    "Anomalies": _fitted(
        "How unlike the others each row is, or what came of fitting.",
        results=_list(_object({"score": _NUMBER, "is_anomaly": _FLAG})),
        threshold=_NUMBER,
        anomalies=_list(_COUNT),
    ),
    "Groups": _fitted(
        "The group of each row, or what came of fitting.",
        k=_COUNT,
        clusters=_list({"type": "integer"}),
        distances=_list(_NUMBER),
        sizes=_list(_COUNT),
    ),
    "Forecast": _fitted(
        "What comes next, or what came of fitting.",
        horizon=_COUNT,
        forecast=_list(_NUMBER),
        intervals=_list(_object({"level": _NUMBER, "lower": _list(_NUMBER), "upper": _list(_NUMBER)})),
        method=_TEXT,
        season=or_null(_COUNT),
    ),
    "Vectors": _object(
        {"object": _TEXT, "model": _TEXT, "dimensions": _COUNT, "embeddings": _list(_list(_NUMBER))},
    ),
}

_ITEM: Schema = _object({"type": _TEXT}, {"id": _TEXT, "status": _TEXT, "role": _TEXT})
_RESPONSES: dict[str, Schema] = {
    "Response": _object(
        {
            "id": _TEXT,
            "object": _const("response"),
            "created_at": _COUNT,
            "status": _TEXT,
            "model": _TEXT,
            "output": _list(_ITEM),
        },
        {"error": {"type": ["object", "null"]}, "previous_response_id": or_null(_TEXT), "usage": {}},
    ),
    "ResponseEvent": _object(
        {"type": _TEXT, "sequence_number": _COUNT},
        about="An event of a stream, with OpenAI's names and in its order; `response.completed` is the last.",
    ),
    "ResponseDeleted": _object({"id": _TEXT, "object": _TEXT, "deleted": _FLAG}),
    "ItemList": _object(
        {"object": _const("list"), "data": _list(_ITEM), "has_more": _FLAG},
        {"first_id": or_null(_TEXT), "last_id": or_null(_TEXT)},
    ),
}

_CAPABILITY = _object(
    {"id": _TEXT, "type": _TEXT, "name": _TEXT, "description": _TEXT, "models": _list(_TEXT)},
    {"metadata": {"type": "object"}},
)
_OTHERS: dict[str, Schema] = {
    "Health": _object(
        {"status": _TEXT, "node_id": _TEXT, "name": _TEXT, "version": _TEXT, "mesh": {"type": ["object", "null"]}},
        {"nodes": _COUNT, "peers": _COUNT, "neighbours": _COUNT, "capabilities": _COUNT, "in_flight": _COUNT},
    ),
    "NodeList": _object(
        {
            "object": _const("list"),
            "data": _list(_object({"id": _TEXT, "name": _TEXT, "roles": _list(_TEXT), "path": _TEXT})),
        }
    ),
    "Route": _object(
        {
            "object": _const("route"),
            "operation": _TEXT,
            "requested_model": _TEXT,
            "rule": _TEXT,
            "reason": _TEXT,
            "model": or_null(_TEXT),
            "chosen": {"type": ["object", "null"]},
            "fallbacks": _list({"type": "object"}),
            "candidates": _list({"type": "object"}),
        },
        {"error": {"type": "object"}, "status": _COUNT},
        "Who would run a request, and why; every candidate with its reason.",
    ),
    "MeshModels": _object({"mesh_models": {"type": "object"}}),
    "Topology": _object({"nodes": _list({"type": "object"}), "links": _list({"type": "object"}), "partial": _FLAG}),
    "Joined": _object({"object": _const("mesh")}, {"id": _TEXT, "name": _TEXT}),
    "CapabilityList": _object({"object": _const("list"), "data": _list(_CAPABILITY)}),
    "Announcement": _object(
        {"node_id": _TEXT, "timestamp": _COUNT, "capabilities": _list(_CAPABILITY)},
        {"resources": {"type": "object"}, "config": {"type": "object"}},
        "What this machine can run, in LlamaFarm's shape.",
    ),
    "MeshCapabilityList": _object(
        {
            "object": _const("list"),
            "data": _list(
                _object({"type": _TEXT, "operation": _TEXT, "model": _TEXT, "nodes": _list({"type": "object"})})
            ),
        }
    ),
    "ToolList": _object(
        {
            "object": _const("list"),
            "data": _list(_object({"name": _TEXT, "description": _TEXT, "parameters": {"type": "object"}})),
        }
    ),
    "ToolAnswer": _object(
        {"success": _FLAG, "data": {}, "duration_ms": _COUNT, "metadata": {"type": "object"}},
        {"error": {"type": "object"}},
    ),
}

ANSWER_SCHEMAS: dict[str, Any] = _OPENAI | _MODELS | _RESPONSES | _OTHERS
