"""Limits of a store, and which models make room for another.

A model leaves the sooner, the longer nobody used it, the older it is and the more room it gives:
`score = (hours since its last use + a quarter of the hours since it came) * log2(2 + its size in GB)`. The logarithm
lets one large model go instead of many small ones, and still keeps a large one that is used every day before a small
one that nobody asks for. Source of the weights: guess.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from atmo.errors import UserError

if TYPE_CHECKING:
    from atmo.storage.registry import LocalModel  # every command reads the settings, and most need no database

RECENT_S = 600.0
"""A model that was loaded or served so lately is in use. Source: guess, twice the life of an offer in the mesh."""

AGE_WEIGHT = 0.25
GB = 1_000_000_000

IsReplaceable = Callable[["LocalModel"], bool]
"""Says whether a model can be had again, so that it may be taken without asking anybody."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a store may hold; None means no limit.

    Attributes:
        max_bytes: Of all models and downloads together.
        max_models: How many models.
        max_model_bytes: Of one model.
        keep_downloads_s: A download that was stopped is kept for so long. Source: guess, two weeks.
        prefetch_bytes: Of models that this node may fetch by itself while it is idle; 0 for none.
    """

    max_bytes: int | None = None
    max_models: int | None = None
    max_model_bytes: int | None = None
    keep_downloads_s: float = 14 * 86_400.0
    prefetch_bytes: int = 0

    def check_size(self, size_bytes: int) -> None:
        """Refuses a model that is larger than one may be.

        Raises:
            UserError: It is.
        """
        if self.max_model_bytes is not None and size_bytes > self.max_model_bytes:
            raise UserError(
                f"A model of {size_bytes / GB:,.2f} GB is beyond the limit of {self.max_model_bytes / GB:,.2f} GB.",
                "Raise storage.max_model_gb in the configuration.",
            )


def was_pulled(model: LocalModel) -> bool:
    """Says that a model came from the mesh: what a person imported here may be nowhere else."""
    return model.pulled


def score(model: LocalModel, now: float) -> float:
    """Returns how dispensable a model is; a clock that was set back makes nothing older."""
    idle_h = max(0.0, now - max(model.used_at, model.added_at)) / 3_600
    age_h = max(0.0, now - model.added_at) / 3_600
    return (idle_h + AGE_WEIGHT * age_h) * math.log2(2 + model.manifest.size_bytes / GB)


def in_use(model: LocalModel, now: float) -> bool:
    """Says that a model is loaded, or was used within `RECENT_S`."""
    return model.loaded_at is not None or (model.used_at > 0 and abs(now - model.used_at) < RECENT_S)


def plan(
    models: Sequence[LocalModel],
    limits: Limits,
    need_bytes: int,
    need_models: int,
    other_bytes: int,
    now: float,
    may_go: IsReplaceable,
    was_prefetched: IsReplaceable = lambda model: False,
) -> list[LocalModel]:
    """Chooses which models make room.

    Args:
        models: All that are here.
        limits: Of the store.
        need_bytes: Of the model that comes; 0 to bring the store within its limits.
        need_models: 1 where one comes, else 0.
        other_bytes: Of downloads.
        now: Unix seconds.
        may_go: Says whether a model may be taken.
        was_prefetched: Says whether this node fetched a model by itself: such models go first if nobody used them.

    Raises:
        UserError: The model is too large, or what may go is not enough.
    """
    limits.check_size(need_bytes)
    over_bytes = 0 if limits.max_bytes is None else _held(models) + other_bytes + need_bytes - limits.max_bytes
    over_models = 0 if limits.max_models is None else len(models) + need_models - limits.max_models
    going: list[LocalModel] = []
    free = sorted(
        (model for model in models if may_go(model)),
        key=lambda m: (m.used_at > 0 or not was_prefetched(m), -score(m, now), m.name, m.version),
    )
    for model in free:
        if over_bytes <= 0 and over_models <= 0:
            break
        if over_models > 0 or model.manifest.size_bytes:
            going.append(model)
            over_bytes -= model.manifest.size_bytes
            over_models -= 1
    if over_bytes > 0:
        raise _too_full(f"{over_bytes / GB:,.2f} GB too much", "max_gb")
    if over_models > 0:
        raise _too_full(f"{over_models} models too many", "max_models")
    return going


def _held(models: Sequence[LocalModel]) -> int:
    return sum(model.manifest.size_bytes for model in models)


def _too_full(what: str, key: str) -> UserError:
    return UserError(
        f"The store would hold {what}, and nothing more in it may be evicted.",
        f"Remove models (atmo model remove), run `atmo model gc`, or raise storage.{key} in the configuration.",
    )
