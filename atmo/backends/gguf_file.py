"""What a GGUF file tells of its model, and what running it would take of a machine's memory.

The file may come from a peer, so it is read here within bounds before llama.cpp ever sees it: llama.cpp's own reader
runs in a child only.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from atmo.storage.formats import gguf
from atmo.storage.formats.reader import FormatError, Reader

MIB = 1024**2

HEAD_MOST_BYTES = 64 * MIB
"""Of keys and tensor heads. Source: guess; a vocabulary of 256,000 tokens with its merges has 16 MiB."""

TENSORS_MOST = 65_536
LAYERS_MOST = 4_096
WIDTH_MOST = 1 << 20
CONTEXT_MOST = 1 << 24
"""Bounds against absurd values. Source: guess; ten times the largest models known."""

SLOTS = 4
"""Requests at once where memory allows. Source: guess; more than that only slow each other down on processors."""

USUAL_CONTEXT = 8_192
"""Tokens for which rather fewer requests run at once. Source: guess; a long conversation, or a file of a program."""

SLOT_CONTEXT_MOST = 32_768
"""Tokens of one request. Source: guess; a processor reads more than that in minutes only."""

CACHE_LEAST_BYTES = 1024 * MIB
CACHE_SHARE = 4
"""The cache of keys and values may have as much as the weights, 1 GiB at least, a quarter of the memory at most."""

BATCH = 512
"""Tokens computed at once. Source: llama.cpp's default of n_ubatch."""

PROCESS_BYTES = 256 * MIB
"""Python, llama.cpp's code and its small buffers. Source: 93 MiB measured with a model of 0.5 MB."""


class BadGguf(ValueError):
    """The file cannot be run here; the message is a sentence without the file's name."""


@dataclass(frozen=True, slots=True)
class GgufFacts:
    """What a file says of its model.

    Attributes:
        architecture: Such as `llama`.
        quantization: Such as `Q4_K_M`, empty where the file does not say.
        parameters: Their number.
        context: Tokens that the model was made for.
        embeds: It turns texts into vectors; else it chats.
        takes_tools: How it writes down a conversation knows tools.
        token_bytes: What one token takes in the cache of keys and values.
        batch_bytes: What one batch takes while it is computed.
        size: Of the file, in bytes.
    """

    architecture: str
    quantization: str
    parameters: int
    context: int
    embeds: bool
    takes_tools: bool
    token_bytes: int
    batch_bytes: int
    size: int


@dataclass(frozen=True, slots=True)
class Plan:
    """How a model is run on this machine.

    Attributes:
        context: Tokens of one request with its answer.
        slots: Requests at once.
        need_bytes: Memory that it takes: weights, cache and buffers.
    """

    context: int
    slots: int
    need_bytes: int


def read_facts_untrusted(path: Path) -> GgufFacts:
    """Reads the head of a file.

    Raises:
        BadGguf: It is damaged, cut short, or nothing that llama.cpp runs as a language model.
        OSError: It cannot be read.
    """
    size = path.stat().st_size
    try:
        with Reader(path, HEAD_MOST_BYTES) as reader:
            if reader.start(4) != gguf.MAGIC:
                raise FormatError("is no GGUF file")
            keys, data_at, tensors = gguf.read_head(reader, TENSORS_MOST)
    except FormatError as error:
        raise BadGguf(f"the file {error}") from error
    end = data_at + max((tensor.offset + tensor.size for tensor in tensors), default=0)
    if end > size:
        raise BadGguf(f"the file is cut short: its tensors need {end} bytes and {size} are there")
    architecture = keys.get("general.architecture")
    if not isinstance(architecture, str) or not architecture or not tensors:
        raise BadGguf("the file names no architecture, or has no tensors")
    return _facts(architecture, keys, tensors, size)


def _facts(architecture: str, keys: dict[str, Any], tensors: list[gguf.Tensor], size: int) -> GgufFacts:
    def number(name: str, most: int, default: int) -> int:
        value = keys.get(f"{architecture}.{name}")
        # Some files have an array here, one number for each layer: the caller's upper bound stands for it.
        if value is None:
            return default
        if type(value) is not int or not 0 < value <= most:
            raise BadGguf(f"the file says that {name} is {str(value)[:20]}")
        return value

    width = number("embedding_length", WIDTH_MOST, 0)
    layers = number("block_count", LAYERS_MOST, 0)
    context = number("context_length", CONTEXT_MOST, 0)
    if not width or not layers or not context:
        raise BadGguf(f"the file does not say how large its model of the architecture {architecture[:40]} is")
    heads = number("attention.head_count", WIDTH_MOST, 1)
    kept_heads = number("attention.head_count_kv", WIDTH_MOST, heads)
    key = number("attention.key_length", WIDTH_MOST, max(1, width // heads))
    value = number("attention.value_length", WIDTH_MOST, key)
    parameters = sum(tensor.elements for tensor in tensors)
    tokens = next((tensor.elements // width for tensor in tensors if tensor.name == "token_embd.weight"), 0)
    pooling = keys.get(f"{architecture}.pooling_type")
    if pooling == _RANKS:
        raise BadGguf("the model ranks texts, which no operation of this version asks for")
    template = keys.get(gguf.CHAT_TEMPLATE)
    template = template if isinstance(template, str) else ""
    return GgufFacts(
        architecture=architecture[:64],
        quantization=gguf.quantization(keys),
        parameters=parameters,
        context=context,
        embeds=gguf.embeds(keys),
        takes_tools="tools" in template,
        token_bytes=layers * kept_heads * (key + value) * 2,
        batch_bytes=BATCH * 4 * (tokens + 12 * width),
        size=size,
    )


_RANKS = 4
"""Source: llama.h, enum llama_pooling_type."""


def plan_for(facts: GgufFacts, total_bytes: int) -> Plan:
    """Returns how a model is run on a machine with so much memory: rather fewer requests than a short context."""
    if facts.embeds:
        context, slots = min(facts.context, USUAL_CONTEXT), 1
        # All tokens of a text are one batch.
        batch = facts.batch_bytes * -(-context // BATCH)
        return Plan(context, slots, facts.size + facts.token_bytes * context + batch + PROCESS_BYTES)
    cache = min(total_bytes // CACHE_SHARE, max(CACHE_LEAST_BYTES, facts.size))
    tokens = cache // max(1, facts.token_bytes)
    wanted = min(facts.context, SLOT_CONTEXT_MOST)
    enough = min(wanted, USUAL_CONTEXT)
    slots = next((slots for slots in (SLOTS, SLOTS // 2) if tokens // slots >= enough), 1)
    context = max(BATCH, min(wanted, tokens // slots // 256 * 256))
    need = facts.size + facts.token_bytes * context * slots + facts.batch_bytes + PROCESS_BYTES
    return Plan(context, slots, need)
