"""Vectors of passages survive a restart, and a damaged file costs only time."""

from pathlib import Path

import numpy as np
import pytest

from atmo.backends.embedder import DIMENSIONS, Embedder
from atmo.backends.passage_index import PassageIndex
from atmo.backends.vector_cache import VectorCache

EMBEDDER = Embedder()
TEXTS = ["a cat", "a dog", "half a pair \ud800"]


def vectors(count: int = 3) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    raw = np.random.default_rng(1).normal(size=(count, DIMENSIONS)).astype(np.float32)
    return np.asarray(raw / np.linalg.norm(raw, axis=1, keepdims=True), np.float32)


def test_what_was_saved_is_known_to_the_next_one(tmp_path: Path) -> None:
    path = tmp_path / "cache" / "x.npz"
    VectorCache(path, EMBEDDER).save(TEXTS, vectors())
    cache = VectorCache(path, EMBEDDER)
    np.testing.assert_allclose(cache.known(TEXTS), vectors(), atol=2e-4)
    np.testing.assert_array_equal(cache.known(["a dog"]), cache.known(TEXTS)[1:2])
    assert cache.known(["a cat", "new", "a dog"]).shape == (1, DIMENSIONS)
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(path.parent.iterdir()) == [path]


def test_nothing_is_known_at_first(tmp_path: Path) -> None:
    assert VectorCache(tmp_path / "x.npz", EMBEDDER).known(TEXTS).shape == (0, DIMENSIONS)
    cache = VectorCache(tmp_path / "y.npz", EMBEDDER)
    cache.save([], vectors(0))
    assert VectorCache(tmp_path / "y.npz", EMBEDDER).known(TEXTS).shape == (0, DIMENSIONS)


def test_vectors_of_another_model_are_not_known(tmp_path: Path) -> None:
    class Other(Embedder):
        def fingerprint(self) -> bytes:
            return bytes(32)

    VectorCache(tmp_path / "x.npz", EMBEDDER).save(TEXTS, vectors())
    assert len(VectorCache(tmp_path / "x.npz", Other()).known(TEXTS)) == 0


@pytest.mark.parametrize("damage", ["empty", "text", "cut", "wrong", "shape", "numbers", "objects"])
def test_a_damaged_file_is_made_anew(tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "x.npz"
    VectorCache(path, EMBEDDER).save(TEXTS, vectors())
    whole = path.read_bytes()
    if damage in ("empty", "text", "cut"):
        path.write_bytes({"empty": b"", "text": b"hello", "cut": whole[: len(whole) // 2]}[damage])
    else:
        keys = np.zeros((3, 16), np.uint8)
        arrays = {
            "wrong": {"other": keys},
            "shape": {"keys": keys, "vectors": np.zeros(3)},
            "numbers": {"keys": keys, "vectors": np.full((3, DIMENSIONS), np.nan)},
            "objects": {"keys": keys, "vectors": np.array([{}, {}, {}], object)},
        }[damage]
        np.savez(path, **arrays)  # type: ignore[arg-type]
    cache = VectorCache(path, EMBEDDER)
    assert len(cache.known(TEXTS)) == 0
    assert "made anew" in caplog.text
    cache.save(TEXTS, vectors())
    assert len(VectorCache(path, EMBEDDER).known(TEXTS)) == 3


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("in the way")
    cache = VectorCache(tmp_path / "file" / "x.npz", EMBEDDER)
    cache.save(TEXTS, vectors())
    assert "cannot keep vectors" in caplog.text
    assert len(cache.known(TEXTS)) == 3


async def test_an_index_starts_with_what_it_kept(tmp_path: Path) -> None:
    folder = tmp_path / "notes"
    folder.mkdir()
    (folder / "a.md").write_text("# Cats\n\nA kitten sleeps.\n\n# Dogs\n\nA puppy runs.")
    await PassageIndex(folder, EMBEDDER, tmp_path / "x.npz").refresh(60)
    index = PassageIndex(folder, EMBEDDER, tmp_path / "x.npz")
    await index.refresh(0)
    assert index.pending == 0
    (hit,) = await index.search("young dog", 1)
    assert hit.passage.source == "a.md#Dogs"
    (folder / "a.md").write_text("# Cats\n\nA kitten sleeps.\n\n# Fish\n\nA carp swims.")
    await index.refresh(0)
    assert index.pending == 1
