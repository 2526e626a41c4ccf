"""How large datagrams may be on the path that is used now: packetization-layer path MTU discovery (RFC 8899).

Every path carries 1,200 bytes. Once a path has proved that it works, probes padded to larger sizes are sent over it;
one that is answered proves its size for what this end sends. From a few sizes that occur the middle one is tried first,
then the middle of those that remain. A size whose probes are lost several times is too large, and is tried again after
ten minutes.

Whoever sends tells when large datagrams alone seem to vanish ("a black hole"). From that moment datagrams are small
again, and the size has to be confirmed by a probe before it counts. While a path is in doubt datagrams are small, too,
as they may go by another one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from random import Random

from atmo.clock import Now
from atmo.reach.config import MtuConfig, Place
from atmo.reach.probe import NONCE_BYTES


@dataclass(frozen=True, slots=True)
class SendPadded:
    """Send a probe of so many bytes to a place."""

    place: Place
    nonce: bytes
    size: int


@dataclass(frozen=True, slots=True)
class Resized:
    """Datagrams may have so many bytes from now on."""

    size: int


SizeEffect = SendPadded | Resized


@dataclass(frozen=True, slots=True)
class PathState:
    """What is to be known of the path that is used.

    Attributes:
        place: Where it leads.
        base: What it carries without proof.
        most: The largest size that may be tried.
        rtt_s: Its round-trip time, None as long as nothing proved that it works.
        steady: It works and is not in doubt.
    """

    place: Place
    base: int
    most: int
    rtt_s: float | None
    steady: bool


@dataclass(eq=False, slots=True)
class _Known:
    """Of one place: the size that it carries, the least that it does not, and when more is tried."""

    size: int
    too_large: float = math.inf
    search_at: float = -math.inf
    confirmed_at: float = -math.inf


@dataclass(eq=False, slots=True)
class _Trial:
    """Probes of one size, whose replies are waited for."""

    size: int
    confirms: bool
    next_at: float = -math.inf
    nonces: list[bytes] = field(default_factory=list)


class Sizes:
    """The engine for one connection.

    Args:
        config: Sizes, tries and periods.
        rng: Draws nonces.
        state: Of the path that is used at first.

    Attributes:
        size: How large datagrams may be now.
    """

    def __init__(self, config: MtuConfig, rng: Random, state: PathState) -> None:
        self._config = config
        self._rng = rng
        self._state = state
        self._known: dict[Place, _Known] = {state.place: _Known(state.base)}
        self._here = self._known[state.place]
        self._trial: _Trial | None = None
        self._out: list[SizeEffect] = []
        self.size = state.base

    # --- inputs ---------------------------------------------------------------------------------------------------

    def use(self, now: Now, state: PathState) -> None:
        """Datagrams go by this path from now on, or more is known of it."""
        if state.place != self._state.place:
            self._trial = None
            self._here = self._recall(state)
        self._state = state
        self._resize()
        self._search(now)

    def _recall(self, state: PathState) -> _Known:
        """Returns what is known of a place; those that were not used for longest are forgotten."""
        known = self._known.pop(state.place, None) or _Known(state.base)
        while len(self._known) >= self._config.places:
            del self._known[next(iter(self._known))]
        self._known[state.place] = known
        return known

    def replied(self, now: Now, place: Place, nonce: bytes) -> bool:
        """A reply came; says whether it proves a size."""
        trial, here = self._trial, self._here
        if trial is None or nonce not in trial.nonces or place != self._state.place:
            return False
        self._trial = None
        here.size = trial.size
        if trial.confirms:
            here.confirmed_at = now.mono
        self._resize()
        self._search(now)
        return True

    def refused(self, now: Now, place: Place, size: int) -> None:
        """This machine itself cannot send so many bytes over a path: its first link does not take them."""
        if size <= self._config.smallest or place != self._state.place:
            return
        self._too_large(now, size)

    def suspect(self, now: Now) -> None:
        """Large datagrams seem to vanish: their size has to be confirmed."""
        here = self._here
        if not self._ready() or self.size <= self._config.smallest:
            return  # they are small already, as they are while a size is being confirmed
        if now.mono < here.confirmed_at + self._config.confirm_s:
            return
        self._trial = _Trial(here.size, confirms=True)
        self._try(now)
        self._resize()

    # --- the search -----------------------------------------------------------------------------------------------

    def _search(self, now: Now) -> None:
        """Begins to try the next size, unless there is none, or it is not the time."""
        here = self._here
        if self._trial is not None or not self._ready() or now.mono < here.search_at:
            return
        if here.search_at > -math.inf and here.too_large < math.inf:
            here.too_large = math.inf  # the time has come to try larger ones again
        candidates = [size for size in self._sizes() if here.size < size < here.too_large]
        if candidates:
            here.search_at = -math.inf
            self._trial = _Trial(candidates[len(candidates) // 2], confirms=False)
            self._try(now)
        else:
            here.search_at = now.mono + self._config.raise_s if here.too_large < math.inf else math.inf

    def _ready(self) -> bool:
        return self._state.steady and self._state.rtt_s is not None

    def _sizes(self) -> list[int]:
        return [size for size in self._config.sizes if size <= self._state.most]

    def _try(self, now: Now) -> None:
        trial = self._trial
        assert trial is not None, "there is something to try"
        nonce = self._rng.randbytes(NONCE_BYTES)
        trial.nonces.append(nonce)
        trial.next_at = now.mono + max(self._config.wait_s, 3.0 * (self._state.rtt_s or 0.0))
        self._out.append(SendPadded(self._state.place, nonce, trial.size))

    def _too_large(self, now: Now, size: int) -> None:
        here = self._here
        here.too_large = min(here.too_large, size)
        if here.size >= size:
            here.size = self._config.smallest
        here.search_at = -math.inf
        if self._trial is not None and self._trial.size >= size:
            self._trial = None
        self._resize()
        self._search(now)

    def _resize(self) -> None:
        """Says how large datagrams may be now, if that has changed."""
        confirming = self._trial is not None and self._trial.confirms
        size = self._config.smallest if confirming or not self._state.steady else self._here.size
        size = min(size, self._state.most)
        if size != self.size:
            self.size = size
            self._out.append(Resized(size))

    # --- time -----------------------------------------------------------------------------------------------------

    def handle_timer(self, now: Now) -> None:
        """Repeats a probe that was not answered, or gives its size up; begins to search where that is due."""
        trial = self._trial
        if trial is None:
            self._search(now)
        elif now.mono >= trial.next_at:
            if len(trial.nonces) < self._config.tries:
                self._try(now)
            elif self._ready():
                self._too_large(now, trial.size)
            else:  # the path itself is at fault; `use` begins anew when it works
                self._trial = None
                self._resize()

    def next_timer(self) -> float:
        """Returns when something is due."""
        if self._trial is not None:
            return self._trial.next_at
        return self._here.search_at if self._ready() and self._here.search_at > -math.inf else math.inf

    def drain(self) -> list[SizeEffect]:
        """Returns and forgets what is to be done."""
        effects, self._out = self._out, []
        return effects
