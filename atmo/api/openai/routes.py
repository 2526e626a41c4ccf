"""OpenAI's API but for responses: chat, completions, embeddings, images, audio, models."""

from __future__ import annotations

from atmo.api.openai.chat import add_chat
from atmo.api.openai.embeddings import add_embeddings
from atmo.api.openai.media import add_media
from atmo.api.openai.models import Extend, add_models
from atmo.api.routing import Router
from atmo.gateway.gateway import Gateway

__all__ = ["Extend", "openai_routes"]


def openai_routes(gateway: Gateway, extend: Extend = lambda rows: rows) -> Router:
    """Returns the routes under `/v1` that OpenAI's clients use.

    Args:
        gateway: Routes and runs requests.
        extend: Adds what else is known to the list of models.
    """
    router = Router(prefix="/v1")
    add_chat(router, gateway)
    add_embeddings(router, gateway)
    add_media(router, gateway)
    add_models(router, gateway, extend)
    return router
