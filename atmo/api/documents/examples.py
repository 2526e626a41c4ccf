"""An example of a request for every route, from which `/openapi.json` and `/docs` make curl lines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Example:
    """A request that works on a node with what it needs.

    Attributes:
        body: JSON, or the fields of a form where the route takes one; a value of `@NAME` is a file, as curl has it.
        path: With its query, where the route's own path has parameters or the query says something.
        options: More for curl.
    """

    body: Mapping[str, Any] = field(default_factory=dict)
    path: str = ""
    options: str = ""


_QUESTION = "How do I add another machine to the mesh?"
_FLOWERS = [[5.1, 3.5, 1.4, 0.2], [4.9, 3.0, 1.4, 0.2], [6.7, 3.1, 4.7, 1.5], [6.3, 2.5, 4.9, 1.5]]
_READINGS = [[20.1], [19.8], [20.4], [20.0], [19.9], [20.2], [20.3], [19.7], [20.1], [35.0]]
_SALES = [112, 118, 132, 129, 121, 135, 148, 148, 136, 119, 104, 118, 115, 126, 141, 135, 125, 149, 170, 170]
_CONTROL = "-H 'authorization: Bearer TOKEN'"

EXAMPLES: Mapping[str, Example] = {
    "POST /v1/chat/completions": Example({"model": "auto", "messages": [{"role": "user", "content": _QUESTION}]}),
    "POST /v1/completions": Example({"model": "auto", "prompt": "The three states of matter are", "max_tokens": 16}),
    "POST /v1/embeddings": Example(
        {"model": "auto", "input": ["The mesh is calm.", "Nothing stirs."], "dimensions": 128}
    ),
    "POST /v1/images/generations": Example(
        {"model": "auto", "prompt": "A lighthouse in fog, woodcut", "size": "1024x1024"}
    ),
    "POST /v1/audio/transcriptions": Example({"model": "auto", "file": "@speech.mp3"}),
    "POST /v1/audio/speech": Example(
        {"model": "auto", "input": "The mesh is calm.", "voice": "alloy", "response_format": "mp3"},
        options="-o speech.mp3",
    ),
    "GET /v1/models/{model}": Example(path="/v1/models/auto"),
    "GET /v1/models/download/{model}": Example(path="/v1/models/download/iris", options="-o iris.onnx"),
    "POST /v1/responses": Example({"model": "auto", "input": _QUESTION}),
    "GET /v1/responses/{response_id}": Example(path="/v1/responses/RESPONSE_ID"),
    "DELETE /v1/responses/{response_id}": Example(path="/v1/responses/RESPONSE_ID"),
    "POST /v1/responses/{response_id}/cancel": Example(path="/v1/responses/RESPONSE_ID/cancel"),
    "GET /v1/responses/{response_id}/input_items": Example(path="/v1/responses/RESPONSE_ID/input_items?order=asc"),
    "POST /v1/ml/classify": Example(
        {
            "action": "fit",
            "model": "flowers",
            "data": _FLOWERS,
            "labels": ["setosa", "setosa", "virginica", "virginica"],
        }
    ),
    "POST /v1/ml/classify/{action}": Example(
        {"model": "flowers", "data": [[5.0, 3.4, 1.5, 0.2]]}, "/v1/ml/classify/predict"
    ),
    "POST /v1/ml/anomaly": Example({"action": "fit", "model": "sensors", "data": _READINGS}),
    "POST /v1/ml/anomaly/{action}": Example({"model": "sensors", "data": [[20.2], [41.0]]}, "/v1/ml/anomaly/detect"),
    "POST /v1/ml/cluster": Example({"action": "fit", "model": "groups", "data": _FLOWERS, "k": 2}),
    "POST /v1/ml/cluster/{action}": Example(
        {"model": "groups", "data": [[5.0, 3.4, 1.5, 0.2]]}, "/v1/ml/cluster/predict"
    ),
    "POST /v1/ml/forecast": Example({"action": "fit", "model": "sales", "data": _SALES}),
    "POST /v1/ml/forecast/{action}": Example({"model": "sales", "horizon": 3}, "/v1/ml/forecast/predict"),
    "POST /v1/ml/embed": Example({"texts": ["The mesh is calm.", "Nothing stirs."]}),
    "POST /v1/tools/execute": Example({"tool_name": "embed", "params": {"input": "The mesh is calm."}}),
    "POST /v1/mesh/route": Example({"operation": "chat", "messages": [{"role": "user", "content": _QUESTION}]}),
    "GET /v1/mesh/route": Example(path="/v1/mesh/route?operation=chat&prompt=What+is+a+join+code"),
    "POST /v1/mesh/join": Example({"code": "JOIN_CODE"}, options=_CONTROL),
}
