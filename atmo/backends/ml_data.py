"""What clients send to `/v1/ml/*`, checked to the last number. Shared by predicting and fitting.

Rows are a list of lists of numbers, or of objects keyed by column; texts are strings. Everything wrong is a
`RequestError` 400 that names the row and the column, counted from 0 as in the client's own list.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atmo.errors import RequestError
from atmo.transfer.names import check_name
from atmo.wire import limits

MAX_ROWS = 100_000
"""Rows of one request. Source: choice; the body's limit of 32 MiB comes first for most tables."""

MAX_COLUMNS = 4_096
MAX_CELLS = 4_000_000
MAX_TEXTS = 10_000
"""Texts of one request: half a minute of embedding on one core. Source: measurement of 3 ms a sentence."""

MAX_TEXT_CHARS = 32_768
MAX_LABEL_CHARS = 256
MAX_LABELS = 1_000
"""Different labels of one classifier."""

Label = str | int | float | bool
Floats = NDArray[np.float32]

_NUMBERS = {int, float}


@dataclass(frozen=True, slots=True)
class Table:
    """Numeric rows of one request.

    Attributes:
        rows: float32[n, d], all finite.
        columns: Names of the d columns where the client or the model gave them, else empty.
    """

    rows: Floats
    columns: tuple[str, ...] = ()


def invalid(message: str, param: str) -> RequestError:
    """Returns the 400 for a field of the request."""
    return RequestError(400, message, param=param, code="invalid_value")


def parse_rows(body: Mapping[str, Any], width: int | None = None, columns: Sequence[str] = ()) -> Table:
    """Reads the numeric rows of `body["data"]` (or `input`).

    Args:
        body: The request.
        width: How many columns the model takes; None takes what comes.
        columns: The model's column names: needed for rows that are objects, and then they choose the order.

    Raises:
        RequestError: 400 naming what is wrong, with row and column.
    """
    param = "data" if body.get("data") is not None else "input"
    data = body.get(param)
    if data is None:
        raise invalid("'data' is missing. Send a list of rows, such as [[5.1, 3.5], [6.2, 2.8]].", "data")
    if isinstance(data, Mapping):
        data = [data]
    if not isinstance(data, list) or not data:
        raise invalid(f"'{param}' must be a list of rows with at least one row.", param)
    if len(data) > MAX_ROWS:
        raise invalid(f"'{param}' has {len(data)} rows; at most {MAX_ROWS} fit one request. Send it in parts.", param)
    if isinstance(data[0], Mapping):
        columns = tuple(columns) or _columns_of(data[0], param)
        data = _from_objects(data, columns, param)
    elif not isinstance(data[0], list):
        data = _from_scalars(data, width, param)
    width = _check_shape(data, width or (len(columns) or None), param)
    names = tuple(columns) if len(columns) == width else ()
    return Table(_to_array(data, names, param), names)


def _columns_of(row: Mapping[str, Any], param: str) -> tuple[str, ...]:
    if not row or not all(isinstance(name, str) and len(name) <= limits.NAME_CHARS for name in row):
        raise invalid(f"The first row of '{param}' needs column names of at most {limits.NAME_CHARS} letters.", param)
    return tuple(row)


def _from_objects(data: list[Any], columns: Sequence[str], param: str) -> list[list[Any]]:
    rows = []
    for index, row in enumerate(data):
        if not isinstance(row, Mapping):
            raise invalid(f"Row {index} of '{param}' is not an object as row 0 is. Send all rows alike.", param)
        missing = [name for name in columns if name not in row]
        if missing:
            raise invalid(
                f"Row {index} of '{param}' lacks column {missing[0]!r}. Columns: {', '.join(columns)}.", param
            )
        if len(row) > len(columns):
            extra = next(name for name in row if name not in columns)
            raise invalid(f"Row {index} of '{param}' has an unknown column {str(extra)[:60]!r}.", param)
        rows.append([row[name] for name in columns])
    return rows


def _from_scalars(data: list[Any], width: int | None, param: str) -> list[list[Any]]:
    """A plain list of numbers is one column; where the model takes more, the client forgot a bracket."""
    if type(data[0]) not in _NUMBERS:
        raise invalid(f"Row 0 of '{param}' is {_kind(data[0])}, not a list of numbers or an object.", param)
    if width not in (None, 1):
        raise invalid(f"'{param}' must be a list of rows of {width} numbers each: [[...], [...]].", param)
    return [item if isinstance(item, list) else [item] for item in data]


