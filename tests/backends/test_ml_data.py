from __future__ import annotations

import re
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from atmo.backends import ml_data
from atmo.backends.ml_data import (
    has_texts,
    parse_choices,
    parse_labels,
    parse_model_name,
    parse_names,
    parse_number,
    parse_rows,
    parse_text,
    parse_texts,
)
from atmo.errors import RequestError


def refused(function: Any, *arguments: Any, **more: Any) -> str:
    with pytest.raises(RequestError) as caught:
        function(*arguments, **more)
    assert caught.value.status == 400
    assert caught.value.param
    return caught.value.message


def test_rows_as_lists_objects_and_single_column() -> None:
    assert parse_rows({"data": [[1, 2.5], [3, 4]]}).rows.tolist() == [[1, 2.5], [3, 4]]
    table = parse_rows({"data": [{"b": 1, "a": 2}, {"a": 3, "b": 4}]})
    assert table.columns == ("b", "a")
    assert table.rows.tolist() == [[1, 2], [4, 3]]
    assert parse_rows({"input": [{"b": 1, "a": 2}]}, 2, ("a", "b")).rows.tolist() == [[2, 1]]
    assert parse_rows({"data": {"a": 2, "b": 1}}, 2, ("a", "b")).rows.tolist() == [[2, 1]]
    assert parse_rows({"data": [1, 2, 3]}).rows.tolist() == [[1], [2], [3]]
    assert parse_rows({"data": [[1, 2]]}, None, ("a", "b")).columns == ("a", "b")
    assert parse_rows({"data": [[1, 2]]}).rows.dtype == np.float32


@pytest.mark.parametrize(
    ("data", "width", "columns", "says"),
    [
        (None, None, (), "missing"),
        ([], None, (), "at least one row"),
        ("x", None, (), "must be a list"),
        (["x"], None, (), "Row 0 of 'data' is a string"),
        ([None], None, (), "Row 0 of 'data' is null"),
        ([[]], None, (), "are empty"),
        ([{}], None, (), "column names"),
        ([[1, 2], [3]], None, (), "Row 1 of 'data' has 1 columns, not 2"),
        ([[1, 2], 3], None, (), "Row 1 of 'data' is a number, not a list"),
        ([[1, 2]], 3, (), "Row 0 of 'data' has 2 columns, not 3"),
        ([1, 2], 3, (), "rows of 3 numbers"),
        ([[1, "2"]], None, (), "Row 0, column 1 of 'data' is a string, not a number"),
        ([[1, None]], None, (), "Row 0, column 1 of 'data' is null"),
        ([[1, True]], None, (), "column 1 of 'data' is true or false"),
        ([[1, [2]]], None, (), "column 1 of 'data' is a list"),
        ([[1, {}]], None, (), "column 1 of 'data' is an object"),
        ([[0, 1], [float("nan"), 1]], None, (), "Row 1, column 0 of 'data' is nan"),
        ([[0, 1], [1, float("-inf")]], None, ("a", "b"), "Row 1, column 1 (b) of 'data' is -inf"),
        ([[1e39]], None, (), "too large for 32-bit"),
        ([[10**400]], None, (), "Row 0, column 0 of 'data' is inf"),
        ([{"a": 1}, [1]], None, (), "Row 1 of 'data' is not an object"),
        ([{"a": 1}, {"b": 1}], None, (), "Row 1 of 'data' lacks column 'a'"),
        ([{"a": 1}], None, ("a", "b"), "lacks column 'b'. Columns: a, b"),
        ([{"a": 1, "c": 1}], None, ("a",), "unknown column 'c'"),
        ([[0] * 4_097], None, (), "at most 4096 columns"),
    ],
)
def test_bad_rows_name_row_and_column(data: Any, width: int | None, columns: tuple[str, ...], says: str) -> None:
    assert says in refused(parse_rows, {"data": data}, width, columns)


def test_too_many_rows_or_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ml_data, "MAX_ROWS", 3)
    assert "at most 3" in refused(parse_rows, {"data": [[1]] * 4})
    monkeypatch.setattr(ml_data, "MAX_CELLS", 5)
    assert "5 numbers" in refused(parse_rows, {"data": [[1, 2], [1, 2], [1, 2]]})


json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=12,
)


