from __future__ import annotations

from itertools import accumulate, pairwise
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from atmo.storage import cutting
from atmo.storage.cutting import LARGE_BYTES, LEAST_BYTES, MOST_BYTES, Span, find_cut, plan
from atmo.storage.layout import Part
from atmo.transfer.manifest import CHUNK_BYTES, chunk_hash, most_chunks

KIB, MIB = 1024, 1024 * 1024


def parts(*sizes: int, start: int = 0, prefix: str = "layers.0.t") -> list[Part]:
    """Tensors one after the other."""
    ends = list(accumulate(sizes, initial=start))
    return [Part(a, b, f"{prefix}{chr(98 + index)}") for index, (a, b) in enumerate(pairwise(ends))]


def cuts(data: bytes) -> list[int]:
    """Returns where a file without a layout is cut."""
    at, found, view = 0, [], memoryview(data)
    while at < len(data):
        at += find_cut(view[at : at + MOST_BYTES])
        found.append(at)
    return found


def names(data: bytes) -> set[bytes]:
    ends = cuts(data)
    return {chunk_hash(data[a:b]) for a, b in pairwise([0, *ends])}


def test_a_small_file_is_one_chunk() -> None:
    assert list(plan(0, [])) == []
    assert list(plan(1, [])) == [Span(1, False)]
    assert list(plan(LARGE_BYTES - 1, parts(1_000, 2_000))) == [Span(LARGE_BYTES - 1, False)]


def test_without_a_layout_all_is_cut_by_content() -> None:
    assert list(plan(10 * MIB, [])) == [Span(10 * MIB, True)]


def test_a_head_large_tensors_and_a_tail() -> None:
    found = list(plan(1_000 + 3 * MIB + 7, parts(3 * MIB, start=1_000)))
    assert found == [Span(1_000, True), *[Span(MIB, False)] * 3, Span(7, True)]


def test_the_rest_of_a_large_tensor() -> None:
    small, large = 2 * MIB + LEAST_BYTES - 1, 2 * MIB + LEAST_BYTES
    assert list(plan(small, parts(small))) == [Span(MIB, False), Span(MIB + LEAST_BYTES - 1, False)]
    assert list(plan(large, parts(large))) == [Span(MIB, False), Span(MIB, False), Span(LEAST_BYTES, False)]


def test_small_tensors_are_grouped_between_large_ones() -> None:
    layout = parts(MIB, 100, 200, MIB, 300)
    assert list(plan(2 * MIB + 600, layout)) == [Span(MIB, False), Span(300, False), Span(MIB, False), Span(300, False)]


def test_groups_do_not_become_large() -> None:
    sizes = [200 * KIB] * 20
    found = list(plan(4_000 * KIB, parts(*sizes, prefix="a")))
    assert {span.by_content for span in found} == {False}
    assert sum(span.size for span in found) == 4_000 * KIB
    assert all(LEAST_BYTES <= span.size <= CHUNK_BYTES for span in found[:-1])
    assert all(span.size % (200 * KIB) == 0 for span in found)


def test_groups_end_with_their_layer() -> None:
    layout = [
        *parts(100 * KIB, 200 * KIB, prefix="l.1.t"),
        *parts(100 * KIB, 200 * KIB, 9, start=300 * KIB, prefix="l.2.t"),
    ]
    assert [span.size for span in plan(600 * KIB + 9, layout)][:1] == [300 * KIB]


def test_groups_end_at_the_same_names_after_a_tensor_was_put_in() -> None:
    rows = [(f"tensor {number % 26}-{chr(97 + number % 7)}x", 60 * KIB) for number in range(100)]
    rows = [
        (name.replace("-", "").translate({ord(digit): "abcdefghij"[int(digit)] for digit in "0123456789"}), size)
        for name, size in rows
    ]

    def ends(entries: list[tuple[str, int]]) -> set[tuple[str, int]]:
        sizes = list(accumulate((size for _, size in entries), initial=0))
        layout = [Part(a, b, name) for (a, b), (name, _) in zip(pairwise(sizes), entries, strict=True)]
        by_end = {part.end: index for index, part in enumerate(layout)}
        total = sizes[-1]
        return {(entries[by_end[end]][0], total - end) for end in accumulate(span.size for span in plan(total, layout))}

    before, after = ends(rows), ends([("new", 10 * KIB), *rows])
    assert len(before & after) >= len(before) - 2


