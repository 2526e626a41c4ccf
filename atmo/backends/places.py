"""Where model servers usually listen on a machine. No I/O, and nothing heavy: settings are checked with it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Place:
    """Where a kind of server usually listens.

    Attributes:
        name: For settings, and in the ids of its capabilities.
        port: On loopback.
        path: Of its OpenAI-compatible interface.
    """

    name: str
    port: int
    path: str = "/v1"

    @property
    def url(self) -> str:
        """Of its OpenAI-compatible interface."""
        return f"http://127.0.0.1:{self.port}{self.path}"


PLACES = (
    Place("lm-studio", 1234),
    Place("jan", 1337),
    Place("gpt4all", 4891),
    Place("text-generation-webui", 5000),
    Place("koboldcpp", 5001),
    Place("vllm", 8000),
    Place("llama-server", 8080),
    Place("docker-model-runner", 12434, "/engines/v1"),
    Place("sglang", 30000),
)
"""Source: the documentation of each; LocalAI shares llama-server's port, MLX's server too."""

FOUND_NAMES = ("ollama", "llamafarm", *(place.name for place in PLACES))
"""What the setting `discover` may list; the first two have backends of their own."""