def _check_shape(data: list[Any], width: int | None, param: str) -> int:
    for index, row in enumerate(data):
        if not isinstance(row, list):
            raise invalid(f"Row {index} of '{param}' is {_kind(row)}, not a list of numbers.", param)
        if width is None:
            width = len(row)
        if len(row) != width:
            raise invalid(f"Row {index} of '{param}' has {len(row)} columns, not {width}.", param)
        if not _NUMBERS.issuperset(map(type, row)):
            column = next(i for i, value in enumerate(row) if type(value) not in _NUMBERS)
            raise invalid(f"Row {index}, column {column} of '{param}' is {_kind(row[column])}, not a number.", param)
    assert width is not None
    if width == 0:
        raise invalid(f"The rows of '{param}' are empty.", param)
    if width > MAX_COLUMNS or width * len(data) > MAX_CELLS:
        raise invalid(
            f"'{param}' is {len(data)} rows of {width} columns; at most {MAX_COLUMNS} columns and {MAX_CELLS} numbers"
            " fit one request.",
            param,
        )
    return width


def _to_array(data: list[list[Any]], names: Sequence[str], param: str) -> Floats:
    try:
        wide = np.array(data, dtype=np.float64)
    except OverflowError:
        wide = np.array([[_as_float(value) for value in row] for row in data], dtype=np.float64)
    with np.errstate(over="ignore"):
        rows = wide.astype(np.float32)
    if not np.isfinite(rows).all():
        row, column = (int(i) for i in np.argwhere(~np.isfinite(rows))[0])
        value = wide[row, column]
        what = f"{value}" if not math.isfinite(value) else "too large for 32-bit floats"
        name = f" ({names[column]})" if names else ""
        raise invalid(f"Row {row}, column {column}{name} of '{param}' is {what}. Send finite numbers only.", param)
    return rows


def _as_float(value: float) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true or false"
    names = {str: "a string", list: "a list", int: "a number", float: "a number"}
    return names.get(type(value), "an object")


def parse_texts(body: Mapping[str, Any], most: int = MAX_TEXTS) -> list[str]:
    """Reads the strings of `body["input"]`, `texts` or `data`; one plain string counts as a list of one.

    Raises:
        RequestError: 400 naming what is wrong, with its index.
    """
    param = next((name for name in ("input", "texts", "data") if body.get(name) is not None), None)
    if param is None:
        raise invalid("'input' is missing. Send a string or a list of strings.", "input")
    value = body[param]
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not texts:
        raise invalid(f"'{param}' must be a string or a list of strings with at least one.", param)
    if len(texts) > most:
        raise invalid(f"'{param}' has {len(texts)} texts; at most {most} fit one request. Send it in parts.", param)
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            raise invalid(f"Item {index} of '{param}' is {_kind(text)}, not a string.", param)
        if not text.strip():
            raise invalid(f"Item {index} of '{param}' is empty.", param)
        if len(text) > MAX_TEXT_CHARS:
            raise invalid(f"Item {index} of '{param}' is longer than {MAX_TEXT_CHARS} letters.", param)
    return texts


def has_texts(body: Mapping[str, Any]) -> bool:
    """Tells whether the request carries texts rather than numbers, judged by its first item."""
    for name in ("texts", "input", "data"):
        value = body.get(name)
        if value is not None:
            return isinstance(value, str) or (isinstance(value, list) and bool(value) and isinstance(value[0], str))
    return False


def parse_labels(body: Mapping[str, Any], rows: int) -> list[Label]:
    """Reads `body["labels"]`: one for each row, all of one kind (strings, or numbers, or true and false).

    Raises:
        RequestError: 400 naming what is wrong, with its index.
    """
    labels = body.get("labels")
    if not isinstance(labels, list):
        raise invalid("'labels' is missing. Send a list with one label for each row.", "labels")
    if len(labels) != rows:
        raise invalid(f"'labels' has {len(labels)} items for {rows} rows. Send one label for each row.", "labels")
    for index, label in enumerate(labels):
        _check_label(label, f"Label {index}")
    kinds = {_label_kind(label) for label in labels}
    if len(kinds) > 1:
        raise invalid(f"'labels' mixes {' and '.join(sorted(kinds))}. Use one kind.", "labels")
    distinct = len(set(labels))
    if distinct < 2:
        raise invalid("'labels' holds only one label. A classifier needs at least two different ones.", "labels")
    if distinct > MAX_LABELS:
        raise invalid(f"'labels' holds {distinct} different labels; at most {MAX_LABELS} are possible.", "labels")
    return labels


