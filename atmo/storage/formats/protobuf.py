"""Protocol buffers, walked where they lie in a file and keeping nothing, so that a file of any size costs no memory.

The file is read and not mapped: a mapped file that its owner cuts short meanwhile would end the process.

Source: https://protobuf.dev/programming-guides/encoding/.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from atmo.storage.formats.reader import FormatError, Reader

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
_TEXT_BYTES = 256

FIELDS_MOST = 2_000_000
"""Fields that one look visits: a file that is nothing but tiny fields may not keep a core busy for long.
Source: guess."""


class Field(NamedTuple):
    """One field of a message.

    Attributes:
        number: Its number.
        kind: Its wire type.
        start, end: Where its value lies; without the length that goes before bytes.
    """

    number: int
    kind: int
    start: int
    end: int


class Walk:
    """One look at a file; all fields that it visits are counted against one budget.

    Args:
        reader: The file.
        fields_most: The budget; None for `FIELDS_MOST`.
    """

    def __init__(self, reader: Reader, fields_most: int | None = None) -> None:
        self.size = reader.size
        self._reader = reader
        self._budget = self._left = FIELDS_MOST if fields_most is None else fields_most

    def fields(self, start: int, end: int, skip: re.Pattern[bytes] | None = None) -> Iterator[Field]:
        """Yields the fields of the message between two offsets.

        Args:
            start, end: Where the message lies.
            skip: Matches runs of whole fields that nobody wants.

        Raises:
            FormatError: They do not fit the message exactly, or there are too many.
        """
        at = start
        while at < end:
            if skip is not None and (run := skip.match(*self._reader.block(at, end))):
                at += run.end() - run.start()
                continue
            self._left -= 1
            if self._left < 0:
                raise FormatError(f"has more than {self._budget} fields")
            tag, low = self.varint(at, end)
            number, kind = tag >> 3, tag & 7
            if kind == BYTES:
                size, low = self.varint(low, end)
                high = low + size
            elif kind == VARINT:
                high = self.varint(low, end)[1]
            elif kind in (FIXED64, FIXED32):
                high = low + (8 if kind == FIXED64 else 4)
            else:
                raise FormatError("is not a protocol buffer")
            if high > self.size:
                raise FormatError(f"is cut short: a part of it should go on to byte {high}")
            if number == 0 or high > end:
                raise FormatError("is not a protocol buffer")
            yield Field(number, kind, low, high)
            at = high

    def inside(self, field: Field) -> Iterator[Field]:
        """Yields the fields of the message that a field holds; none where it holds no bytes."""
        return self.fields(field.start, field.end) if field.kind == BYTES else iter(())

    def varint(self, at: int, end: int) -> tuple[int, int]:
        """Returns the number at `at` and where it ends.

        Raises:
            FormatError: It goes on beyond `end`.
        """
        if at < end:
            block, start, _ = self._reader.block(at, end)
            if block[start] < 0x80:  # most are one byte long
                return block[start], at + 1
        value = shift = 0
        for index, byte in enumerate(self._reader.at(at, min(10, end - at))):
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value, at + index + 1
            shift += 7
        raise FormatError("is cut short" if end == self.size else "is not a protocol buffer")

    def number(self, field: Field) -> int:
        """Returns the value of a varint field, 0 of another."""
        return self.varint(field.start, field.end)[0] if field.kind == VARINT else 0

    def text(self, field: Field) -> str:
        """Returns the first bytes of a field as text."""
        return self._reader.at(field.start, min(field.end - field.start, _TEXT_BYTES)).decode(errors="replace")
