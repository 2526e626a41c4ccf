"""Server-sent events from servers that do not all read the specification. No I/O.

Source: https://html.spec.whatwg.org/multipage/server-sent-events.html, and what vLLM, llama-server, Ollama and proxies
send: comments as heartbeats, CRLF, `data:` without a space, a last event without the blank line after it. Lines that
end in a lone CR, which the specification allows, are sent by none of them and not understood.
"""

from __future__ import annotations

MAX_LINE_BYTES = 1024 * 1024
MAX_EVENT_BYTES = 4 * 1024 * 1024


class SseError(ValueError):
    """The stream breaks a limit."""


class SseParser:
    """Turns bytes into the data of events.

    `feed` as pieces come; `finish` at the end of the stream.
    """

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._data: list[str] = []
        self._size = 0
        self._first = True

    def feed(self, piece: bytes) -> list[str]:
        """Returns the data of the events that `piece` completes.

        Raises:
            SseError: A line or an event is too long.
        """
        *lines, rest = piece.split(b"\n")
        if lines:
            lines[0] = bytes(self._buffer) + lines[0]
            self._buffer.clear()
        self._buffer += rest
        events = [event for line in lines if (event := self._line(line.removesuffix(b"\r"))) is not None]
        if len(self._buffer) > MAX_LINE_BYTES:
            raise SseError(f"a line is longer than {MAX_LINE_BYTES} bytes")
        return events

    def finish(self) -> list[str]:
        """Returns the data of an event that the end of the stream cut off from its blank line."""
        return self.feed(b"\n\n")

    def _line(self, line: bytes) -> str | None:
        if self._first:
            self._first = False
            line = line.removeprefix(b"\xef\xbb\xbf")
        if not line:
            data, self._data, self._size = self._data, [], 0
            return "\n".join(data) if data else None
        name, _, value = line.partition(b":")
        if name == b"data":
            self._size += len(value)
            if self._size > MAX_EVENT_BYTES or len(line) > MAX_LINE_BYTES:
                raise SseError(f"an event is longer than {MAX_EVENT_BYTES} bytes")
            self._data.append(value.removeprefix(b" ").decode("utf-8", "replace"))
        return None
