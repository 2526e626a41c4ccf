"""Errors that cross rooms. Each one says what went wrong and, where there is one, the next step.

Whose fault an error is decides its class: `UserError` is for the person at the terminal, `RequestError` for the
client of the HTTP endpoint, `RemoteError` for a peer, `WireError` for bytes that do not decode.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any


class AtmoError(Exception):
    """The root of every error that Atmosphere raises on purpose."""


class UserError(AtmoError):
    """Something a person asked for cannot be done: one line saying what, where and what to do next.

    Attributes:
        message, hint: What and where, and what to do next.
        code: One word for programs where they can do something about it, else empty.
        about: Plain values that go with the code.
    """

    code: str = ""
    about: Mapping[str, Any] = MappingProxyType({})

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(f"{message} {hint}".strip())
        self.message = message
        self.hint = hint


class StoppedError(UserError):
    """What a person waits for was paused or ended on purpose, by another command."""

    code = "stopped"


class WireError(AtmoError):
    """Bytes from outside do not decode, break a limit, or carry a bad signature. The only error of the decoders."""


class EncodeError(WireError, ValueError):
    """A value of ours is one that no peer would accept: the value is wrong, not a peer."""


class RemoteError(AtmoError):
    """A peer refused, vanished or broke the protocol while we waited for it."""


class RequestError(AtmoError):
    """A request to the endpoint fails, in the terms of OpenAI's API.

    Args:
        status: HTTP status: 400 invalid, 404 unknown model, 503 nobody in the mesh can do it, 502 a peer
            failed, 504 late.
        message: One sentence with what to do about it.
        kind: OpenAI's `type`, such as `invalid_request_error`.
        code: OpenAI's `code`, such as `model_not_found`.
        param: The field of the request at fault.
        retry_s: In how many seconds the same request may do; 0 where nobody knows, or where it never will.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        code: str | None = None,
        param: str | None = None,
        retry_s: float = 0.0,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.kind = kind
        self.code = code
        self.param = param
        self.retry_s = retry_s

    def body(self) -> dict[str, object]:
        """Returns the JSON body that OpenAI's clients expect."""
        return {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}}


def leaf_error(error: BaseException) -> BaseException:
    """Returns the one error inside nested groups of one, as nurseries wrap it, else `error` itself."""
    leaf = error
    while isinstance(leaf, BaseExceptionGroup):
        if len(leaf.exceptions) != 1:
            return error
        leaf = leaf.exceptions[0]
    return leaf