@given(st.dictionaries(st.sampled_from(["data", "input", "texts", "labels", "model"]), json_values))
def test_any_json_is_read_or_refused(body: dict[str, Any]) -> None:
    has_texts(body)
    for read in (parse_rows, parse_texts, parse_choices, parse_model_name, lambda b: parse_labels(b, 2)):
        with suppress(RequestError):
            read(body)
    try:
        rows = parse_rows(body).rows
    except RequestError:
        return
    assert rows.ndim == 2
    assert np.isfinite(rows).all()


def test_texts() -> None:
    assert parse_texts({"input": "one"}) == ["one"]
    assert parse_texts({"data": ["one", "two"]}) == ["one", "two"]
    assert "missing" in refused(parse_texts, {})
    assert "at least one" in refused(parse_texts, {"texts": []})
    assert "Item 1 of 'texts' is a number" in refused(parse_texts, {"texts": ["a", 1]})
    assert "Item 0 of 'input' is empty" in refused(parse_texts, {"input": "  "})
    assert "at most 1" in refused(parse_texts, {"input": ["a", "b"]}, most=1)
    assert "longer" in refused(parse_texts, {"input": "a" * 40_000})


@pytest.mark.parametrize(
    ("body", "texts"),
    [({"input": "a"}, True), ({"texts": ["a"]}, True), ({"data": [[1]]}, False), ({}, False), ({"data": []}, False)],
)
def test_has_texts(body: dict[str, Any], texts: bool) -> None:
    assert has_texts(body) is texts


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        (None, "missing"),
        (["a"], "1 items for 2 rows"),
        (["a", "a"], "only one label"),
        (["a", None], "Label 1 is null"),
        (["a", 1], "mixes numbers and strings"),
        ([True, 1], "mixes"),
        (["a", " "], "1 to 256 letters"),
        (["a", "b" * 300], "1 to 256 letters"),
        ([0.5, 1.0], "whole numbers"),
        ([1, 2**60], "2**53"),
    ],
)
def test_bad_labels(labels: Any, says: str) -> None:
    assert says in refused(parse_labels, {"labels": labels}, 2)


def test_many_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ml_data, "MAX_LABELS", 2)
    assert "at most 2" in refused(parse_labels, {"labels": ["a", "b", "c"]}, 3)
    assert "at most 2" in refused(parse_choices, {"labels": ["a", "b", "c"]})
    assert parse_labels({"labels": [1, 2]}, 2) == [1, 2]


def test_choices() -> None:
    assert parse_choices({"labels": ["a", "b"]}) == ["a", "b"]
    assert "two strings" in refused(parse_choices, {"labels": ["a"]})
    assert "Label 1 is a number" in refused(parse_choices, {"labels": ["a", 1]})
    assert "twice" in refused(parse_choices, {"labels": ["a", "a"]})


@pytest.mark.parametrize("name", ["a", "pump-monitor", "A1._-", "x" * 128, "org/pump:v2"])
def test_model_names(name: str) -> None:
    assert parse_model_name({"model": name}) == name


@pytest.mark.parametrize("name", [None, "", "auto", "Auto", 3, "../up", "a b", ".hidden", "a@1", "x" * 129, "a\n"])
def test_bad_model_names(name: Any) -> None:
    assert "'model'" in refused(parse_model_name, {"model": name})


def test_small_fields() -> None:
    assert parse_number({}, "t", 1.5, 0, 2) == 1.5
    assert parse_number({"t": 1}, "t", None, 0, 2) == 1.0
    for value in (0, 2, "1", True, float("nan")):
        assert re.search("between 0 and 2", refused(parse_number, {"t": value}, "t", None, 0, 2))
    assert parse_names({"n": ["a", "b"]}, "n", 2) == ("a", "b")
    assert "at most 1" in refused(parse_names, {"n": ["a", "b"]}, "n", 1)
    assert "Item 0" in refused(parse_names, {"n": [""]}, "n", 1)
    assert "twice" in refused(parse_names, {"n": ["a", "a"]}, "n", 2)
    assert parse_text({"d": " hi "}, "d", 9) == "hi"
    assert parse_text({}, "d", 9) == ""
    assert "at most 2" in refused(parse_text, {"d": "abc"}, "d", 2)
