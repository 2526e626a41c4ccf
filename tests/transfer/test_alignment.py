from __future__ import annotations

from collections.abc import Sequence
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from atmo.transfer import alignment
from atmo.transfer.alignment import FileDifference, diff, find_bases
from atmo.transfer.manifest import Manifest, ModelFile
from tests.transfer.samples import manifest_of, sized_file

BIG, TAIL, SMALL = 100_000, 30_000, 5_000
LAYER = [SMALL, BIG, BIG, TAIL]


def made(sizes: Sequence[int], seed: int = 0, same: Sequence[int] = (), path: str = "model.onnx") -> ModelFile:
    """A file with other bytes for each seed, save the chunks `same`."""
    parts = [Random(0 if index in same else seed + 1).randbytes(size) for index, size in enumerate(sizes)]
    return sized_file(
        path, b"".join(f"{index}".encode().ljust(9) + part[9:] for index, part in enumerate(parts)), sizes
    )


def of(*files: ModelFile, main: str = "") -> Manifest:
    first = next((file for file in files if file.path == main), files[0])
    return manifest_of(
        files=files, file=first.path, size_bytes=sum(file.size_bytes for file in files), checksum_sha256=first.sha256
    )


def pairs(target: ModelFile, base: ModelFile) -> dict[int, int]:
    """Returns the positions of all pairs in two models of one file."""
    places = {(place.offset, place.size): index for index, place in enumerate(of(base).chunk_places())}
    found = find_bases(of(target), of(base), range(len(target.chunks)))
    return {index: places[place.offset, place.size] for index, place in found.items()}


def test_all_weights_moved() -> None:
    sizes = [300, *LAYER * 3]
    assert pairs(made(sizes, 1), made(sizes, 2)) == {index: index for index in range(13)}


def test_a_head_that_grew() -> None:
    assert pairs(made([437, *LAYER * 3], 1), made([300, *LAYER * 3], 2)) == {index: index for index in range(13)}


def test_a_head_that_has_more_chunks() -> None:
    found = pairs(made([70_000, 20_000, *LAYER * 3], 1), made([80_000, *LAYER * 3], 2))
    assert found == {0: 0} | {index + 1: index for index in range(1, 13)}


def test_a_tensor_put_in_under_a_head_that_grew() -> None:
    target, base = [437, *LAYER, 77_777, *LAYER, *LAYER], [300, *LAYER, *LAYER, *LAYER]
    found = pairs(made(target, 1), made(base, 2))
    assert found == {index: index for index in range(5)} | {index + 1: index for index in range(5, 13)}


def test_a_tensor_taken_out() -> None:
    target, base = [300, *LAYER, *LAYER], [300, *LAYER, 77_777, *LAYER]
    found = pairs(made(target, 1), made(base, 2))
    assert found == {index: index for index in range(5)} | {index: index + 1 for index in range(5, 9)}


def test_layers_added_at_the_end() -> None:
    found = pairs(made([300, *LAYER * 3, 11], 1), made([300, *LAYER, 12], 2))
    assert found == {index: index for index in range(5)}


def test_common_chunks_are_fixed_points() -> None:
    """By sizes alone the last tensor would be taken for the one before it."""
    base = made([300, BIG, BIG, BIG, SMALL], 1)
    target = sized_file(
        "model.onnx",
        (data := bytes(300)) + bytes(BIG) + _chunk(base, 2) + bytes(range(250)) * 400 + bytes(BIG) + bytes(9),
        [len(data), BIG, BIG, BIG, BIG, 9],
    )
    assert pairs(target, base) == {0: 0, 1: 1, 2: 2, 3: 3}


def _chunk(file: ModelFile, index: int) -> bytes:
    """The bytes of a chunk that `made` made with seed 1."""
    part = Random(2).randbytes(file.chunk_sizes[index])
    return f"{index}".encode().ljust(9) + part[9:]


def test_chunks_that_changed_places_are_no_fixed_points() -> None:
    names = [bytes([number]) * 32 for number in range(8)]
    moved = [names[7], *names[:7]]
    assert alignment._fixed_points(moved, names) == [(index + 1, index) for index in range(7)]
    assert alignment._fixed_points([names[0], names[0]], names) == []
    assert alignment._fixed_points(names, [names[0], names[0]]) == []


def test_only_what_is_missing_is_answered() -> None:
    sizes = [300, *LAYER]
    found = find_bases(of(made(sizes, 1)), of(made(sizes, 2)), [3])
    assert list(found) == [3]
    assert (found[3].offset, found[3].size) == (300 + SMALL + BIG, BIG)


def test_files_are_paired_by_path_and_the_main_ones_anyhow() -> None:
    target = of(made([SMALL], 1, path="a"), made([BIG], 2, path="b"), made([TAIL], 3, path="c"), main="b")
    base = of(made([BIG], 4, path="x"), made([SMALL], 5, path="a"))
    found = find_bases(target, base, range(3))
    assert {index: place.file for index, place in found.items()} == {0: 1, 1: 0}


def test_empty_files() -> None:
    assert pairs(made([], 1), made([SMALL], 2)) == {}
    assert pairs(made([SMALL], 1), made([], 2)) == {}


def test_nothing_in_common() -> None:
    assert pairs(made([1_000, 2_000], 1), made([3_000], 2)) == {0: 0}


def test_what_travels() -> None:
    sizes = [300, *LAYER]
    target, base = of(made(sizes, 1, same=[0, 2, 3]), made([SMALL], 8, path="b")), of(made(sizes, 2, same=[0, 2, 3]))
    assert diff(target, base) == (
        FileDifference("model.onnx", 235_300, 200_300, 35_000),
        FileDifference("b", SMALL, 0, SMALL),
    )


@given(st.lists(st.integers(1, 4), max_size=24), st.lists(st.integers(1, 4), max_size=24), st.sets(st.integers(0, 23)))
def test_no_base_is_given_twice(here: list[int], there: list[int], same: set[int]) -> None:
    """And fixed points keep their order, whatever the sizes are."""
    names = [bytes([number]) * 32 for number in range(64)]
    target = [names[index if index in same else 32 + index] for index in range(len(here))]
    points = alignment._fixed_points(target, names[: len(there)])
    assert points == [(index, index) for index in sorted(same) if index < min(len(here), len(there))]
    found = list(alignment._align_between(here, there, True))
    assert len({a for a, _ in found}) == len(found) == len({b for _, b in found})
    assert all(0 <= a < len(here) and 0 <= b < len(there) for a, b in found)
