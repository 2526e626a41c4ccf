"""The settings of the store: what it may hold, under the key `storage`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from atmo.config.checks import entry_of, refuse_unknown
from atmo.errors import UserError
from atmo.storage.eviction import GB, Limits

_KEYS = ("max_gb", "max_models", "max_model_gb", "keep_downloads_days", "prefetch_gb")
_MOST = 1e6
"""Of any of them: a petabyte in GB, and more days than a machine lives."""


def storage_limits(value: Any, where: str, _base: Path) -> Limits:
    """Checks what a store may hold; a key that is missing means no limit, or the usual time for downloads."""
    entry = entry_of(value, where)
    refuse_unknown(entry, _KEYS, where)
    numbers = {key: _number(given, f"{where}: {key}") for key, given in entry.items()}
    prefetched = numbers.pop("prefetch_gb", None)
    models = numbers.get("max_models")
    if models is not None and models != int(models):
        raise UserError(f"{where}: max_models: {models} is not a whole number.")
    kept = numbers.get("keep_downloads_days")
    return Limits(
        max_bytes=_bytes(numbers.get("max_gb")),
        max_models=None if models is None else int(models),
        max_model_bytes=_bytes(numbers.get("max_model_gb")),
        keep_downloads_s=Limits().keep_downloads_s if kept is None else kept * 86_400,
        prefetch_bytes=_bytes(prefetched) or 0,
    )


def _bytes(number: float | None) -> int | None:
    return None if number is None else int(number * GB)


def _number(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= _MOST:
        raise UserError(f"{where}: {value!r} is not a number above 0, such as 50.")
    return float(value)
