"""The embedder against the float model, and its behaviour at the edges."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import trio

from atmo.backends import embedder
from atmo.backends.embedder import DIMENSIONS, MAX_TOKENS, Embedder
from atmo.errors import UserError

DATA = Path(__file__).parent / "data"
SENTENCES: list[str] = json.loads((DATA / "sentences.json").read_text(encoding="utf-8"))
REFERENCE = np.load(DATA / "reference_vectors.npy")
SHARED = Embedder()


def test_vectors_are_those_of_the_float_model() -> None:
    vectors = SHARED.embed_now(SENTENCES)
    assert vectors.shape == (50, DIMENSIONS)
    assert vectors.dtype == np.dtype(np.float32)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    cosines = (vectors * REFERENCE).sum(axis=1)
    assert cosines.min() >= 0.98
    assert cosines.mean() >= 0.995


def test_the_sentences_span_all_lengths() -> None:
    lengths = [SHARED.count_tokens(text) for text in SENTENCES]
    assert min(lengths) == 3
    assert max(lengths) > MAX_TOKENS
    assert len(set(lengths)) > 30


async def test_embed_gives_what_embed_now_gives() -> None:
    fresh = Embedder()
    np.testing.assert_array_equal(await fresh.embed(SENTENCES[:14]), Embedder().embed_now(SENTENCES[:14]))


def test_a_text_has_the_same_vector_in_any_company() -> None:
    alone = Embedder().embed_now([SENTENCES[12]])[0]
    with_others = Embedder().embed_now([SENTENCES[44], SENTENCES[12], "x", SENTENCES[13]])[1]
    assert alone @ with_others > 0.9999


def test_a_text_is_cut_to_what_the_model_reads() -> None:
    words = "one two three four five six seven eight nine ten " * 60
    vectors = SHARED.embed_now([words, words + "and a different end"])
    assert SHARED.count_tokens(words) == 602
    np.testing.assert_array_equal(vectors[0], vectors[1])


@pytest.mark.parametrize("text", ["", " ", "\x00", "\ufffd" * 40, "a" * 100_000, "\n" * 100_000, "\U0001f680"])
def test_odd_texts_have_a_vector_too(text: str) -> None:
    (vector,) = SHARED.embed_now([text])
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)


async def test_no_texts_give_no_vectors() -> None:
    assert SHARED.embed_now([]).shape == (0, DIMENSIONS)
    assert (await SHARED.embed([])).shape == (0, DIMENSIONS)


def test_texts_that_mean_the_same_are_near() -> None:
    question, same, other = SHARED.embed_now(
        ["How do I change my password?", "steps to reset a forgotten password", "grilled fish with lemon"]
    )
    assert question @ same > 0.5
    assert question @ other < 0.2


def test_short_texts_are_remembered_up_to_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedder, "CACHED_TEXTS", 2)
    fresh = Embedder()
    first = fresh.embed_now(["a", "b"])
    np.testing.assert_array_equal(fresh.embed_now(["b", "a", "a"]), first[[1, 0, 0]])
    fresh.embed_now(["c", "long " * 200])
    assert list(fresh._cache) == ["a", "c"]


def test_a_caller_cannot_change_what_is_remembered() -> None:
    fresh = Embedder()
    fresh.embed_now(["a"])[:] = 0
    vectors = fresh.embed_now(["a"])
    vectors[:] = 0
    assert np.linalg.norm(fresh.embed_now(["a"])[0]) == pytest.approx(1, abs=1e-5)


async def test_concurrent_calls_each_get_their_own() -> None:
    fresh = Embedder()
    results = {}

    async def ask(place: int) -> None:
        results[place] = await fresh.embed([SENTENCES[place]])

    async with trio.open_nursery() as nursery:
        for place in range(8):
            nursery.start_soon(ask, place)
    for place, vectors in results.items():
        assert vectors[0] @ REFERENCE[place] > 0.98


async def test_cancelling_stops_between_batches() -> None:
    fresh = Embedder()
    with trio.CancelScope() as scope:
        scope.cancel()
        await fresh.embed(SENTENCES)
    assert scope.cancelled_caught
    assert (await fresh.embed(["x"])).shape == (1, DIMENSIONS)


def test_batches_hold_similar_lengths_within_the_bounds() -> None:
    rows = [[0] * length for length in [5, 250, 7, 250, 250, 250, 250, 6] + [3] * 40]
    batches = embedder._batches(rows)
    assert sorted(index for batch in batches for index in batch) == list(range(len(rows)))
    for batch in batches:
        assert len(batch) <= embedder.BATCH_TEXTS
        assert len(batch) * max(len(rows[index]) for index in batch) <= embedder.BATCH_TOKENS


def test_token_ids_are_decoded() -> None:
    assert SHARED.decode([7592, 2088]) == "hello world"
    with pytest.raises(ValueError, match="between 0 and 30521"):
        SHARED.decode([30_522])


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"tokenizer\.json is missing"):
        Embedder(tmp_path).embed_now(["a"])


def test_the_runtime_is_kept_from_telling_its_makers(tmp_path: Path) -> None:
    """onnxruntime's telemetry would leave a session file where temporary files go."""
    hidden = ("ORT_DISABLE_TELEMETRY", "CI")
    environment = {name: value for name, value in os.environ.items() if name not in hidden} | {"TMPDIR": str(tmp_path)}
    code = "from atmo.backends.embedder import Embedder; print(Embedder().embed_now(['x']).shape)"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "(1, 384)\n"
    assert list(tmp_path.iterdir()) == []
