"""Finds texts by the words they share with a question, rare words counting more: BM25, scaled to between 0 and 1."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

TERM_SATURATION = 1.2
LENGTH_WEIGHT = 0.75
"""k1 and b. Source: Robertson and Zaragoza, "The Probabilistic Relevance Framework" (2009), section 3.5."""

LITERAL_SHARE = 0.5
"""Of a question's information. Source: tests/backends/test_rag_quality.py."""

MAX_QUERY_TERMS = 64
MAX_TERM_CHARS = 40

_WORD = re.compile(r"\w+(?:[._/-]\w+)*")
_PART = re.compile(r"[^\W_]+")
_STOP = frozenset(
    re.findall(
        r"\w+",
        "a about an and any are as at be by can could did do does for from had has have how i if in into is it its me"
        " my no not of on or our please should so tell than that the their them then there these they this to was we"
        " what when where which who why will with would you your",
    )
)
"""Words of questions; in a small folder they would pass for rare ones."""


def terms(text: str) -> list[str]:
    """Returns the words of `text` in lower case without a plural s; compounds such as `node.json` and their parts."""
    found = []
    for word in _WORD.findall(text.lower()):
        parts = _PART.findall(word)
        found += [_stem(part) for part in parts if part not in _STOP]
        if len(parts) > 1:
            found.append(word[:MAX_TERM_CHARS])
    return found


def _stem(word: str) -> str:
    word = word[:MAX_TERM_CHARS]
    for ending, least in (("ies", 5), ("ing", 6), ("ed", 5)):
        if word.endswith(ending) and len(word) >= least:
            return word[: -len(ending)] + ("y" if ending == "ies" else "")
    if word.endswith("s") and not word.endswith("ss") and len(word) > 3:
        word = word[:-1]
    return word[:-1] if word.endswith("e") and len(word) > 4 else word


def count_terms(text: str) -> Counter[str]:
    """Returns how often each word stands in `text`."""
    return Counter(terms(text))


class Keywords:
    """An index of texts.

    Args:
        counts: One for each text, from `count_terms`; scores come in their order.
    """

    def __init__(self, counts: Sequence[Counter[str]]) -> None:
        lengths = np.array([sum(count.values()) for count in counts], np.float32)
        average = float(lengths.mean()) if lengths.any() else 1.0
        self._size = len(counts)
        self._damping = TERM_SATURATION * (1 - LENGTH_WEIGHT + LENGTH_WEIGHT * lengths / average)
        self._postings: dict[str, list[tuple[int, int]]] = {}
        for index, count in enumerate(counts):
            for term, times in count.items():
                self._postings.setdefault(term, []).append((index, times))

    def scores(self, question: str) -> NDArray[np.float32]:
        """Returns float32[n] between 0 and 1: how much of the question's information the words of each text hold.

        Words that no text has count as the rarest ones, so a question that shares only a common word scores low.
        """
        scores = np.zeros(self._size, np.float32)
        possible = 0.0
        for weight, places, times in self._weighed(question):
            possible += weight
            scores[places] += weight * times / (times + self._damping[places])
        return scores / np.float32(possible) if possible else scores

    def literal(self, question: str) -> NDArray[np.bool_]:
        """Returns bool[n]: which texts have all words of the question, or two or more that tell most of what it says.

        How long a text is makes no difference here.
        """
        words = np.zeros(self._size, np.int64)
        told = np.zeros(self._size, np.float64)
        possible, asked = 0.0, 0
        for weight, places, _ in self._weighed(question):
            possible, asked = possible + weight, asked + 1
            words[places] += 1
            told[places] += weight
        most = (words >= 2) & (told >= LITERAL_SHARE * possible)
        return np.asarray((words > 0) & ((words == asked) | most), np.bool_)

    def _weighed(self, question: str) -> Iterator[tuple[float, NDArray[np.int64], NDArray[np.int64]]]:
        """Yields for each word of the question its weight, the texts that have it, and how often."""
        for term in list(dict.fromkeys(terms(question)))[:MAX_QUERY_TERMS]:
            postings = self._postings.get(term, [])
            weight = math.log1p((self._size - len(postings) + 0.5) / (len(postings) + 0.5))
            places, times = np.array(postings, np.int64).reshape(-1, 2).T
            yield weight, places, times
