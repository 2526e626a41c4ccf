"""Agreement of words."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from atmo.backends.keywords import Keywords, count_terms, terms

TEXTS = ["The node writes run/node.json when it is ready.", "Nodes join by a code.", "Codes expire; make new codes."]


def scores(question: str, texts: list[str] | None = None) -> list[float]:
    return list(Keywords([count_terms(text) for text in (TEXTS if texts is None else texts)]).scores(question))


def test_words_are_compared_without_endings_and_compounds_with_their_parts() -> None:
    assert terms("Joins, joining and joined the node.json of policies") == [
        "join", "join", "join", "node", "json", "node.json", "policy",
    ]  # fmt: skip
    assert terms("What is the why of it?") == []
    assert terms("pass idea 東京 x" + "y" * 100) == ["pass", "idea", "東京", "x" + "y" * 39]


def test_the_text_with_the_rare_words_wins() -> None:
    found = scores("where is run/node.json?")
    assert found[0] > 0.4
    assert found[0] > 5 * found[1]
    assert found[2] == 0


def test_a_word_that_no_text_has_lowers_the_agreement() -> None:
    assert scores("expire")[2] > scores("expire zebra")[2] > 0


def test_repeated_and_shared_words() -> None:
    assert scores("code code code") == scores("codes")
    assert scores("code")[2] > scores("code")[0] == 0


@pytest.mark.parametrize("question", ["", "the", "???"])
def test_a_question_without_words_agrees_with_nothing(question: str) -> None:
    assert scores(question) == [0, 0, 0]


def test_no_texts_and_empty_texts() -> None:
    assert scores("code", []) == []
    assert scores("code", ["", ""]) == [0, 0]


@given(st.text(max_size=200), st.lists(st.text(max_size=100), max_size=5))
def test_scores_are_between_0_and_1(question: str, texts: list[str]) -> None:
    found = np.array(scores(question, texts))
    assert ((found >= 0) & (found <= 1)).all()


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        ("What did we decide on Monday?", [True, False]),
        ("monday", [True, False]),
        ("the band on Monday in Oslo", [False, False]),
        ("When does the ferry leave?", [False, True]),
        ("the", [False, False]),
    ],
)
def test_a_question_in_the_words_of_a_text(question: str, expected: list[bool]) -> None:
    texts = ["On Monday we decided to bake rye bread. " + "The printer broke. " * 50, "The ferry leaves at nine."]
    assert list(Keywords([count_terms(text) for text in texts]).literal(question)) == expected
    assert list(Keywords([]).literal(question)) == []
