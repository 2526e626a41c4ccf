"""What a GGUF file says of itself: read within bounds, whoever wrote it."""

from __future__ import annotations

import random
import struct
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from atmo.backends.gguf_file import BATCH, MIB, BadGguf, GgufFacts, plan_for, read_facts_untrusted
from tests.backends.gguf_kit import chat_file, embedder_file

GIB = 1024 * MIB

EIGHT_B = GgufFacts(
    architecture="llama",
    quantization="Q4_K_M",
    parameters=8_030_000_000,
    context=131_072,
    embeds=False,
    takes_tools=True,
    token_bytes=32 * 8 * 128 * 2 * 2,
    batch_bytes=BATCH * 4 * (128_256 + 12 * 4_096),
    size=4_920_000_000,
)
"""Llama 3.1 with 8 billion parameters."""


def test_facts_of_a_chat_model_and_of_an_embedder() -> None:
    facts = read_facts_untrusted(chat_file())
    assert (facts.architecture, facts.quantization, facts.context) == ("llama", "F32", 2_048)
    assert (facts.parameters, facts.token_bytes) == (115_648, 2 * 2 * 64 * 2)
    assert facts.takes_tools
    assert not facts.embeds
    assert not read_facts_untrusted(chat_file("")).takes_tools
    vectors = read_facts_untrusted(embedder_file())
    assert vectors.embeds
    assert vectors.context == 512


def test_memory_decides_how_many_requests_and_how_long_they_may_be() -> None:
    large = plan_for(EIGHT_B, 64 * GIB)
    assert (large.slots, large.context) == (4, 9_216)
    assert large.need_bytes < 11 * GIB
    small = plan_for(EIGHT_B, 8 * GIB)
    assert (small.slots, small.context) == (2, 8_192)
    tiny = plan_for(EIGHT_B, 2 * GIB)
    assert (tiny.slots, tiny.context) == (1, 4_096)
    short = plan_for(replace(EIGHT_B, context=2_048), 8 * GIB)
    assert (short.slots, short.context) == (4, 2_048)
    vectors = plan_for(replace(EIGHT_B, embeds=True, context=512), 8 * GIB)
    assert (vectors.slots, vectors.context) == (1, 512)


WIDTH = b"llama.embedding_length"


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        (b"llama.block_count", b"llama.block_coumt", "does not say how large"),
        (b"general.architecture", b"general.architektur_", "names no architecture"),
        (WIDTH + struct.pack("<II", 4, 64), WIDTH + struct.pack("<II", 4, 2**31), "embedding_length is 2147483648"),
        (b"GGUF", b"GGML", "no GGUF file"),
        (struct.pack("<I", 3) + struct.pack("<Q", 21), struct.pack("<I", 9) + struct.pack("<Q", 21), "version 9"),
    ],
)  # fmt: skip
def test_files_that_say_nonsense(tmp_path: Path, old: bytes, new: bytes, why: str) -> None:
    data = chat_file().read_bytes()
    assert old in data
    path = tmp_path / "bad.gguf"
    path.write_bytes(data.replace(old, new, 1))
    with pytest.raises(BadGguf, match=why):
        read_facts_untrusted(path)


def test_a_reranker_is_none_of_ours(tmp_path: Path) -> None:
    key = struct.pack("<Q", 17) + b"bert.pooling_type" + struct.pack("<I", 4)
    path = tmp_path / "ranks.gguf"
    path.write_bytes(embedder_file().read_bytes().replace(key + struct.pack("<I", 1), key + struct.pack("<I", 4)))
    with pytest.raises(BadGguf, match="ranks texts"):
        read_facts_untrusted(path)


@pytest.mark.parametrize("size", [0, 3, 4, 24, 100, 5_000, 300_000])
def test_files_that_are_cut_short(tmp_path: Path, size: int) -> None:
    path = tmp_path / "cut.gguf"
    path.write_bytes(chat_file().read_bytes()[:size])
    with pytest.raises(BadGguf):
        read_facts_untrusted(path)


def test_heads_that_were_tampered_with_are_read_or_refused(tmp_path: Path) -> None:
    data = chat_file().read_bytes()
    path = tmp_path / "any.gguf"
    draw = random.Random(7)
    for _ in range(300):
        changed = bytearray(data)
        for _ in range(draw.randint(1, 8)):
            changed[draw.randrange(4, 9_000)] = draw.randrange(256)
        path.write_bytes(changed)
        with suppress(BadGguf):
            assert plan_for(read_facts_untrusted(path), 8 * GIB).context > 0
