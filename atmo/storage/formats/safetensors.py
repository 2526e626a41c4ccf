"""safetensors files. Source: https://github.com/huggingface/safetensors, section "Format"."""

from __future__ import annotations

import json
from typing import Any

from atmo.storage.formats.reader import Detected, FormatError, Reader

HEADER_MOST_BYTES = 100_000_000  # Source: safetensors/src/tensor.rs, MAX_HEADER_SIZE
_TEXT_CHARS = 500
_BYTES = {  # of one number. Source: safetensors/src/tensor.rs, Dtype
    "F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I16": 2, "U16": 2,
    "F8_E4M3": 1, "F8_E5M2": 1, "I8": 1, "U8": 1, "BOOL": 1,
}  # fmt: skip


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
    config: dict[str, Any] = {"tensors": len(header), **_numbers(header)}
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


def _numbers(header: dict[str, Any]) -> dict[str, Any]:
    """Returns how many numbers the tensors hold and of which types, by the bytes that they take."""
    counts: dict[str, int] = {}
    for tensor in header.values():
        kind, (begin, end) = tensor["dtype"], tensor["data_offsets"]
        if kind in _BYTES:
            counts[kind] = counts.get(kind, 0) + (end - begin) // _BYTES[kind]
    return {"parameters": sum(counts.values()), "dtypes": sorted(counts)} if counts else {}
