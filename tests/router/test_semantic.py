from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from atmo.router.capability import Capability, key_of
from atmo.router.offers import Offers
from atmo.router.semantic import SemanticConfig, SemanticIndex, Vectors
from tests.router.offers import offer

SMALL = SemanticConfig(dimensions=4, max_texts=1_000, graph_from=10, neighbours=4)


def axis(number: int, size: int = 4) -> Vectors:
    return np.asarray(np.eye(size)[number], np.float32)


def vectors_of(texts: Sequence[str], size: int = 4) -> Vectors:
    """One direction for each text, always the same."""
    rows = [np.random.default_rng(list(text.encode())).normal(size=size) for text in texts]
    return np.array(rows, np.float32).reshape(len(texts), size)


def fill(index: SemanticIndex, size: int = 4) -> None:
    texts = index.missing_texts()
    index.add(texts, vectors_of(texts, size))


def test_key_of() -> None:
    assert key_of(Capability("x", "chat", "m", description="d", examples=("e",))) == ("d", "e")
    assert key_of(Capability("x", "chat", "m", examples=("e",))) == ("e",)
    assert key_of(Capability("x", "chat", "m")) == ("m",)


def test_scores_are_the_nearest_of_a_capabilitys_texts() -> None:
    index = SemanticIndex(SMALL)
    index.track(Offers([offer("a", description="d", examples=("e",)), offer("b", description="f")]))
    assert index.missing_texts() == ["d", "e", "f"]
    assert index.missing_texts(1) == ["d"]
    index.add(["d", "e", "f"], np.stack([axis(0), 5 * axis(1), axis(2)]))
    assert index.missing_texts() == []
    assert index.scores(3 * axis(1)) == {("d", "e"): pytest.approx(1.0), ("f",): pytest.approx(0.0)}


def test_a_text_has_a_vector_once_it_was_added() -> None:
    index = SemanticIndex(SMALL)
    index.track(Offers([offer("a", description="d")]))
    assert index.vector("d") is None
    fill(index)
    found = index.vector("d")
    assert found is not None
    assert np.allclose(np.linalg.norm(found), 1)


def test_capabilities_without_vectors_have_no_score() -> None:
    index = SemanticIndex(SMALL)
    assert index.scores(axis(0)) == {}
    index.track(Offers([offer("a", description="d"), offer("b", description="f")]))
    index.add(["f"], axis(2)[None])
    assert list(index.scores(axis(0))) == [("f",)]


def test_vectors_nobody_asked_for_are_ignored() -> None:
    index = SemanticIndex(SMALL)
    index.track(Offers([offer("a", description="d")]))
    index.add(["x"], axis(0)[None])
    assert len(index) == 0
    index.add(["d"], axis(0)[None])
    index.add(["d"], axis(1)[None])
    assert index.scores(axis(0)) == {("d",): pytest.approx(1.0)}


@pytest.mark.parametrize("vectors", [np.zeros((1, 3), np.float32), np.full((1, 4), np.nan, np.float32)])
def test_vectors_of_a_wrong_shape_are_refused(vectors: Vectors) -> None:
    index = SemanticIndex(SMALL)
    with pytest.raises(ValueError, match="finite vectors of 4"):
        index.add(["d"], vectors)


def test_what_is_not_on_offer_any_more_is_forgotten() -> None:
    index = SemanticIndex(SMALL)
    index.track(Offers([offer("a", description=f"d{number}", id=str(number)) for number in range(300)]))
    fill(index)
    kept = offer("a", description="d7")
    index.track(Offers([kept]))
    again = Offers([kept])
    index.track(again)
    index.track(again)
    assert len(index) == 1
    assert list(index.scores(vectors_of(["d7"])[0])) == [("d7",)]


def test_one_node_cannot_fill_the_index() -> None:
    index = SemanticIndex(SemanticConfig(dimensions=4, max_texts=5, max_texts_per_node=3))
    hostile = [offer("h", 9, id=str(number), description=f"h{number}") for number in range(10)]
    index.track(Offers([*hostile, offer("b", 8, description="b"), offer("mine", 0, description="m", examples=("n",))]))
    assert index.missing_texts() == ["m", "n", "h0", "h1", "h2"]


def test_the_graph_finds_what_comparing_all_finds() -> None:
    offers = [offer("m", id=str(number), description=f"d{number}", examples=(f"e{number}",)) for number in range(200)]
    exact = SemanticIndex(SemanticConfig(dimensions=16, graph_from=10_000))
    graph = SemanticIndex(SemanticConfig(dimensions=16, graph_from=100))
    for index in (exact, graph):
        index.track(Offers(offers[:150]))
        fill(index, 16)
        index.scores(vectors_of(["first"], 16)[0])
        index.track(Offers(offers))
        fill(index, 16)
    for query in vectors_of([f"q{number}" for number in range(20)], 16):
        all_scores, near = exact.scores(query), graph.scores(query)
        best = max(all_scores, key=lambda key: all_scores[key])
        assert max(near, key=lambda key: near[key]) == best
        assert near[best] == pytest.approx(all_scores[best], abs=1e-5)
        assert len(near) < len(all_scores)


def test_the_graph_gives_the_same_answer_every_time() -> None:
    def scores() -> dict[tuple[str, ...], float]:
        index = SemanticIndex(SMALL)
        index.track(Offers([offer("m", id=str(number), description=f"d{number}") for number in range(50)]))
        fill(index)
        return index.scores(axis(0))

    assert scores() == scores()


def test_texts_that_nobody_offers_now_do_not_answer_from_the_graph() -> None:
    index = SemanticIndex(SMALL)
    offers = [offer("m", id=str(number), description=f"d{number}") for number in range(20)]
    index.track(Offers(offers))
    fill(index)
    index.scores(axis(0))
    index.track(Offers(offers[:3]))
    assert len(index) == 20
    assert set(index.scores(axis(0))) <= {("d0",), ("d1",), ("d2",)}


def test_many_equal_vectors_do_not_break_the_search() -> None:
    """hnswlib raises when equal vectors cut its graph apart; a hostile node could advertise such texts."""
    index = SemanticIndex(SemanticConfig(dimensions=4, graph_from=10, neighbours=50, links=2, ef_construction=2))
    index.track(Offers([offer("m", id=str(number), description=f"d{number}") for number in range(50)]))
    index.add([f"d{number}" for number in range(50)], np.repeat(axis(1)[None], 50, 0))
    assert index.scores(axis(1)) == {(f"d{number}",): pytest.approx(1.0) for number in range(50)}
