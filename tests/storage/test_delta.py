from __future__ import annotations

from contextlib import suppress
from random import Random

import numpy as np
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from atmo.errors import WireError
from atmo.storage import delta
from atmo.wire import limits

KIB = 1024


def moved(kind: str, count: int = 64 * KIB) -> tuple[bytes, bytes]:
    """Weights, and the same moved by a thousandth."""
    random = np.random.default_rng(1)
    before = random.standard_normal(count) * 0.02
    after = before * (1 + 1e-3 * random.standard_normal(count))
    if kind == "bfloat16":
        return tuple(
            (values.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16).tobytes() for values in (before, after)
        )  # type: ignore[return-value]
    return before.astype(kind).tobytes(), after.astype(kind).tobytes()


def told(chunk: bytes, base: bytes) -> bytes:
    """Returns the delta, once it was seen to be undone."""
    made = delta.encode(chunk, base)
    assert made is not None
    assert delta.decode_untrusted(made, base, len(chunk)) == chunk
    return made


@pytest.mark.parametrize(
    ("kind", "width", "percent"), [("float32", 4, 52), ("float16", 2, 23), ("bfloat16", 2, 12), ("float64", 8, 85)]
)
def test_moved_weights(kind: str, width: int, percent: int) -> None:
    base, chunk = moved(kind)
    made = told(chunk, base)
    assert made[0] == width
    assert len(made) < percent * len(chunk) / 100


def test_moved_bytes() -> None:
    random = np.random.default_rng(2)
    base = random.integers(0, 256, 100_003, np.uint8)
    chunk = base + random.integers(0, 2, 100_003, np.uint8)
    made = told(chunk.tobytes(), base.tobytes())
    assert made[0] == 1
    assert len(made) < 22_000


def test_bytes_that_fill_no_word() -> None:
    base, chunk = moved("float32")
    assert told(chunk + b"abc", base + b"xyz")[0] == 4


def test_what_was_put_in_is_told_by_what_was_before() -> None:
    base = Random(1).randbytes(300_000)
    made = told(base[:5_000] + b"put in" + base[5_000:], base)
    assert made[0] == delta.PREFIX
    assert len(made) < 1_000
    assert told(base[:5_000] + b"put in" + base[5_000:-6], base)[0] == delta.PREFIX


def test_the_largest_chunks() -> None:
    base = Random(2).randbytes(limits.CHUNK_BYTES)
    assert len(told(b"x" + base[:-1], base)) < 5_000
    assert len(told(base[:-1], base)) < 5_000


@pytest.mark.parametrize("size", [0, 1, 2, 3, 7, 100])
def test_small_chunks(size: int) -> None:
    data = Random(size).randbytes(size)
    assert delta.encode(data, b"") is None
    assert (delta.encode(data, data) is None) == (size < 100)


def test_what_has_nothing_in_common_has_no_delta() -> None:
    random = Random(3)
    assert delta.encode(random.randbytes(200_000), random.randbytes(200_000)) is None
    assert delta.encode(random.randbytes(200_000), random.randbytes(100)) is None


def test_another_base_makes_other_bytes() -> None:
    base, chunk = moved("float32")
    made = delta.encode(chunk, base)
    assert made is not None
    assert delta.decode_untrusted(made, bytes(len(base)), len(chunk)) != chunk


BASE, CHUNK = moved("float32", 8 * KIB)
MADE = told(CHUNK, BASE)
SIZE = len(CHUNK)


def frame(data: bytes, says_size: bool = True) -> bytes:
    return zstandard.ZstdCompressor(write_content_size=says_size).compress(data)


@pytest.mark.parametrize(
    ("why", "made", "base", "size"),
    [
        ("a delta of 0 bytes", b"", BASE, SIZE),
        ("a delta of 1 bytes", b"\x00", BASE, SIZE),
        ("for a chunk of 100 bytes", MADE, BASE, 100),
        ("for a chunk of 4194305 bytes", MADE, BASE, limits.CHUNK_BYTES + 1),
        ("words of 3 bytes", b"\x03" + MADE[1:], BASE, SIZE),
        ("words of 4 bytes", MADE, BASE[:-1], SIZE),
        ("not for a chunk", MADE, BASE + b"x", SIZE + 1),
        ("not for a chunk", b"\x00" + frame(bytes(2**26)), BASE, SIZE),
        ("not for a chunk", b"\x00" + frame(CHUNK[: SIZE // 2], says_size=False), BASE, SIZE),
        ("does not decompress", b"\x04garbage", BASE, SIZE),
        ("does not decompress", MADE[:-5], BASE, SIZE),
        ("does not decompress", MADE + b"more", BASE, SIZE),
        ("does not decompress", b"\x04" + frame(bytes(SIZE))[:-1], BASE, SIZE),
    ],
)
def test_deltas_that_are_none(why: str, made: bytes, base: bytes, size: int) -> None:
    with pytest.raises(WireError, match=why):
        delta.decode_untrusted(made, base + b"x" * (size - len(base)) * (why == "not for a chunk"), size)


def test_a_frame_cannot_ask_for_much_memory() -> None:
    wide = zstandard.ZstdCompressionParameters(window_log=27)
    stream = zstandard.ZstdCompressor(compression_params=wide).compressobj()
    unsized = stream.compress(bytes(SIZE)) + stream.flush()
    with pytest.raises(WireError, match="not for a chunk"):
        delta.decode_untrusted(b"\x00" + unsized, BASE, SIZE)
    assert zstandard.get_frame_parameters(unsized).window_size == 2**27
    # The same head with a size of content, in four bytes: a window of 128 MiB for a chunk of 32 KiB.
    sized = unsized[:4] + bytes([unsized[4] | 0x80]) + unsized[5:6] + SIZE.to_bytes(4, "little") + unsized[6:]
    assert zstandard.get_frame_parameters(sized).window_size == 2**27
    assert zstandard.get_frame_parameters(sized).content_size == SIZE
    with pytest.raises(WireError, match="not for a chunk"):
        delta.decode_untrusted(b"\x00" + sized, BASE, SIZE)


@given(st.binary(max_size=200), st.sampled_from([0, 1, 2, 4, 8]), st.integers(0, 300))
def test_only_wire_errors_come_out_of_garbage(data: bytes, width: int, at: int) -> None:
    for made in (bytes([width]) + data, MADE[:at] + data + MADE[at + len(data) :]):
        with suppress(WireError):
            assert len(delta.decode_untrusted(made, BASE, SIZE)) == SIZE


@given(st.binary(max_size=3_000), st.binary(max_size=3_000), st.booleans())
def test_every_delta_is_undone(chunk: bytes, base: bytes, same: bool) -> None:
    base = (base * 2)[: len(chunk)].ljust(len(chunk)) if same else base
    made = delta.encode(chunk, base)
    assert made is None or delta.decode_untrusted(made, base, len(chunk)) == chunk
