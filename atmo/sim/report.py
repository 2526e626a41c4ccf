"""What came out of a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any


class CheckFailed(AssertionError):
    """Something that must always hold does not: the message says what, when, where, and the seed.

    Attributes:
        what: Does not hold.
        time_s: Virtual seconds.
        nodes: The names of those concerned.
    """

    def __init__(self, what: str, time_s: float, seed: str, nodes: Sequence[str] = ()) -> None:
        super().__init__(f"at {time_s:.3f} s, seed {seed!r}: {what}")
        self.what = what
        self.time_s = time_s
        self.nodes = tuple(nodes)


@dataclass(frozen=True, slots=True)
class Failure:
    """A check that did not hold.

    Attributes:
        check: Its name.
        what: What was wrong.
        time_s: Virtual seconds.
        nodes: The names of those concerned.
    """

    check: str
    what: str
    time_s: float
    nodes: tuple[str, ...] = ()


@dataclass(slots=True)
class Report:
    """What came out of a run.

    Attributes:
        scenario: Its name.
        nodes: How many.
        seed: Of everything random.
        simulated_s: Virtual seconds.
        wall_s: Seconds that it took.
        digest: Of all that happened.
        checks: Each with whether it held.
        figures: Each with its value; names end in units.
        unknown: Checks of which nothing was heard before the run ended; they do not hold.
        failures: Of the checks that did not hold.
        traceback: How the bug that ended the run came about, where one did; what it is stands in `failures`.
        series: Values over time, for plots: name to (virtual second, value).
    """

    scenario: str
    nodes: int
    seed: int
    simulated_s: float = 0.0
    wall_s: float = 0.0
    digest: str = ""
    checks: dict[str, bool] = field(default_factory=dict)
    figures: dict[str, float] = field(default_factory=dict)
    unknown: list[str] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    traceback: str = ""
    series: dict[str, list[tuple[float, float]]] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether all checks held."""
        return not self.failures and all(self.checks.values())

    def as_json(self) -> dict[str, Any]:
        """Returns the object that `--json` prints."""
        return {
            "scenario": self.scenario,
            "nodes": self.nodes,
            "seed": self.seed,
            "simulated_s": round(self.simulated_s, 3),
            "wall_s": round(self.wall_s, 3),
            "digest": self.digest,
            "checks": dict(self.checks),
            "figures": {name: _rounded(value) for name, value in self.figures.items()},
        }


def _rounded(value: float) -> float | int:
    if isinstance(value, int):
        return value
    return round(value, 6)


def share(part: float, whole: float) -> float:
    """Returns part of whole, 1 where there is no whole: nothing was missed."""
    return part / whole if whole else 1.0


def percentile(values: Sequence[float], percent: float) -> float:
    """Returns the smallest value that so many per cent of all do not exceed; 0 of none."""
    if not values:
        return 0.0
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, -int(-len(ordered) * percent // 100) - 1))]
