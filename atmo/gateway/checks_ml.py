"""Bodies of the models that are fitted to data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from atmo.gateway.fields import Described, Either, Field, Opaque, Record, Words, bad
from atmo.router.capability import ANOMALY, CLASSIFY, CLUSTER, FORECAST

ACTIONS = {
    CLASSIFY: ("predict",),
    ANOMALY: ("predict", "detect", "score"),
    CLUSTER: ("predict",),
    FORECAST: ("predict",),
}
"""What a fitted model does; `fit` makes one and is no business of the mesh."""

FIT = "fit"


def _ml(operation: str) -> Callable[[str, dict[str, Any]], None]:
    def rule(_param: str, body: dict[str, Any]) -> None:
        action = body.get("action", "predict")
        if action not in ACTIONS[operation]:
            raise bad("action", f"must be one of {', '.join(('fit', *ACTIONS[operation]))}")
        if operation == FORECAST and body.get("data") is None and body.get("model"):
            return  # a fitted model goes on from what it was fitted to
        given = next((body[field] for field in ("data", "input", "texts") if body.get(field) is not None), None)
        if not isinstance(given, list | dict | str) or not given:
            raise bad("data", "must hold the rows to look at: a list of lists of numbers, of objects, or of texts")

    return rule


def _about(text: str, kind: str = "") -> Field:
    return Described(Opaque(kind), {"description": text})


_ROWS = Either(
    {list: Opaque("array"), dict: Opaque("object"), str: Opaque("string")},
    "the rows to look at: a list of lists of numbers, of objects, or of texts",
)
_FIELDS: dict[str, dict[str, Field]] = {
    CLASSIFY: {"labels": _about("To fit: the class of each row.", "array"), "target": _about("Or its column.")},
    ANOMALY: {"contamination": _about("To fit: about which share of the rows is unlike the others.")},
    CLUSTER: {"k": _about("To fit: how many groups; nothing, or `auto`, to find out.")},
    FORECAST: {
        "target": _about("The column to forecast where rows are objects."),
        "season": _about("To fit: after how many values a season repeats."),
        "horizon": _about("How many values to forecast."),
        "levels": _about("Percents of the intervals."),
    },
}
"""What is read by whoever fits or asks the model; listed here for `/openapi.json`."""


def _record(operation: str) -> Record:
    actions = Words((FIT, *ACTIONS[operation]))
    fields: dict[str, Field] = {
        "action": Described(actions, {"default": "predict"}),
        "data": _ROWS,
        "input": _ROWS,
        "texts": _ROWS,
    }
    return Record({**fields, **_FIELDS[operation]}, rule=_ml(operation))


ML_BODIES = {operation: _record(operation) for operation in ACTIONS}
