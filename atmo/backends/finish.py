"""Why an answer ended, in OpenAI's words. No I/O.

Servers have words of their own, and clients that read OpenAI's list strictly (the .NET library, those in Rust) fail
with the whole answer at any other one.
"""

from __future__ import annotations

REASONS = frozenset({"stop", "length", "tool_calls", "content_filter", "function_call"})
"""Source: OpenAI's schema."""

_MEANT = {
    "max_tokens": "length",
    "max_length": "length",
    "model_length": "length",
    "tool_use": "tool_calls",
    "tool_call": "tool_calls",
    "safety": "content_filter",
    "refusal": "content_filter",
}
"""Words of other servers: Anthropic's, Mistral's, Google's. All others, such as `eos`, are an end like any other."""


def finish_reason(said: object, called: bool = False) -> str | None:
    """Returns why a choice ended, None where it did not.

    Args:
        said: By the server.
        called: The choice has called tools; agents go on only where the reason says so.
    """
    if not isinstance(said, str) or not said:
        return None
    reason = said.lower()
    reason = reason if reason in REASONS else _MEANT.get(reason, "stop")
    return "tool_calls" if called and reason == "stop" else reason
