"""Machines that come and go, with sessions of heavy-tailed length.

Source: Stutzbach and Rejaie, "Understanding Churn in Peer-to-Peer Networks" (IMC 2006): session lengths in Gnutella,
Kad and BitTorrent are heavy-tailed, so that most sessions are short while most of the machines that are on at a moment
have been on for long; those in BitTorrent fit Weibull distributions with shapes well below 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Protocol

from atmo.sim.machine import Node
from atmo.sim.scenario import Stage


class Lengths(Protocol):
    """A distribution of times."""

    def draw(self, rng: Random) -> float:
        """Returns a time in seconds."""


@dataclass(frozen=True, slots=True)
class Weibull:
    """Times with a heavy tail where the shape is below 1.

    Attributes:
        mean_s: Their mean.
        shape: Source: 0.38, 0.34 and 0.59 in the paper above, for three torrents.
    """

    mean_s: float
    shape: float = 0.5

    def draw(self, rng: Random) -> float:
        scale = self.mean_s / math.gamma(1 + 1 / self.shape)
        return float(scale * (-math.log(1.0 - rng.random())) ** (1 / self.shape))


@dataclass(frozen=True, slots=True)
class Pareto:
    """Times with a tail heavier still: a power law.

    Attributes:
        mean_s: Their mean.
        alpha: Above 1; the smaller, the heavier the tail. Source: guess.
    """

    mean_s: float
    alpha: float = 1.5

    def draw(self, rng: Random) -> float:
        least_s = self.mean_s * (self.alpha - 1) / self.alpha
        return float(least_s * (1.0 - rng.random()) ** (-1 / self.alpha))


@dataclass(frozen=True, slots=True)
class ChurnConfig:
    """How machines come and go.

    Attributes:
        sessions: How long they stay on.
        absences: How long they stay off.
        leave: Share of sessions that end with a goodbye; the others end by a crash.
        keep_disk: Share of restarts that find what was stored.
    """

    sessions: Lengths = Weibull(600.0)
    absences: Lengths = Weibull(60.0)
    leave: float = 0.5
    keep_disk: float = 0.8


class Churn:
    """Turns machines off and on.

    Args:
        stage: Of the run.
        nodes: Those that come and go.
        config: How.
        gone: Told of each machine that went, before it is off, and whether it said goodbye.
    """

    def __init__(
        self,
        stage: Stage,
        nodes: Sequence[Node],
        config: ChurnConfig = ChurnConfig(),
        gone: Callable[[Node, bool], None] | None = None,
    ) -> None:
        self._stage = stage
        self._nodes = nodes
        self._config = config
        self._told = gone
        self._rng = stage.streams.shared("churn")
        self._on = False
        self.ended = 0
        self.came = 0

    def begin(self) -> None:
        """From now on machines come and go."""
        self._on = True
        for node in self._nodes:
            self._later(self._config.sessions, node, self._end)

    def stop(self, *, revive: bool = False) -> None:
        """From now on nothing changes any more; on demand whoever is off comes back at once."""
        self._on = False
        if revive:
            for node in self._nodes:
                if node.peer is None:
                    self._start(node)

    def _later(self, lengths: Lengths, node: Node, deed: Callable[[Node], None]) -> None:
        def due() -> None:
            if self._on:
                deed(node)

        world = self._stage.world
        world.later(world.loop.now + lengths.draw(self._rng), due)

    def _end(self, node: Node) -> None:
        world, goodbye = self._stage.world, self._rng.random() < self._config.leave
        if node.peer is None or len(world.alive()) <= 2:
            return
        if self._told is not None:
            self._told(node, goodbye)
        self.ended += 1
        if goodbye:
            world.leave(node)
        else:
            world.crash(node, keep_disk=self._rng.random() < self._config.keep_disk)
        self._later(self._config.absences, node, self._begin)

    def _begin(self, node: Node) -> None:
        if node.peer is None:
            self._start(node)
            self._later(self._config.sessions, node, self._end)

    def _start(self, node: Node) -> None:
        self.came += 1
        self._stage.start(node, knows=0 if node.disk else 3)