def parse_choices(body: Mapping[str, Any]) -> list[str]:
    """Reads `body["labels"]` as the labels to choose from: at least two different strings.

    Raises:
        RequestError: 400 naming what is wrong.
    """
    labels = body.get("labels")
    if not isinstance(labels, list) or len(labels) < 2:
        raise invalid("'labels' must be a list of at least two strings to choose from.", "labels")
    if len(labels) > MAX_LABELS:
        raise invalid(f"'labels' has {len(labels)} items; at most {MAX_LABELS} are possible.", "labels")
    for index, label in enumerate(labels):
        if not isinstance(label, str):
            raise invalid(f"Label {index} is {_kind(label)}, not a string.", "labels")
        _check_label(label, f"Label {index}")
    if len(set(labels)) < len(labels):
        raise invalid("'labels' holds a label twice.", "labels")
    return labels


def _check_label(label: Any, what: str) -> None:
    if not isinstance(label, str | int | float):
        raise invalid(f"{what} is {_kind(label)}. Labels are strings, numbers, or true and false.", "labels")
    if isinstance(label, str) and not 0 < len(label.strip()) <= len(label) <= MAX_LABEL_CHARS:
        raise invalid(f"{what} must have 1 to {MAX_LABEL_CHARS} letters.", "labels")
    if isinstance(label, float) and not label.is_integer():
        raise invalid(f"{what} is {label}: classes are names or whole numbers.", "labels")
    if type(label) is int and abs(label) >= 2**53:
        raise invalid(f"{what} is beyond 2**53. Send it as a string.", "labels")


def _label_kind(label: Label) -> str:
    if isinstance(label, bool):
        return "true and false"
    return "strings" if isinstance(label, str) else "numbers"


def parse_model_name(body: Mapping[str, Any]) -> str:
    """Reads the name of a model that is to be made.

    Raises:
        RequestError: 400: not a name that a model may have.
    """
    name = body.get("model")
    if not isinstance(name, str) or name in ("", "auto"):
        raise invalid("'model' is missing: choose a name for the new model, such as 'pump-monitor'.", "model")
    try:
        return check_name(name)
    except ValueError as error:
        raise invalid(f"'model' is no name for a model: {error}.", "model") from error


def parse_number(body: Mapping[str, Any], name: str, default: float | None, low: float, high: float) -> float | None:
    """Reads an optional number within `low` and `high`, both exclusive.

    Raises:
        RequestError: 400: not a number in the range.
    """
    value = body.get(name)
    if value is None:
        return default
    if type(value) not in _NUMBERS or not low < value < high:
        raise invalid(f"'{name}' must be a number between {low:g} and {high:g}.", name)
    return float(value)


def parse_names(body: Mapping[str, Any], name: str, most: int) -> tuple[str, ...]:
    """Reads an optional list of short names.

    Raises:
        RequestError: 400: not a list of strings, too many, or a name too long.
    """
    value = body.get(name)
    if value is None:
        return ()
    if not isinstance(value, list) or len(value) > most:
        raise invalid(f"'{name}' must be a list of at most {most} names.", name)
    for index, item in enumerate(value):
        if not isinstance(item, str) or not 0 < len(item) <= limits.NAME_CHARS:
            raise invalid(f"Item {index} of '{name}' must be a name of 1 to {limits.NAME_CHARS} letters.", name)
    if len(set(value)) < len(value):
        raise invalid(f"'{name}' holds a name twice.", name)
    return tuple(value)


def parse_text(body: Mapping[str, Any], name: str, most: int) -> str:
    """Reads an optional string.

    Raises:
        RequestError: 400: not a string, or too long.
    """
    value = body.get(name)
    if value is None:
        return ""
    if not isinstance(value, str) or len(value) > most:
        raise invalid(f"'{name}' must be a string of at most {most} letters.", name)
    return value.strip()
