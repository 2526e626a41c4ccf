"""Frames on a byte stream: a four-byte big-endian length, then that many bytes."""

from __future__ import annotations

from atmo.errors import WireError
from atmo.wire import limits

HEADER_BYTES = 4


def frame(body: bytes, max_bytes: int = limits.FRAME_BYTES) -> bytes:
    """Returns `body` with its length in front.

    Raises:
        WireError: The body is over the limit; nothing is ever cut.
    """
    if len(body) > max_bytes:
        raise WireError(f"a frame of {len(body)} bytes is over the limit of {max_bytes}")
    return len(body).to_bytes(HEADER_BYTES, "big") + body


class FrameReader:
    """Cuts a byte stream into frames; knows no sockets.

    Args:
        max_bytes: The largest body accepted; the limit is checked on the header, before the body is kept.
    """

    def __init__(self, max_bytes: int = limits.FRAME_BYTES) -> None:
        self._max_bytes = max_bytes
        self._buffer = bytearray()

    def feed_untrusted(self, data: bytes) -> None:
        """Adds received bytes."""
        self._buffer += data

    def next_untrusted(self) -> bytes | None:
        """Returns the next whole frame's body, or None when more bytes are needed.

        Raises:
            WireError: A frame announces more than the limit.
        """
        if len(self._buffer) < HEADER_BYTES:
            return None
        size = int.from_bytes(self._buffer[:HEADER_BYTES], "big")
        if size > self._max_bytes:
            raise WireError(f"a frame of {size} bytes is over the limit of {self._max_bytes}")
        if len(self._buffer) < HEADER_BYTES + size:
            return None
        body = bytes(self._buffer[HEADER_BYTES : HEADER_BYTES + size])
        del self._buffer[: HEADER_BYTES + size]
        return body

    def take_rest(self) -> bytes:
        """Returns and forgets the bytes after the last whole frame.

        Raw data follows a header frame in some protocols.
        """
        rest = bytes(self._buffer)
        self._buffer.clear()
        return rest

    @property
    def in_middle(self) -> bool:
        """True while a frame has begun and not ended: a stream that ends here was cut."""
        return bool(self._buffer)
