"""A chunk told as its difference to another: what travels of a model all of whose weights moved a little.

A delta is one byte, then one zstandard frame. The byte is the width of words in bytes (1, 2, 4 or 8): the frame then
holds the differences of the words of both chunks, both read with the lowest byte first, each difference d as 2d or
-2d - 1 so that small ones of either sign are small, all their lowest bytes first, then all the next, and at the end the
bytes that fill no word, as they are. Or the byte is 0: the frame holds the chunk, with the base as what came before it.

numpy and zstandard let other threads run while they work.
"""

from __future__ import annotations

from typing import Final

import zstandard
from zstandard import ZstdCompressionDict, ZstdCompressionParameters, ZstdCompressor, ZstdDecompressor, ZstdError

from atmo.errors import WireError
from atmo.wire import limits

PREFIX: Final = 0
WIDTHS: Final = (4, 2, 1, 8)
"""In the order in which they are preferred."""

SAVES_PERCENT: Final = 5
"""What a delta must save at least, so that it is worth the work at both ends. Source: guess."""

_SAMPLES: Final = 4
_SAMPLE_BYTES: Final = 16 * 1024
_GOOD_PERCENT: Final = 60
"""A sample told in fewer percent of its bytes has the right width; else the whole chunk is tried in both ways. Source:
docs/measurements.md, "Deltas": moved float32 weights need 50 %."""

_LEVEL: Final = 1
"""Of zstandard: among differences higher ones find matches that are worth less than they cost. Source:
docs/measurements.md, "Deltas"."""

_WINDOW_LOG: Final = (2 * limits.CHUNK_BYTES - 1).bit_length()
"""A window over base and chunk: a shorter one would lose the base."""

_HASH_LOG_LEAST: Final = 12

Bytes = bytes | bytearray | memoryview


def encode(chunk: Bytes, base: Bytes) -> bytes | None:
    """Returns the delta that makes `chunk` of `base`, None where that saves too little."""
    chunk, base = memoryview(chunk).cast("B"), memoryview(base).cast("B")
    deltas = []
    if len(chunk) == len(base):
        width, percent = _best_width(chunk, base)
        deltas.append(_encode_words(chunk, base, width))
        if percent > _GOOD_PERCENT:
            deltas.append(_encode_prefix(chunk, base))
    else:
        deltas.append(_encode_prefix(chunk, base))
    best = min(deltas, key=len)
    return best if 100 * len(best) <= (100 - SAVES_PERCENT) * len(chunk) else None


def decode_untrusted(delta: Bytes, base: Bytes, size: int) -> bytes:
    """Returns the chunk that a delta makes of a base; the caller compares its hash.

    Args:
        delta: As `encode` made it.
        base: The chunk that the encoder was given; of any other something else comes out.
        size: Of the chunk in bytes, at most `limits.CHUNK_BYTES`.

    Raises:
        WireError: It is no delta of a chunk of that size.
    """
    delta, base = memoryview(delta).cast("B"), memoryview(base).cast("B")
    if not 1 < len(delta) <= size <= limits.CHUNK_BYTES:
        raise WireError(f"a delta of {len(delta)} bytes for a chunk of {size} bytes")
    width = delta[0]
    if width == PREFIX:
        return _decompress_untrusted(delta[1:], size, _prefix(base))
    if width not in WIDTHS or len(base) != size:
        raise WireError(f"a delta with words of {width} bytes for a base of {len(base)} and a chunk of {size} bytes")
    return _add(_decompress_untrusted(delta[1:], size, None), base, width)


def _best_width(chunk: memoryview, base: memoryview) -> tuple[int, float]:
    """Tries all widths on samples; returns the best with the share of bytes that it needs, in percent."""
    sample, before = _sample(chunk), _sample(base)
    sizes = {width: len(_encode_words(sample, before, width)) for width in WIDTHS}
    best = min(WIDTHS, key=lambda width: sizes[width])
    return best, 100 * sizes[best] / max(1, len(sample))


def _sample(data: memoryview) -> memoryview:
    """Returns bytes from all over a chunk, cut where words of any width begin; all of a small one."""
    step = len(data) // _SAMPLES // 8 * 8
    if step <= _SAMPLE_BYTES:
        return data
    return memoryview(b"".join(data[at : at + _SAMPLE_BYTES] for at in range(0, step * _SAMPLES, step)))


def _encode_words(chunk: memoryview, base: memoryview, width: int) -> bytes:
    import numpy as np  # as in `storage.cutting`

    count = len(chunk) // width
    words, before = (np.frombuffer(data, f"<u{width}", count) for data in (chunk, base))
    change = words - before
    signs = (change.view(f"<i{width}") >> (8 * width - 1)).view(f"<u{width}")
    change = (change << 1) ^ signs
    planes = np.ascontiguousarray(change.view(np.uint8).reshape(count, width).T)
    compressor = ZstdCompressor(level=_LEVEL)
    return bytes([width]) + compressor.compress(planes.tobytes() + chunk[count * width :])


def _add(planes: bytes, base: memoryview, width: int) -> bytes:
    """Undoes `_encode_words`."""
    import numpy as np

    count = len(base) // width
    rows = np.frombuffer(planes, np.uint8, count * width).reshape(width, count)
    change = np.ascontiguousarray(rows.T).reshape(-1).view(f"<u{width}")
    one = change.dtype.type(1)
    change = (change >> one) ^ (~(change & one) + one)
    words: bytes = (np.frombuffer(base, f"<u{width}", count) + change).tobytes()
    return words + planes[count * width :]


def _prefix(base: memoryview) -> ZstdCompressionDict:
    return ZstdCompressionDict(base, dict_type=zstandard.DICT_TYPE_RAWCONTENT)


def _encode_prefix(chunk: memoryview, base: memoryview) -> bytes:
    """With a table of hashes that is large enough to hold all of the base, which those of the lower levels are not."""
    parameters = ZstdCompressionParameters.from_level(
        _LEVEL, window_log=_WINDOW_LOG, hash_log=max(_HASH_LOG_LEAST, len(base).bit_length() - 3)
    )
    compressor = ZstdCompressor(dict_data=_prefix(base), compression_params=parameters)
    return bytes([PREFIX]) + compressor.compress(chunk)


def _decompress_untrusted(frame: memoryview, size: int, prefix: ZstdCompressionDict | None) -> bytes:
    """Decompresses one frame that says beforehand that it has `size` bytes and looks back no further than ours."""
    try:
        said = zstandard.get_frame_parameters(frame)
        if said.content_size != size or said.window_size > 2**_WINDOW_LOG:
            raise WireError(f"a delta that is not for a chunk of {size} bytes")
        return ZstdDecompressor(dict_data=prefix).decompress(frame, max_output_size=size, allow_extra_data=False)
    except ZstdError as error:
        raise WireError(f"a delta that does not decompress: {error}") from error
