from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from atmo.gateway.listing import list_models
from tests.router.offers import offer


def stored(version: str, **more: Any) -> Any:
    row = {"name": "iris", "type": "classifier", "format": "onnx", "size_bytes": 1, "nodes": ["n5"], "local": False}
    return SimpleNamespace(**{**row, "version": version, **more})


def test_the_description_of_this_machine_is_preferred() -> None:
    rows = list_models([offer("a", 1, description="theirs"), offer("a", 0, description="ours"), offer("a", 2)], [])
    assert rows[0]["description"] == "ours"
    assert rows[0]["nodes"] == ["n0", "n1", "n2"]


def test_a_model_that_only_lies_in_a_store() -> None:
    (row,) = list_models([], [stored("2.0", size_bytes=2), stored("odd", size_bytes=3), stored("1.0")])
    assert (row["owned_by"], row["ready"], row["size_bytes"]) == ("n5", False, 2)
    assert row["versions"] == ["2.0", "1.0", "odd"]


def test_openais_four_keys_have_their_types() -> None:
    (row,) = list_models([], [stored("1.0", nodes=[])])
    assert (row["id"], row["object"], row["created"], row["owned_by"]) == ("iris", "model", 0, "atmosphere")
