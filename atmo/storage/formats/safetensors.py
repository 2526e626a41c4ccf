"""safetensors files. Source: https://github.com/huggingface/safetensors, section "Format"."""

from __future__ import annotations

import json
from typing import Any

from atmo.storage.formats.reader import Detected, FormatError, Reader

HEADER_MOST_BYTES = 100_000_000  # Source: safetensors/src/tensor.rs, MAX_HEADER_SIZE
_TEXT_CHARS = 500


def looks_like(reader: Reader) -> bool:
    """Says whether the file begins as one: eight bytes of length, then a JSON map."""
    return reader.size > 8 and reader.number(0, "Q") <= HEADER_MOST_BYTES and reader.at(8, 1) == b"{"


def read(reader: Reader) -> Detected:
    """Checks that the header's tensors fill the file exactly.

    Raises:
        FormatError: They do not, or the header is no header.
    """
    length = reader.number(0, "Q")
    try:
        header = json.loads(reader.at(8, length))
    except (ValueError, RecursionError):
        raise FormatError("has a safetensors header that is not JSON") from None
    if not isinstance(header, dict):
        raise FormatError("has a safetensors header that is not a map")
    notes = header.pop("__metadata__", {})
    room = reader.size - 8 - length
    ends = [_end_untrusted(name, tensor) for name, tensor in header.items()]
    if max(ends, default=0) != room:
        what = "is cut short" if max(ends, default=0) > room else "has bytes that no tensor owns"
        raise FormatError(f"{what}: its tensors need {max(ends, default=0)} bytes and {room} are there")
    config: dict[str, Any] = {"tensors": len(header)}
    if isinstance(notes, dict):
        texts = {str(key)[:64]: str(value)[:_TEXT_CHARS] for key, value in list(notes.items())[:32]}
        config |= {"metadata": texts} if texts else {}
    return Detected("safetensors", ".safetensors", config=config)


def _end_untrusted(name: str, tensor: Any) -> int:
    match tensor:
        case {"dtype": str(), "shape": list(), "data_offsets": [int() as begin, int() as end]} if 0 <= begin <= end:
            return end
        case _:
            raise FormatError(f"has a safetensors header with the damaged entry {name[:80]!r}")