def test_gaps() -> None:
    """A short one goes with its neighbours, a long one is cut by content."""
    short = [Part(0, MIB, "a"), Part(MIB + 50, 2 * MIB + 50, "b"), Part(2 * MIB + 80, 2 * MIB + 100, "c")]
    sizes = [Span(MIB, False), Span(50, False), Span(MIB, False), Span(50, False)]
    assert list(plan(2 * MIB + 100, short)) == sizes
    long = [Part(0, 100, "a"), Part(MIB, MIB + 100, "b"), Part(3 * MIB, 4 * MIB, "c")]
    assert list(plan(4 * MIB, long)) == [
        Span(100, False),
        Span(MIB - 100, True),
        Span(100, False),
        Span(2 * MIB - 100, True),
        Span(MIB, False),
    ]


def test_content_is_cut_within_its_bounds() -> None:
    data = Random(1).randbytes(24 * MIB)
    sizes = [b - a for a, b in pairwise([0, *cuts(data)])]
    assert all(LEAST_BYTES <= size <= MOST_BYTES for size in sizes[:-1])
    assert 0.7 * MIB < sum(sizes) / len(sizes) < 1.6 * MIB
    assert len(set(sizes)) > len(sizes) // 2


def test_what_was_put_in_changes_few_chunks() -> None:
    data = Random(2).randbytes(16 * MIB)
    for size in (1, 3, 137):
        other = data[:5_000] + b"n" * size + data[5_000:]
        assert len(names(data) - names(other)) <= 2


def test_text_has_cuts_too() -> None:
    random = Random(3)
    words = ["".join(random.choices("etaoinshrdlu", k=random.randrange(2, 9))) for _ in range(5_000)]
    text = " ".join(random.choices(words, k=500_000)).encode()
    sizes = [b - a for a, b in pairwise([0, *cuts(text)])]
    assert all(size < MOST_BYTES for size in sizes)
    assert len(names(text) - names(b"more" + text)) <= 2


def test_zeros_are_cut_at_the_most() -> None:
    assert cuts(bytes(5 * MIB)) == [2 * MIB, 4 * MIB, 5 * MIB]
    assert cuts(b"e" * 3 * MIB)[0] in (LEAST_BYTES, CHUNK_BYTES + LEAST_BYTES, MOST_BYTES)


def test_the_ends_of_what_is_searched() -> None:
    for size in (1, LEAST_BYTES, LEAST_BYTES + 7, LEAST_BYTES + 8, LEAST_BYTES + 9):
        assert find_cut(memoryview(bytes(size))) == size


def test_a_cut_is_where_eight_bytes_say_so() -> None:
    """The same eight bytes cut wherever they lie, at each place of a block and at its edges."""
    word = next(
        word
        for number in range(2**24)
        if int.from_bytes(word := b"e" + number.to_bytes(7, "little"), "little") * int(cutting._FACTOR) % 2**64
        < cutting._HARD
    )
    for place in (
        LEAST_BYTES,
        LEAST_BYTES + 5,
        LEAST_BYTES + cutting._BLOCK - 1,
        LEAST_BYTES + cutting._BLOCK,
        CHUNK_BYTES,
    ):
        assert find_cut(memoryview(bytes(place) + word + bytes(100))) == place
    assert find_cut(memoryview(bytes(LEAST_BYTES - 1) + word + bytes(100))) == LEAST_BYTES + 107


LAYOUTS = st.lists(st.tuples(st.sampled_from([0, 1, 100, LARGE_BYTES]), st.integers(1, 3 * MIB) | st.integers(1, 99)))


@given(LAYOUTS, st.integers(0, 3 * MIB))
def test_any_layout_is_covered_by_not_too_many_chunks(rows: list[tuple[int, int]], tail: int) -> None:
    layout, at = [], 0
    for number, (gap, size) in enumerate(rows):
        layout.append(Part(at + gap, at + gap + size, f"l.{number // 3}.{number}"))
        at += gap + size
    spans = list(plan(at + tail, layout))
    assert sum(span.size for span in spans) == at + tail
    assert all(span.size > 0 for span in spans)
    assert all(span.by_content or span.size <= MOST_BYTES for span in spans)
    count = sum(max(1, span.size // LEAST_BYTES + 1) if span.by_content else 1 for span in spans)
    assert count <= most_chunks(at + tail)
