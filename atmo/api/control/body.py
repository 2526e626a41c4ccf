"""The bodies of control requests, checked by hand, and how an error becomes an answer."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import aclosing
from pathlib import Path
from typing import Any

import trio
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from atmo.api.control.ndjson import error_body, error_status, error_told
from atmo.api.routing import Endpoint
from atmo.errors import RemoteError, UserError, leaf_error
from atmo.services.jobs import Kind

MAX_BODY_BYTES = 64 * 1024
"""A join code and a model's configuration fit; nothing that is asked here is larger (guess)."""

Authorise = Callable[[Request], Awaitable[None]]
"""Lets a request through or raises."""


class BadRequestError(Exception):
    """The request itself is wrong."""

    def __init__(self, status: int, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.body = error_told(message, hint)

    def response(self) -> JSONResponse:
        """Returns the answer."""
        headers = {"www-authenticate": "Bearer"} if self.status == 401 else None
        return JSONResponse(self.body, self.status, headers)


def told_to_owner(endpoint: Endpoint) -> Endpoint:
    """Turns errors of the services that `endpoint` asks into this API's answers."""

    async def handle(**given: Any) -> Response:
        try:
            return await endpoint(**given)
        except (BadRequestError, UserError, RemoteError, BaseExceptionGroup) as error:
            leaf = leaf_error(error)
            if isinstance(leaf, BadRequestError):
                response = leaf.response()
            elif isinstance(leaf, UserError | RemoteError):
                response = JSONResponse(error_body(leaf), error_status(leaf))
            else:
                raise
        await trio.lowlevel.checkpoint()
        return response

    return handle


class Body:
    """The JSON object of one request, with checks that name the field at fault."""

    def __init__(self, fields: Mapping[str, Any]) -> None:
        self._fields = fields

    @classmethod
    async def read(cls, request: Request, known: set[str]) -> Body:
        """Reads the body, whose fields are all among `known`."""
        data = bytearray()
        async with aclosing(request.stream()) as stream:
            async for chunk in stream:
                data += chunk
                if len(data) > MAX_BODY_BYTES:
                    raise BadRequestError(413, f"The body is larger than {MAX_BODY_BYTES} bytes.")
        try:
            fields = json.loads(data or b"{}")
        except (ValueError, RecursionError) as error:
            raise BadRequestError(400, "The body is not JSON.", _takes(known)) from error
        if not isinstance(fields, dict):
            raise BadRequestError(400, "The body is not a JSON object.", _takes(known))
        if unknown := sorted(fields.keys() - known):
            raise BadRequestError(400, f"{unknown[0]} in the JSON body is no field of this request.", _takes(known))
        return cls(fields)

    def has(self, key: str) -> bool:
        """Says whether something was given."""
        return self._fields.get(key) is not None

    def text(self, key: str, default: str | None = None) -> str:
        """Returns a text; without a default it may not be empty."""
        value = self._fields.get(key, default)
        if not isinstance(value, str) or (default is None and not value.strip()):
            raise _unfit(key, "a text that is not empty" if default is None else "a text", '"..."')
        return value

    def flag(self, key: str) -> bool:
        """Returns a switch, off where it is not there."""
        value = self._fields.get(key, False)
        if not isinstance(value, bool):
            raise _unfit(key, "true or false", "true")
        return value

    def optional(self, key: str) -> str | None:
        """Returns a text, None where it is not there."""
        return None if self._fields.get(key) is None else self.text(key)

    def seconds(self, key: str, default: float) -> float:
        """Returns a time."""
        value = self._fields.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e10:
            raise _unfit(key, "a number of seconds above 0", "3600")
        return float(value)

    def names(self, key: str) -> tuple[str, ...]:
        """Returns names, none where they are not there."""
        value = self._fields.get(key) or []
        if not isinstance(value, list) or not all(isinstance(item, str) and item for item in value):
            raise _unfit(key, "a list of names", '["..."]')
        return tuple(value)

    def trust(self, key: str) -> bool | str:
        """Returns a switch, or the id of the node that it is about."""
        return self.text(key) if isinstance(self._fields.get(key), str) else self.flag(key)

    def of_kind(self, key: str, kind: Kind) -> Any:
        """Returns a field of that kind."""
        read: dict[Kind, Callable[[str], Any]] = {
            "text": self.text,
            "optional": self.optional,
            "flag": self.flag,
            "names": self.names,
            "trust": self.trust,
        }
        return read[kind](key)

    def path(self, key: str) -> Path:
        """Returns an absolute path of this machine."""
        path = Path(self.text(key))
        if not path.is_absolute():
            raise BadRequestError(400, f"{key}: {path} is not absolute.", "The node has another working directory.")
        return path


def _takes(known: Iterable[str]) -> str:
    return f"Send a JSON object; this request takes {', '.join(sorted(known))}."


def _unfit(key: str, wanted: str, example: str) -> BadRequestError:
    return BadRequestError(400, f"{key} in the JSON body has to be {wanted}.", f'Send it as {{"{key}": {example}}}.')
