"""Server-sent events from servers that do not all read the specification. No I/O, and light to import for the shell.

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

    Args:
        line_bytes: The longest line.
        event_bytes: The most data of one event.
    """

    def __init__(self, line_bytes: int = MAX_LINE_BYTES, event_bytes: int = MAX_EVENT_BYTES) -> None:
        self._line_bytes = line_bytes
        self._event_bytes = event_bytes
        self._buffer = bytearray()
        self._data: list[str] = []
        self._size = 0
        self._first = True

    @property
    def between(self) -> bool:
        """No event is under way."""
        return not self._buffer and not self._data

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
        if len(self._buffer) > self._line_bytes:
            raise SseError(f"a line is longer than {self._line_bytes} bytes")
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
            self._size += len(line)  # empty ones take room, too
            if len(line) > self._line_bytes:
                raise SseError(f"a line is longer than {self._line_bytes} bytes")
            if self._size > self._event_bytes:
                raise SseError(f"an event is longer than {self._event_bytes} bytes")
            self._data.append(value.removeprefix(b" ").decode("utf-8", "replace"))
        return None
