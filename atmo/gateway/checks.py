"""Whether a body is a request of its operation: checked where clients come in, and again where peers come in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from atmo.gateway.checks_chat import CHAT_BODY, COMPLETIONS_BODY, MAX_MESSAGES
from atmo.gateway.checks_media import EMBEDDINGS_BODY, IMAGES_BODY, SPEECH_BODY, TRANSCRIPTION_BODY
from atmo.gateway.checks_ml import ACTIONS, ML_BODIES
from atmo.gateway.fields import Record, bad
from atmo.router.capability import CHAT, COMPLETIONS, EMBEDDINGS, IMAGES, SPEECH, TRANSCRIPTION

__all__ = ["ACTIONS", "BODIES", "MAX_MESSAGES", "MAX_MODEL_CHARS", "bad", "check_body", "model_of", "wants_stream"]

MAX_MODEL_CHARS = 256

BODIES: Mapping[str, Record] = {
    CHAT: CHAT_BODY,
    COMPLETIONS: COMPLETIONS_BODY,
    EMBEDDINGS: EMBEDDINGS_BODY,
    IMAGES: IMAGES_BODY,
    TRANSCRIPTION: TRANSCRIPTION_BODY,
    SPEECH: SPEECH_BODY,
    **ML_BODIES,
}
"""What each operation takes. Fields that a table does not have pass: a backend may know them."""


def check_body(operation: str, body: Mapping[str, Any]) -> None:
    """Checks what every backend may rely on.

    Raises:
        RequestError: 400 with the field at fault.
    """
    model_of(body)
    record = BODIES.get(operation)
    if record is None:
        raise bad("operation", f"'{operation[:64]}' is none of {', '.join(BODIES)}")
    record.check("", body)


def model_of(body: Mapping[str, Any]) -> str:
    """Returns the model that the request names; empty where it names none.

    Raises:
        RequestError: 400, it is not a string or too long.
    """
    model = body.get("model")
    if model is None:
        return ""
    if not isinstance(model, str):
        raise bad("model", "must be a string; leave it out or say 'auto' to let the mesh choose")
    if len(model) > MAX_MODEL_CHARS:
        raise bad("model", f"is longer than {MAX_MODEL_CHARS} characters")
    return model


def wants_stream(body: Mapping[str, Any]) -> bool:
    """Says whether the client wants a stream; `stream` decides, never `Accept`, which SDKs set to JSON while streaming.

    Raises:
        RequestError: 400, it is neither true nor false.
    """
    stream = body.get("stream")
    if stream is not None and not isinstance(stream, bool):
        raise bad("stream", "must be true or false")
    return stream is True
