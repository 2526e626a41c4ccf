"""GGUF files, versions 2 and 3. Source: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from atmo.storage.formats.reader import Detected, FormatError, Reader

MAGIC = b"GGUF"
_ITEMS_MOST = 1_000_000
_STRING, _ARRAY = 8, 9
_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 7: "?", 10: "Q", 11: "q"}
_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_BLOCKS = {  # tensor type: (elements, bytes) of a block. Source: ggml/src/ggml-common.h
    0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34), 10: (256, 84),
    11: (256, 110), 12: (256, 144), 13: (256, 176), 14: (256, 210), 24: (1, 1), 25: (1, 2), 26: (1, 4), 27: (1, 8),
    28: (1, 8), 30: (1, 2),
}  # fmt: skip
_QUANTIZATIONS = {  # general.file_type. Source: llama.cpp/include/llama.h, enum llama_ftype
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1", 10: "Q2_K", 11: "Q3_K_S", 12: "Q3_K_M",
    13: "Q3_K_L", 14: "Q4_K_S", 15: "Q4_K_M", 16: "Q5_K_S", 17: "Q5_K_M", 18: "Q6_K", 19: "IQ2_XXS", 20: "IQ2_XS",
    21: "Q2_K_S", 22: "IQ3_XS", 23: "IQ3_XXS", 24: "IQ1_S", 25: "IQ4_NL", 26: "IQ3_S", 27: "IQ3_M", 28: "IQ2_S",
    29: "IQ2_M", 30: "IQ4_XS", 31: "IQ1_M", 32: "BF16", 36: "TQ1_0", 37: "TQ2_0",
}  # fmt: skip
_EMBEDDERS = ("bert", "nomic-bert", "jina-bert-v2", "t5encoder")
_POOLED = (1, 2, 3)
"""Mean, first and last token: an embedder, whatever its architecture. Source: llama.h, enum llama_pooling_type."""
_KEPT = (
    ".context_length", ".embedding_length", ".block_count", ".pooling_type", ".attention.head_count",
    ".attention.head_count_kv", ".attention.key_length", ".attention.value_length",
)  # fmt: skip
CHAT_TEMPLATE = "tokenizer.chat_template"
_TEXT_BYTES, _TEMPLATE_BYTES = 1_024, 64 * 1_024


class Tensor(NamedTuple):
    """The head of one tensor.

    Attributes:
        name: Up to 1,024 bytes of it.
        offset: From the start of the data.
        size: In bytes; 0 where the type is none that is known here.
        elements: How many numbers it holds.
    """

    name: str
    offset: int
    size: int
    elements: int = 0


def read(reader: Reader) -> Detected:
    """Reads keys and tensor heads, and checks that every tensor lies within the file.

    Raises:
        FormatError: It is cut short or damaged.
    """
    keys, data_at, tensors = read_head(reader)
    end = data_at + max((tensor.offset + tensor.size for tensor in tensors), default=0)
    if tensors and end > reader.size:
        raise FormatError(f"is cut short: its tensors need {end} bytes and {reader.size} are there")
    config = {name: keys[f"general.{name}"] for name in ("architecture", "name") if _is_text(keys, f"general.{name}")}
    architecture = config.get("architecture", "")
    context = keys.get(f"{architecture}.context_length")
    config |= {"context_length": context} if isinstance(context, int) and context < 2**32 else {}
    config |= {"quantization": quantization(keys)} if quantization(keys) else {}
    parameters = sum(tensor.elements for tensor in tensors)
    config |= {"parameters": parameters} if 0 < parameters < 2**53 else {}
    kind, capability = ("embedder", "embeddings") if embeds(keys) else ("llm", "chat")
    return Detected("gguf", ".gguf", kind, config, (capability,))


def quantization(keys: Mapping[str, Any]) -> str:
    """Returns in which form most weights are, such as `Q4_K_M`; empty where the keys do not say."""
    return _QUANTIZATIONS.get(keys.get("general.file_type", -1), "")


def embeds(keys: Mapping[str, Any]) -> bool:
    """Returns whether the keys are those of a model that turns texts into vectors."""
    architecture = keys.get("general.architecture")
    return architecture in _EMBEDDERS or keys.get(f"{architecture}.pooling_type") in _POOLED


def read_head(reader: Reader, tensors_most: int = _ITEMS_MOST) -> tuple[dict[str, Any], int, list[Tensor]]:
    """Returns the keys that we keep, where the data of tensors begin, and the heads of all tensors in the file's order.

    Raises:
        FormatError: It is cut short or damaged, or has more tensors than that.
    """
    version = reader.number(4, "I")
    if version not in (2, 3):
        raise FormatError(f"is GGUF version {version}, which is not known here")
    count, pairs = reader.number(8, "Q"), reader.number(16, "Q")
    if count > tensors_most or pairs > _ITEMS_MOST:
        raise FormatError("has a damaged GGUF head: its counts are absurd")
    keys, at = _keys(reader, 24, pairs)
    alignment = keys.get("general.alignment", 32)
    if not isinstance(alignment, int) or alignment <= 0 or alignment % 8:
        raise FormatError("has a damaged GGUF head: its alignment is not a multiple of 8")
    tensors, at = _tensors(reader, at, count)
    return keys, -(-at // alignment) * alignment, tensors


def _is_text(keys: dict[str, Any], key: str) -> bool:
    return isinstance(keys.get(key), str)


def _keys(reader: Reader, at: int, count: int) -> tuple[dict[str, Any], int]:
    found: dict[str, Any] = {}
    for _ in range(count):
        key, at = _text(reader, at, 65_535)
        kind = reader.number(at, "I")
        template = key == CHAT_TEMPLATE and kind == _STRING
        value, at = _text(reader, at + 4, reader.size, _TEMPLATE_BYTES) if template else _value(reader, at + 4, kind)
        if template or key.startswith("general.") or key.endswith(_KEPT):
            found[key] = value
    return found, at


def _value(reader: Reader, at: int, kind: int, depth: int = 0) -> tuple[Any, int]:
    """Returns a value (None for what we do not keep) and where the next thing begins."""
    if kind == _STRING:
        return _text(reader, at, reader.size)
    if kind == _ARRAY and depth < 4:
        inner, count, at = reader.number(at, "I"), reader.number(at + 4, "Q"), at + 12
        if inner in _SIZES:
            return None, _within(reader, at + count * _SIZES[inner])
        if count > reader.size:
            raise FormatError("is cut short in the middle of its keys")
        for _ in range(count):
            _, at = _value(reader, at, inner, depth + 1)
        return None, at
    if kind not in _SIZES:
        raise FormatError(f"has a damaged GGUF head: value type {kind}")
    value = reader.number(at, _NUMBERS[kind]) if kind in _NUMBERS else None
    return value, _within(reader, at + _SIZES[kind])


def _text(reader: Reader, at: int, most: int, kept: int = _TEXT_BYTES) -> tuple[str, int]:
    length = reader.number(at, "Q")
    if length > most:
        raise FormatError("is cut short or has a damaged GGUF head: a text is longer than the file")
    text = reader.at(at + 8, min(length, kept)).decode(errors="replace")
    return text, _within(reader, at + 8 + length)


def _within(reader: Reader, at: int) -> int:
    if at > reader.size:
        raise FormatError(f"is cut short: it has {reader.size} bytes and its head goes on to {at}")
    return at


def _tensors(reader: Reader, at: int, count: int) -> tuple[list[Tensor], int]:
    """Returns the heads of tensors, and where the last of them ends."""
    found = []
    for _ in range(count):
        name, at = _text(reader, at, 65_535)
        dimensions = reader.number(at, "I")
        if dimensions > 8:
            raise FormatError(f"has a damaged GGUF head: the tensor {name[:80]!r} has {dimensions} dimensions")
        elements = math.prod(reader.number(at + 4 + 8 * index, "Q") for index in range(dimensions))
        at += 4 + 8 * dimensions
        kind, offset = reader.number(at, "I"), reader.number(at + 4, "Q")
        at += 12
        block, size = _BLOCKS.get(kind, (1, 0))
        found.append(Tensor(name, offset, -(-elements // block) * size, elements))
    return found, at
