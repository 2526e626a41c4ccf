"""The index of a folder follows its files and finds passages by meaning and by words."""

import os
from pathlib import Path

import numpy as np
import pytest
import trio

from atmo.backends import passage_index
from atmo.backends.embedder import Embedder
from atmo.backends.passage_index import RELEVANT, PassageIndex

EMBEDDER = Embedder()
PLENTY_S = 60.0


def write(folder: Path, name: str, text: str, mtime_s: int = 1_000) -> None:
    (folder / name).write_text(text)
    os.utime(folder / name, (mtime_s, mtime_s))


def pets(folder: Path) -> PassageIndex:
    write(
        folder, "cats.md", "# Cats\n\nA kitten sleeps most of the day.\n\n# Feeding\n\nTwice a day, model KX-47 feeder."
    )
    write(folder, "dogs.txt", "A puppy wants to run in the park every morning.")
    return PassageIndex(folder, EMBEDDER)


async def sources(index: PassageIndex, question: str) -> list[str]:
    return [hit.passage.source for hit in await index.search(question, 5) if hit.score >= RELEVANT]


async def test_finds_by_meaning_and_by_words(tmp_path: Path) -> None:
    index = pets(tmp_path)
    await index.refresh(PLENTY_S)
    assert len(index.passages) == 3
    assert index.pending == 0
    assert (await sources(index, "young dogs need exercise"))[0] == "dogs.txt"
    assert (await sources(index, "KX-47"))[0] == "cats.md#Feeding"
    assert await sources(index, "interest rates of central banks") == []


async def test_one_sentence_of_a_long_passage_is_found_by_its_words(tmp_path: Path) -> None:
    others = "The van needs new tyres and the insurance wants papers. Anna paints the fence. The windows get a pane."
    write(tmp_path, "notes.md", f"# Notes\n\n{others} On Monday we decided to bake rye bread. {others}")
    write(tmp_path, "trips.md", "# Trips\n\nThe ferry leaves at nine.")
    index = PassageIndex(tmp_path, EMBEDDER)
    await index.refresh(PLENTY_S)
    assert await sources(index, "What did we decide on Monday?") == ["notes.md#Notes"]
    assert await sources(index, "Who won the world cup?") == []


async def test_search_gives_the_best_first_and_no_more_than_asked(tmp_path: Path) -> None:
    index = pets(tmp_path)
    await index.refresh(PLENTY_S)
    hits = await index.search("kitten", 2)
    assert len(hits) == 2
    assert hits[0].score > hits[1].score


async def test_words_find_what_is_not_embedded_yet(tmp_path: Path) -> None:
    index = pets(tmp_path)
    await index.refresh(0)
    assert index.pending == 3
    (hit,) = await index.search("KX-47 feeder", 1)
    assert hit.passage.source == "cats.md#Feeding"
    await index.refresh(PLENTY_S)
    assert index.pending == 0


async def test_only_what_changed_is_embedded_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = pets(tmp_path)
    await index.refresh(PLENTY_S)
    seen: list[str] = []
    embed = EMBEDDER.embed

    async def watched(texts: list[str]) -> object:
        seen.extend(texts)
        return await embed(texts)

    monkeypatch.setattr(EMBEDDER, "embed", watched)
    await index.refresh(PLENTY_S)
    assert seen == []
    write(tmp_path, "dogs.txt", "A terrier digs holes in the garden.", mtime_s=2_000)
    await index.refresh(PLENTY_S)
    assert seen == ["A terrier digs holes in the garden."]
    assert (await sources(index, "digging in the flower beds"))[0] == "dogs.txt"


async def test_new_and_removed_files(tmp_path: Path) -> None:
    index = pets(tmp_path)
    await index.refresh(PLENTY_S)
    write(tmp_path, "birds.md", "# Parrots\n\nParrots can learn to speak a few words.")
    (tmp_path / "dogs.txt").unlink()
    await index.refresh(PLENTY_S)
    assert {passage.file for passage in index.passages} == {"birds.md", "cats.md"}
    assert (await sources(index, "talking birds"))[0] == "birds.md#Parrots"


async def test_a_folder_that_goes_away_and_comes_back(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "notes"
    index = PassageIndex(folder, EMBEDDER)
    await index.refresh(PLENTY_S)
    await index.refresh(PLENTY_S)
    assert await index.search("anything", 3) == []
    assert [record.getMessage() for record in caplog.records] == [
        f"cannot read the documents in {folder}: No such file or directory"
    ]
    folder.mkdir()
    pets(folder)
    await index.refresh(PLENTY_S)
    assert len(index.passages) == 3


async def test_a_cancelled_refresh_loses_nothing(tmp_path: Path) -> None:
    index = pets(tmp_path)
    with trio.CancelScope() as scope:
        scope.cancel()
        await index.refresh(PLENTY_S)
    await index.refresh(PLENTY_S)
    assert len(index.passages) == 3
    assert index.pending == 0


async def test_a_search_during_a_refresh_sees_a_whole_state(tmp_path: Path) -> None:
    index = pets(tmp_path)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(index.refresh, PLENTY_S)
        for _ in range(5):
            await index.search("kitten", 3)
    assert (await sources(index, "kitten"))[0] == "cats.md#Cats"


async def test_passages_are_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(passage_index, "MAX_PASSAGES", 2)
    index = pets(tmp_path)
    await index.refresh(PLENTY_S)
    assert [passage.file for passage in index.passages] == ["cats.md", "cats.md"]
    assert "over 2 passages" in caplog.text


async def test_an_endless_question_is_cut(tmp_path: Path) -> None:
    index = pets(tmp_path)
    await index.refresh(PLENTY_S)
    (hit,) = await index.search("kitten " * 100_000, 1)
    assert np.isfinite(hit.score)
