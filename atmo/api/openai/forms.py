"""Forms with a file (`multipart/form-data`, RFC 7578), read piece by piece into the JSON that travels inside.

The file becomes `{"name", "content_type", "data"}` with base64 as data. Names that end in `[]`, and names that come
several times, become lists.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.types import Receive, Scope

from atmo.api.exchange import Body, receive_body
from atmo.errors import RequestError
from atmo.gateway.budget import Holding
from atmo.gateway.fields import Field, Flag, Many, Number, Record
from atmo.wire import limits

FILE = "file"

MAX_FILE_BYTES = (limits.REQUEST_BYTES - limits.FRAME_BYTES) // 4 * 3
"""So that a file in base64, and a MiB of what stands beside it, is a request that another node takes."""

MAX_PARTS = 64
MAX_NAME_CHARS = 128
MAX_FIELD_BYTES = 64 * 1024
MAX_HEADERS = 8
"""Of one part. Source: RFC 7578 knows three."""

MAX_HEADER_BYTES = 1_024
ENCODED_BYTES = 48 * 1024
"""That are put in base64 at once: who sends byte by byte would have texts of four characters kept that take sixty bytes
each. Source: guess."""

_MAX_BOUNDARY = 70
"""Source: RFC 2046 section 5.1.1."""

_TYPE = "multipart/form-data"


async def read_form(record: Record, scope: Scope, receive: Receive, holding: Holding) -> Body | None:
    """Reads a request's form; None when the client left before it was complete.

    Args:
        record: Which fields are numbers, switches and lists.
        scope, receive: Of the request.
        holding: Pays for what is kept.

    Raises:
        RequestError: 400, it is no such form; 413, a part of it is too large; 415, it is something else.
    """
    form = Form(_boundary_untrusted(scope), holding)
    if not await receive_body(scope, receive, holding, form.feed_untrusted, form.drop):
        return None
    return form.finish(record.fields)


class Form:
    """A form that is coming in.

    Args:
        boundary: Between its parts.
        holding: Pays for what base64 adds to the file.
    """

    def __init__(self, boundary: bytes, holding: Holding) -> None:
        self._holding = holding
        self._values: dict[str, list[str]] = {}
        self._file: Body | None = None
        self._encoded: list[str] = []
        self._parts = 0
        self._file_bytes = 0
        self._header: dict[str, bytearray] = {}
        self._name_of_header = bytearray()
        self._value_of_header = bytearray()
        self._part = _Part("")
        self._complete = False
        calls: Any = {
            "on_part_begin": self._begin,
            "on_header_field": lambda data, start, end: self._name_of_header.extend(data[start:end]),
            "on_header_value": lambda data, start, end: self._value_of_header.extend(data[start:end]),
            "on_header_end": self._end_header,
            "on_headers_finished": self._open,
            "on_part_data": self._take,
            "on_part_end": self._close,
            "on_end": self._end,
        }
        self._parser = MultipartParser(boundary, calls, max_header_count=MAX_HEADERS, max_header_size=MAX_HEADER_BYTES)

    def feed_untrusted(self, data: bytes) -> None:
        """Takes the next piece.

        Raises:
            RequestError: 400 or 413; see `read_form`.
        """
        try:
            self._parser.write(data)
        except FormParserError as error:
            raise _bad(str(error)) from None

    def drop(self) -> None:
        """Forgets what came: the form is refused."""
        self._encoded.clear()
        self._values.clear()
        self._file, self._part = None, _Part("")

    def finish(self, fields: Mapping[str, Field]) -> Body:
        """Returns the form as JSON.

        Raises:
            RequestError: 400, it is not complete.
        """
        if not self._complete:
            raise _bad("it ends in the middle of a part")
        body: Body = {}
        for name, values in self._values.items():
            bare = name.removesuffix("[]")
            kind = fields.get(bare)
            if name != bare or len(values) > 1 or isinstance(kind, Many):
                body[bare] = [*body.get(bare, ()), *values]
            else:
                body[bare] = _value(values[0], kind)
        if self._file is not None:
            body[FILE] = self._file
        return body

    def _begin(self) -> None:
        self._parts += 1
        if self._parts > MAX_PARTS:
            raise _too_large(f"has more than {MAX_PARTS} parts")
        self._header = {}

    def _end_header(self) -> None:
        name = self._name_of_header.decode("latin-1").lower()
        self._header[name] = bytearray(self._value_of_header)
        self._name_of_header.clear()
        self._value_of_header.clear()

    def _open(self) -> None:
        kind, options = parse_options_header(bytes(self._header.get("content-disposition", b"")))
        name, file = _text(options.get(b"name", b"")), options.get(b"filename")
        if kind != b"form-data" or not name:
            raise _bad("a part has no name")
        if len(name) > MAX_NAME_CHARS:
            raise _too_large(f"has a field whose name is longer than {MAX_NAME_CHARS} characters")
        if file is None:
            self._part = _Part(name)
            return
        if name != FILE or self._file is not None:
            raise _bad(f"it takes one file, in the field '{FILE}'")
        content_type = _text(bytes(self._header.get("content-type", b"application/octet-stream")))
        self._part = _Part(name, is_file=True)
        self._file = {"name": _text(file) or "file", "content_type": content_type, "data": ""}

    def _take(self, data: bytes, start: int, end: int) -> None:
        part = self._part
        if not part.is_file:
            if len(part.data) + end - start > MAX_FIELD_BYTES:
                raise _too_large(f"has more than {MAX_FIELD_BYTES // 1024} KiB in the field '{part.name}'")
            part.data += data[start:end]
            return
        self._file_bytes += end - start
        if self._file_bytes > MAX_FILE_BYTES:
            raise _too_large(f"has a file of more than {MAX_FILE_BYTES // 2**20} MiB")
        part.data += data[start:end]
        if len(part.data) >= ENCODED_BYTES:
            whole = len(part.data) // 3 * 3
            self._encode(part.data[:whole])
            del part.data[:whole]

    def _encode(self, data: bytearray) -> None:
        self._holding.take(len(data) // 3)
        self._encoded.append(base64.b64encode(data).decode())

    def _close(self) -> None:
        part, self._part = self._part, _Part("")
        if part.is_file:
            self._encode(part.data)
            assert self._file is not None
            self._file["data"] = "".join(self._encoded)
            self._encoded.clear()
        else:
            self._values.setdefault(part.name, []).append(_text(bytes(part.data)))

    def _end(self) -> None:
        self._complete = True


class _Part:
    """The part that is coming in; of a file `data` is what is not encoded yet."""

    def __init__(self, name: str, is_file: bool = False) -> None:
        self.name = name
        self.is_file = is_file
        self.data = bytearray()


def _boundary_untrusted(scope: Scope) -> bytes:
    header = next((value for name, value in scope["headers"] if name == b"content-type"), b"")
    kind, options = parse_options_header(header[:MAX_HEADER_BYTES])
    boundary = options.get(b"boundary", b"")
    if kind != _TYPE.encode() or not 0 < len(boundary) <= _MAX_BOUNDARY:
        message = f"Send the file as {_TYPE}, as curl -F file=@speech.wav does."
        raise RequestError(415, message, code="unsupported_media_type")
    return boundary


def _value(text: str, kind: Field | None) -> Any:
    """Returns what a field's text says, as it is where it is not of its kind: the check tells."""
    if isinstance(kind, Flag):
        return {"true": True, "false": False}.get(text.lower(), text)
    if isinstance(kind, Number):
        try:
            return float(text)
        except ValueError:
            return text
    return text


def _text(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise _bad("it is not UTF-8") from None


def _bad(what: str) -> RequestError:
    return RequestError(400, f"The request body is not a form that we can read: {what[:200]}.", code="invalid_form")


def _too_large(what: str) -> RequestError:
    return RequestError(413, f"The request {what}: send less.", code="request_too_large")
