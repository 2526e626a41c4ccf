"""How values look to a person: sizes, times, tables, and text from other machines that must not drive the terminal."""

from __future__ import annotations

import textwrap
import unicodedata
from collections.abc import Callable, Sequence
from typing import Any

_BIDI = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""Characters that reorder what stands beside them. Source: UAX #9, section 2."""

SENTENCE_COLUMNS = 24
"""Of a terminal, which a column of sentences needs at least to stand beside others."""


def printable(value: Any) -> str:
    """Returns one line of `value` where every character that is not printable is a replacement character."""
    return "".join(char if char.isprintable() else "\ufffd" for char in str(value))


def prose(text: str) -> str:
    """Returns text of several lines with what could move the cursor or reorder it taken out."""
    return "".join(char for char in text if char in "\n\t" or not _drives_terminal(char))


def _drives_terminal(char: str) -> bool:
    return unicodedata.category(char) in ("Cc", "Cs") or char in _BIDI


class Wrapper:
    """Writes text as it arrives, with line breaks between words.

    Args:
        write: Takes what may be shown.
        width: Columns of the terminal, None to break nowhere.
    """

    def __init__(self, write: Callable[[str], object], width: int | None) -> None:
        self._write = write
        self._width = width
        self._column = 0
        self._space = ""
        self._word = ""

    def feed(self, text: str) -> None:
        """Writes all but the last word, which may go on."""
        if self._width is None:
            self._write(text)
            return
        for char in text:
            if char == "\n":
                self.flush()
                self._write("\n")
                self._column, self._space = 0, ""
            elif char in " \t":
                self.flush()
                self._space += char
            else:
                self._word += char

    def flush(self) -> None:
        """Writes the last word."""
        if not self._word or self._width is None:
            return
        size = width_of(self._word)
        if self._column and self._column + len(self._space) + size > self._width:
            self._write("\n" + self._word)
            self._column = size
        else:
            self._write(self._space + self._word)
            self._column += len(self._space) + size
        self._space = self._word = ""


def size_text(count: float) -> str:
    """Writes a number of bytes in decimal units, as disks and networks are sold."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 999.5:
            return f"{count:.0f} {unit}" if unit == "B" or count >= 99.5 else f"{count:.1f} {unit}"
        count /= 1_000
    return f"{count:.1f} TB"


def count_text(number: int, noun: str) -> str:
    """Writes a number of things."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def time_text(seconds: float | None) -> str:
    """Writes a time of the day's scale: `now`, `12 s`, `5 min`, `3 h`, `2 d`; `-` where it is not known."""
    if seconds is None:
        return "-"
    if seconds < 1:
        return "now"
    for limit, divisor, unit in ((90, 1, "s"), (90 * 60, 60, "min"), (36 * 3_600, 3_600, "h")):
        if seconds < limit:
            return f"{seconds / divisor:.0f} {unit}"
    return f"{seconds / 86_400:.0f} d"


def clock_text(seconds: float | None) -> str:
    """Writes time left as `0:07` or `1:02:03`; `-:--` where it is not known."""
    if seconds is None:
        return "-:--"
    minutes, rest = divmod(min(int(seconds), 359_999), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def width_of(text: str) -> int:
    """Returns how many columns of a terminal `text` takes."""
    return sum(
        0 if unicodedata.combining(char) else 2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text
    )


def table(headers: Sequence[str], rows: Sequence[Sequence[Any]], width: int | None = None) -> list[str]:
    """Lays out rows in columns, two spaces apart.

    Args:
        headers: Column names; one that starts with `>` aligns its column to the right.
        rows: Values; what another machine named is made printable here.
        width: Columns of the terminal to cut lines to, None not to cut.
    """
    right = [header.startswith(">") for header in headers]
    cells = [[header.removeprefix(">") for header in headers], *([printable(value) for value in row] for row in rows)]
    widths = [max(width_of(row[column]) for row in cells) for column in range(len(headers))]
    lines = []
    for row in cells:
        padded = []
        for text, cell_width, to_right in zip(row, widths, right, strict=True):
            space = " " * (cell_width - width_of(text))
            padded.append(space + text if to_right else text + space)
        line = "  ".join(padded).rstrip()
        lines.append(line if width is None else _cut(line, width))
    return lines


def wrapped_table(headers: Sequence[str], rows: Sequence[Sequence[Any]], width: int | None) -> list[str]:
    """Lays out rows in columns, the last of which holds sentences and is wrapped instead of cut.

    Where hardly any room is left for that column, it goes below the others.

    Args:
        headers, rows: As for `table`.
        width: Columns of the terminal, None to wrap nowhere.
    """
    if width is None:
        return table(headers, rows)
    first = table(headers[:-1], [row[:-1] for row in rows], width)
    indent = max(map(width_of, first)) + 2
    below = width - indent < SENTENCE_COLUMNS
    lines = []
    for start, sentence in zip(first, (headers[-1], *(row[-1] for row in rows)), strict=True):
        gap = " " * (4 if below else indent)
        wrapped = textwrap.wrap(printable(sentence), max(width, 20), initial_indent=gap, subsequent_indent=gap)
        if wrapped and not below:
            start += wrapped.pop(0)[width_of(start) :]
        lines += [start, *wrapped]
    return lines


def _cut(line: str, width: int) -> str:
    if width_of(line) <= width:
        return line
    kept, used = [], 0
    for char in line:
        used += width_of(char)
        if used > width - 1:
            break
        kept.append(char)
    return "".join(kept) + "\u2026"
