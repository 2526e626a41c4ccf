"""The built-in sentence embedder: all-MiniLM-L6-v2 with int8 weights, run by onnxruntime.

`tools/build_embedder.py` makes the model file. Vectors of texts with a similar meaning have a large dot product; every
vector has length 1. A text's vector does not depend on what else is embedded with it.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import trio
from blake3 import blake3
from numpy.typing import NDArray

from atmo.errors import UserError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

MODEL = "all-minilm-l6-v2"
DIMENSIONS = 384
MAX_TOKENS = 256
"""Source: `max_seq_length` of sentence-transformers/all-MiniLM-L6-v2."""

MAX_CHARS = 16_384
"""What is read of a text before it is cut to `MAX_TOKENS`: ten times what 256 tokens of English take."""

BATCH_TEXTS = 32
BATCH_TOKENS = 1_024
"""Padded tokens of one run: about 0.1 s here, which bounds how long a cancellation or another caller waits."""

ENCODED_TEXTS = 256
"""Texts turned into tokens at once: a second for the longest ones."""

CACHED_TEXTS = 1_024
CACHED_CHARS = 512
"""Only texts up to this length are remembered: requests come again, passages of documents do not."""

DATA = Path(__file__).parent / "data" / MODEL

Vectors = NDArray[np.float32]


class Embedder:
    """Turns texts into float32[n, 384].

    The model is loaded by the first use (about 0.3 s), the tokenizer alone by `count_tokens` and `decode` (0.05 s).
    Calls may come from any thread.

    Args:
        folder: Holds `model.onnx` and `tokenizer.json`.
        threads: Threads of one run. One is best while others need the processor too.
    """

    def __init__(self, folder: Path = DATA, threads: int = 1) -> None:
        self._folder = folder
        self._threads = threads
        self._lock = threading.Lock()
        self._loading = threading.Lock()
        self._opened_session: Any = None
        self._opened_tokenizer: Tokenizer | None = None
        self._fingerprint: bytes | None = None
        self._cache: OrderedDict[str, Vectors] = OrderedDict()
        self._limiter = trio.CapacityLimiter(1)

    async def embed(self, texts: Sequence[str]) -> Vectors:
        """Embeds in a worker thread, batch by batch, so that callers with few texts get their turn in between.

        Args:
            texts: Any number of texts. A text longer than 256 tokens is cut there, as the original model does.

        Returns:
            float32[n, 384], rows of length 1 in the order of `texts`.
        """
        out = np.zeros((len(texts), DIMENSIONS), np.float32)
        for missing in _slices(self._take_cached(texts, out)):
            rows = await self._in_thread(self._encode_all, [texts[index] for index in missing])
            for batch in _batches(rows):
                vectors = await self._in_thread(self._run, [rows[place] for place in batch])
                self._keep(texts, out, [missing[place] for place in batch], vectors)
        await trio.lowlevel.checkpoint()
        return out

    def embed_now(self, texts: Sequence[str]) -> Vectors:
        """Does what `embed` does in the calling thread, which it blocks."""
        out = np.zeros((len(texts), DIMENSIONS), np.float32)
        for missing in _slices(self._take_cached(texts, out)):
            rows = self._encode_all([texts[index] for index in missing])
            for batch in _batches(rows):
                vectors = self._run([rows[place] for place in batch])
                self._keep(texts, out, [missing[place] for place in batch], vectors)
        return out

    async def tokens_read(self, texts: Sequence[str]) -> int:
        """Returns how many tokens the model reads of all `texts` together."""
        total = 0
        for places in _slices(range(len(texts))):
            rows = await self._in_thread(self._encode_all, [texts[place] for place in places])
            total += sum(map(len, rows))
        return total

    def count_tokens(self, text: str) -> int:
        """Returns how many tokens `text` has, with the two that mark its ends and without any limit."""
        return len(self._tokenizer().encode(text).ids)

    def beginning(self, text: str, tokens: int) -> str:
        """Returns as much of `text` as `tokens` of its tokens are."""
        ends = [end for start, end in self._tokenizer().encode(text).offsets if end > start]
        return text if len(ends) <= tokens else text[: ends[tokens - 1]]

    def decode(self, ids: Sequence[int]) -> str:
        """Returns the text of token ids of this model.

        Raises:
            ValueError: An id is not in the vocabulary.
        """
        tokenizer = self._tokenizer()
        size = tokenizer.get_vocab_size()
        if not all(0 <= token < size for token in ids):
            raise ValueError(f"token ids of {MODEL} are between 0 and {size - 1}")
        return str(tokenizer.decode(list(ids)))

    def load(self) -> None:
        """Opens the model ahead of the first text; blocks, for the most part without Python's lock."""
        self._session()
        self._tokenizer()

    def fingerprint(self) -> bytes:
        """Returns 32 bytes that differ between models: vectors of different ones cannot be compared. Blocks."""
        with self._loading:
            if self._fingerprint is None:
                self._fingerprint = blake3(
                    b"".join(self._file(name).read_bytes() for name in ("model.onnx", "tokenizer.json"))
                ).digest()
            return self._fingerprint

    async def _in_thread(self, function: Any, argument: Any) -> Any:
        return await trio.to_thread.run_sync(function, argument, limiter=self._limiter)

    def _take_cached(self, texts: Sequence[str], out: Vectors) -> list[int]:
        missing = []
        with self._lock:
            for index, text in enumerate(texts):
                vector = self._cache.get(text)
                if vector is None:
                    missing.append(index)
                else:
                    self._cache.move_to_end(text)
                    out[index] = vector
        return missing

    def _keep(self, texts: Sequence[str], out: Vectors, indices: Iterable[int], vectors: Vectors) -> None:
        with self._lock:
            for index, vector in zip(indices, vectors, strict=True):
                out[index] = vector
                if len(texts[index]) <= CACHED_CHARS:
                    self._cache[texts[index]] = vector.copy()
            while len(self._cache) > CACHED_TEXTS:
                self._cache.popitem(last=False)

    def _encode_all(self, texts: Sequence[str]) -> list[list[int]]:
        tokenizer = self._tokenizer()
        return [_cut(tokenizer.encode(text[:MAX_CHARS]).ids) for text in texts]

    def _run(self, rows: Sequence[list[int]]) -> Vectors:
        session = self._session()
        ids = np.zeros((len(rows), max(map(len, rows))), np.int64)
        mask = np.zeros_like(ids)
        for index, row in enumerate(rows):
            ids[index, : len(row)] = row
            mask[index, : len(row)] = 1
        (vectors,) = session.run(["embedding"], {"input_ids": ids, "attention_mask": mask})
        return np.asarray(vectors, np.float32)

    def _session(self) -> Any:
        with self._loading:
            if self._opened_session is None:
                import onnxruntime

                options = onnxruntime.SessionOptions()
                options.intra_op_num_threads = self._threads
                options.inter_op_num_threads = 1
                options.log_severity_level = 3
                # The arena and its patterns would keep 30 MB for shapes that do not come again.
                options.enable_cpu_mem_arena = False
                options.enable_mem_pattern = False
                model = self._file("model.onnx")
                self._opened_session = onnxruntime.InferenceSession(
                    str(model), options, providers=["CPUExecutionProvider"]
                )
            return self._opened_session

    def _tokenizer(self) -> Tokenizer:
        with self._loading:
            if self._opened_tokenizer is None:
                from tokenizers import Tokenizer

                self._opened_tokenizer = Tokenizer.from_file(str(self._file("tokenizer.json")))
            return self._opened_tokenizer

    def _file(self, name: str) -> Path:
        path = self._folder / name
        if not path.is_file():
            raise UserError(f"The embedder's file {path} is missing.", "Install the package again.")
        return path


def _slices(indices: Sequence[int]) -> Iterator[Sequence[int]]:
    for start in range(0, len(indices), ENCODED_TEXTS):
        yield indices[start : start + ENCODED_TEXTS]


def _cut(ids: list[int]) -> list[int]:
    return ids if len(ids) <= MAX_TOKENS else ids[: MAX_TOKENS - 1] + ids[-1:]


def _batches(rows: Sequence[list[int]]) -> list[list[int]]:
    """Groups indices of `rows` by similar length, each group within `BATCH_TEXTS` and `BATCH_TOKENS`."""
    batches: list[list[int]] = []
    for index in sorted(range(len(rows)), key=lambda place: len(rows[place])):
        last = batches[-1] if batches else []
        if not last or len(last) >= BATCH_TEXTS or len(rows[index]) * (len(last) + 1) > BATCH_TOKENS:
            batches.append([index])
        else:
            last.append(index)
    return batches
