"""What a store may hold, as the configuration says it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from atmo.config import load_settings
from atmo.errors import UserError
from atmo.storage.eviction import Limits


def load(home: Path, value: Any) -> Limits:
    (home / "config.json").write_text(json.dumps({"storage": value}))
    return load_settings(home, {}).storage


def test_limits(tmp_path: Path) -> None:
    assert load(tmp_path, {}) == Limits() == load_settings(tmp_path / "nowhere", {}).storage
    full = {"max_gb": 1.5, "max_models": 20, "max_model_gb": 1, "keep_downloads_days": 0.5}
    assert load(tmp_path, full) == Limits(1_500_000_000, 20, 1_000_000_000, 43_200.0)


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ([], "storage: is a list where a mapping belongs"),
        ({"max_gp": 1}, 'storage: max_gp: there is no such key. Did you mean "max_gb"'),
        ({"max_gb": 0}, "storage: max_gb: 0 is not a number above 0"),
        ({"max_gb": "50"}, "storage: max_gb: '50' is not a number"),
        ({"max_gb": True}, "storage: max_gb: True is not a number"),
        ({"max_gb": 1e7}, "is not a number above 0"),
        ({"max_models": 2.5}, "storage: max_models: 2.5 is not a whole number"),
    ],
)
def test_what_makes_no_sense_is_told(tmp_path: Path, value: Any, problem: str) -> None:
    with pytest.raises(UserError) as caught:
        load(tmp_path, value)
    assert problem in str(caught.value)
