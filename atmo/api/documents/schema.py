"""What a route adds to `/openapi.json`: the body that it takes.

Bodies of the router's operations come from the tables by which they are checked (`gateway.checks`), so that what is
written is what is done.
"""

from __future__ import annotations

from typing import Any

from atmo.gateway.checks import BODIES, MAX_MODEL_CHARS
from atmo.gateway.fields import Schema, or_null

Extra = dict[str, Any]
"""What a route says of itself; several are joined with `|`."""

JSON, FORM, EVENTS = "application/json", "multipart/form-data", "text/event-stream"

_NAMES = {operation: operation.capitalize() + "Request" for operation in BODIES}


def ref(name: str) -> Schema:
    """Returns a reference to a schema of `api.documents.schema_answers`, or to a body."""
    return {"$ref": f"#/components/schemas/{name}"}


def takes(operation: str, *, form: bool = False) -> Extra:
    """Says that a route takes the body of an operation of the router, as JSON or as a form with a file."""
    return _body(FORM if form else JSON, ref(_NAMES[operation]))


def request_body(*required: str, **fields: Schema) -> Extra:
    """Says that a route takes a JSON object with at least these fields."""
    properties: Schema = {name: {} for name in required} | fields
    properties["model"] = MODEL
    needed = {"required": list(required)} if required else {}
    return _body(JSON, {"type": "object", "properties": properties, **needed, "additionalProperties": True})


TEXT: Schema = {"type": "string"}


def query(**fields: Schema) -> Extra:
    """Says that a route reads these parameters of the query, none of which has to be there."""
    return {"parameters": [{"name": name, "in": "query", "schema": schema} for name, schema in fields.items()]}


def bodies() -> dict[str, Schema]:
    """Returns the schemas of all bodies of operations."""
    made = {_NAMES[operation]: record.schema() for operation, record in BODIES.items()}
    for name, schema in made.items():
        for field, about in ABOUT.items():
            if field in schema["properties"]:
                schema["properties"][field].setdefault("description", about)
        schema["properties"] = {"model": MODEL, **schema["properties"], "atmosphere": OPTIONS}
        if name == _NAMES["transcription"]:
            schema["properties"]["file"] = {"type": "string", "format": "binary", "contentMediaType": "audio/*"}
    return made


def _body(kind: str, schema: Schema) -> Extra:
    return {"requestBody": {"required": True, "content": {kind: {"schema": schema}}}}


ABOUT = {
    "messages": "The conversation so far.",
    "prompt": "What is continued, drawn, or told before a recording.",
    "input": "Texts, or token ids of the model; of speech, what is said.",
    "stream": "Server-sent events in place of one object; `Accept` plays no part.",
    "stream_options": "`include_usage` adds a last chunk with the number of tokens.",
    "n": "How many answers.",
    "max_tokens": "The most tokens of an answer.",
    "max_completion_tokens": "The same, in newer words.",
    "temperature": "0 for the likeliest words, more for a freer choice.",
    "stop": "Where the answer ends, if it gets there; the words themselves are left out.",
    "seed": "The same answer to the same request, as far as the model can.",
    "logprobs": "How likely each token was.",
    "top_logprobs": "And how likely so many others were.",
    "response_format": "Of a chat: text, JSON, or JSON of a schema; of media, the format of the answer.",
    "tools": "Functions that the model may ask for.",
    "tool_choice": "`none`, `auto`, `required`, or one function.",
    "logit_bias": "Token ids, and by how much more or less likely they become.",
    "suffix": "What comes after the part that is filled in.",
    "echo": "Whether the answer begins with the prompt.",
    "best_of": "Of so many answers, the best ones.",
    "encoding_format": "`base64` for packed little-endian float32.",
    "dimensions": "Longer vectors are cut and brought back to length 1.",
    "size": "Width and height, or `auto`.",
    "voice": "Who speaks: a name that the model knows.",
    "instructions": "How it is said.",
    "stream_format": "`audio` as it comes, or `sse` for events with base64.",
    "language": "ISO 639-1, such as `en`.",
    "timestamp_granularities": "Times of words, of segments, or both.",
}
"""What fields mean, for people; not in the tables of checks, which every request passes."""

MODEL: Schema = {
    "type": ["string", "null"],
    "maxLength": MAX_MODEL_CHARS,
    "default": "auto",
    "description": "A name of GET /v1/models; `auto`, or nothing, lets the mesh choose by what the request means.",
}

_LIMIT: Schema = {"type": ["number", "null"], "minimum": 0}

OPTIONS: Schema = or_null(
    {
        "type": "object",
        "description": "What is asked of whoever runs the request, for which OpenAI's API has no words.",
        "properties": {
            "local_only": {"type": "boolean", "description": "Only this machine."},
            "general_only": {"type": "boolean", "description": "Only models that take any prompt."},
            "cpu_allowed": {"type": "boolean", "description": "False rules out models that run on a CPU."},
            "max_rtt_ms": {**_LIMIT, "description": "Farther nodes are ruled out."},
            "max_latency_ms": {**_LIMIT, "description": "Nodes that are expected to take longer are ruled out."},
            "max_cost_per_1k": {**_LIMIT, "description": "US dollars for a thousand tokens."},
            "budget": {**_LIMIT, "description": "US dollars for this request."},
            "min_size_b": {**_LIMIT, "description": "Billions of parameters."},
            "residency": {"type": "string", "maxLength": 64, "description": "Where data must stay, such as `US`."},
        },
        "additionalProperties": False,
    }
)
