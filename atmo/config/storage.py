"""The settings of the store: what it may hold, under the key `storage`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from atmo.config.keys import Key, Values
from atmo.errors import UserError
from atmo.storage.eviction import GB, Limits

DAY_S = 86_400.0
_MOST = 1e6
"""Of any of them: a petabyte in GB, and more days than a machine lives."""


def storage_limits(values: Values) -> Limits:
    """Returns what a store may hold."""
    gb, models, model_gb, days, prefetch_gb = values.get_of(
        "storage", "max_gb", "max_models", "max_model_gb", "keep_downloads_days", "prefetch_gb"
    )
    return Limits(_bytes(gb), models, _bytes(model_gb), days * DAY_S, _bytes(prefetch_gb) or 0)


def _bytes(number: float | None) -> int | None:
    return None if number is None else int(number * GB)


def _count(value: Any, where: str, base: Path) -> int:
    number = _number(value, where, base)
    if number != int(number):
        raise UserError(f"{where}: {value} is not a whole number.")
    return int(number)


def _number(value: Any, where: str, _base: Path) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= _MOST:
        raise UserError(f"{where}: {value!r} is not a number above 0, such as 50.")
    return float(value)


KEYS = (
    Key("storage.max_gb", _number),
    Key("storage.max_models", _count),
    Key("storage.max_model_gb", _number),
    Key("storage.keep_downloads_days", _number, Limits().keep_downloads_s / DAY_S),
    Key("storage.prefetch_gb", _number),
)
"""None is no limit, and no prefetch."""
