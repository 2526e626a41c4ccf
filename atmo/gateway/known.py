"""Models that exist though nobody may offer them at the moment: they are unavailable, not unknown."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from atmo.backends.store import why_not_run
from atmo.gateway.listing import CatalogRow
from atmo.router.choice import Known

NOTED_S = 1.0
"""How much too old the time of a last offer may be. Source: guess."""


class KnownModels:
    """Models in the stores of the mesh, and those that were offered a while ago.

    Args:
        stored: The models in the stores of the mesh.
        most: Names that are remembered.
        keep_s: So long they are, after the last offer.
    """

    def __init__(self, stored: Callable[[], Iterable[CatalogRow]], most: int, keep_s: float) -> None:
        self._stored = stored
        self._most = most
        self._keep_s = keep_s
        self._names: dict[str, float] = {}
        self._noted: Iterable[str] = ()
        self._noted_at = 0.0

    def remember(self, models: Iterable[str], now: float) -> None:
        """Notes what is on offer at a monotonic second; the same object need not be noted again at once."""
        if models is self._noted and now < self._noted_at + NOTED_S:
            return
        self._noted, self._noted_at = models, now
        for model in models:
            self._names.pop(model, None)
            self._names[model] = now
        while len(self._names) > self._most:
            del self._names[next(iter(self._names))]

    def kinds(self, now: float) -> Known:
        """Returns the models that exist, with the kind of those that no node can run."""
        kinds: dict[str, str] = {}
        for model in self._stored():
            kind = why_not_run(model.format, model.type)
            kinds[model.name] = kind if kinds.get(model.name, kind) else ""
        return kinds | {name: "" for name, when in self._names.items() if when >= now - self._keep_s}
