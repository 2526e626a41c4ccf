"""What every route answers with status 200, for `/openapi.json`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from atmo.api.documents.schema import EVENTS, JSON, ref
from atmo.gateway.fields import Schema


def gives(answer: str, *, stream: str = "", kinds: Sequence[str] = ()) -> Schema:
    """Returns what OpenAPI says of an answer.

    Args:
        answer: The schema of the JSON object; empty where it is none.
        stream: The schema of each event of a stream, where the client may ask for one.
        kinds: Types of other answers.
    """
    content: Schema = {JSON: {"schema": ref(answer)}} if answer else {}
    if stream:
        about = {"type": "string", "description": "`data:` lines, each with a JSON object."}
        content[EVENTS] = {"schema": about, "x-event": ref(stream)}
    content |= {kind: {"schema": {"type": "string"}} for kind in kinds}
    return {"description": "The answer.", "content": content}


ANSWERS: Mapping[str, Schema] = {
    "POST /v1/chat/completions": gives("ChatAnswer", stream="ChatChunk"),
    "POST /v1/completions": gives("CompletionAnswer", stream="CompletionAnswer"),
    "POST /v1/embeddings": gives("EmbeddingsAnswer"),
    "POST /v1/images/generations": gives("ImagesAnswer"),
    "POST /v1/audio/transcriptions": gives("Transcription", stream="TranscriptionEvent", kinds=("text/plain",)),
    "POST /v1/audio/speech": gives("", stream="SpeechEvent", kinds=("audio/*",)),
    "GET /v1/models": gives("ModelList"),
    "GET /v1/models/{model}": gives("Model"),
    "GET /v1/models/download/{model}": gives("", kinds=("application/octet-stream",)),
    "POST /v1/responses": gives("Response", stream="ResponseEvent"),
    "GET /v1/responses/{response_id}": gives("Response"),
    "DELETE /v1/responses/{response_id}": gives("ResponseDeleted"),
    "POST /v1/responses/{response_id}/cancel": gives("Response"),
    "GET /v1/responses/{response_id}/input_items": gives("ItemList"),
    "POST /v1/ml/classify": gives("Classes"),
    "POST /v1/ml/classify/{action}": gives("Classes"),
    "POST /v1/ml/anomaly": gives("Anomalies"),
    "POST /v1/ml/anomaly/{action}": gives("Anomalies"),
    "POST /v1/ml/cluster": gives("Groups"),
    "POST /v1/ml/cluster/{action}": gives("Groups"),
    "POST /v1/ml/forecast": gives("Forecast"),
    "POST /v1/ml/forecast/{action}": gives("Forecast"),
    "POST /v1/ml/embed": gives("Vectors"),
    "GET /v1/tools": gives("ToolList"),
    "POST /v1/tools/execute": gives("ToolAnswer"),
    "GET /v1/capabilities": gives("CapabilityList"),
    "GET /v1/atmosphere/capabilities": gives("Announcement"),
    "GET /v1/mesh/capabilities": gives("MeshCapabilityList"),
    "GET /v1/mesh/nodes": gives("NodeList"),
    "GET /v1/mesh/models": gives("MeshModels"),
    "GET /v1/mesh/topology": gives("Topology"),
    "GET /v1/mesh/route": gives("Route"),
    "POST /v1/mesh/route": gives("Route"),
    "POST /v1/mesh/join": gives("Joined"),
    "GET /v1/health": gives("Health"),
    "GET /health": gives("Health"),
    "GET /metrics": gives("", kinds=("text/plain",)),
}
