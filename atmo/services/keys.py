"""Keys for clients of the HTTP endpoint: made, shown, taken back, and what is done with each.

All keys are in memory, where every request looks them up; the database has them, too. What is done with them is
counted in memory and written together, `FLUSH_S` seconds after it happened at the latest, so a node that is killed
forgets so much of it at most.
"""

from __future__ import annotations

import logging
import math
import re
import secrets
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Literal, cast

import trio

from atmo.errors import UserError
from atmo.storage.database import Database
from atmo.storage.keys import KeyTable, KeyTerms, KeyUse, Period, StoredKey
from atmo.trust.apikey import SECRET_BYTES, key_hash, key_id, key_text

log = logging.getLogger(__name__)

FLUSH_S = 5.0
"""Source: a choice; the same loss as a crash of most programs that count, at one small transaction in that time."""

LAST_S = 1.0
"""For writing when the node ends, which it does within two seconds."""

NAME_CHARS = 64
MOST_PATTERNS = 64
PATTERN_CHARS = 128
MOST_RATE = 1_000_000
MOST_EXPIRES_S = 10 * 366 * 86_400

State = Literal["active", "revoked", "expired", "used up"]

_UNITS = {"s": 1.0, "sec": 1.0, "second": 1.0, "min": 60.0, "minute": 60.0, "h": 3_600.0, "hour": 3_600.0}
_UNITS |= {"d": 86_400.0, "day": 86_400.0}
_FOR_EVER: Period = ""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]*")


class KeyService:
    """The keys of one home. To be made in a worker thread, as it reads the database.

    Args:
        database: Of the home.
        wall: Reads the wall clock, in Unix seconds.
    """

    def __init__(self, database: Database, wall: Callable[[], float] = time.time) -> None:
        self._table = KeyTable(database)
        self._wall = wall
        self._keys = {key.hash: key for key in self._table.load()}
        self._by_id = {key_id(key.hash): key for key in self._keys.values()}
        self._changed: dict[bytes, KeyUse] = {}
        self._wake = trio.Event()
        self._lock = trio.Lock()

    async def run(self) -> None:
        """Writes what was done with keys, now and then, until cancelled; then once more."""
        try:
            while True:
                await self._wake.wait()
                await trio.sleep(FLUSH_S)
                await self._try_to_flush()
        finally:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + LAST_S):
                await self._try_to_flush()

    async def _try_to_flush(self) -> None:
        try:
            await self.flush()
        except UserError as error:
            log.warning("what was done with keys is not noted: %s", error)

    async def flush(self) -> None:
        """Writes what was done with keys and is not written yet.

        Raises:
            UserError: The database cannot be written; nothing is forgotten.
        """
        async with self._lock:
            self._wake = trio.Event()
            if not self._changed:
                return
            changed, self._changed = self._changed, {}
            try:
                copies = [(hashed, replace(use)) for hashed, use in changed.items()]
                await trio.to_thread.run_sync(self._table.write_use, copies)
            except BaseException:
                self._changed = {**changed, **self._changed}
                self._wake.set()
                raise

    # --- for people -------------------------------------------------------------------------------------------------

    async def create(
        self,
        name: str,
        models: tuple[str, ...] = (),
        rate: str | None = None,
        budget: str | None = None,
        expires_s: float | None = None,
    ) -> dict[str, Any]:
        """Makes a key.

        Args:
            name: For people.
            models: Patterns of models that may be used, as `gpt-*`; none for all.
            rate: Such as `60/min`; None for any.
            budget: US dollars, such as `5.00` or `5.00/month`; None for any.
            expires_s: In how many seconds it ends, None for never.

        Returns:
            The row, and under `key` the key itself, which nobody can be told again.

        Raises:
            UserError: Something of it cannot be, or the name is taken.
        """
        now = self._wall()
        count, seconds = (0, 60.0) if rate is None else parse_rate(rate)
        dollars, period = (None, _FOR_EVER) if budget is None else parse_budget(budget)
        if expires_s is not None and not 0 < expires_s <= MOST_EXPIRES_S:
            raise UserError("A key expires within ten years, or never.", "Give it less time, or leave --expires out.")
        expires_at = None if expires_s is None else now + expires_s
        terms = KeyTerms(_name(name), _patterns(models), count, seconds, dollars, period, expires_at)
        secret = secrets.token_bytes(SECRET_BYTES)
        while key_id(key_hash(secret)) in self._by_id:
            secret = secrets.token_bytes(SECRET_BYTES)
        key = await trio.to_thread.run_sync(self._table.add, key_hash(secret), terms, now)
        self._keys[key.hash] = self._by_id[key_id(key.hash)] = key
        return {**self._row(key), "key": key_text(secret)}

    async def revoke(self, which: str) -> dict[str, Any]:
        """Takes a key back: no request is let in with it from now on.

        Args:
            which: Its name or its id.

        Raises:
            UserError: There is no such key.
        """
        key = self._one(which)
        if key.revoked_at is None:
            now = self._wall()
            forgotten = await trio.to_thread.run_sync(self._table.revoke, key.hash, now)
            key.revoked_at = now
            for hashed in forgotten:
                self._keys.pop(hashed, None)
                self._by_id.pop(key_id(hashed), None)
                self._changed.pop(hashed, None)
        return self._row(key)

    def rows(self) -> list[dict[str, Any]]:
        """Returns what is known of each key, the oldest first."""
        return [self._row(key) for key in self._keys.values()]

    def row(self, which: str) -> dict[str, Any]:
        """Returns what is known of a key.

        Args:
            which: Its name or its id.

        Raises:
            UserError: There is no such key.
        """
        return self._row(self._one(which))

    def _one(self, which: str) -> StoredKey:
        """Returns the key of that name or id; of several of one name the one that is not revoked, else the newest."""
        named = [key for key in self._keys.values() if which in (key.terms.name, key_id(key.hash))]
        if not named:
            hint = "`atmo key list` shows all of them."
            if which.startswith("sk-"):
                raise UserError("A key is named by its name or id, not by itself.", hint)
            raise UserError(f"There is no key {which[:NAME_CHARS]}.", hint)
        return next((key for key in named if key.revoked_at is None), named[-1])

    def _row(self, key: StoredKey) -> dict[str, Any]:
        terms, use = key.terms, key.use
        return {
            "id": key_id(key.hash),
            "name": terms.name,
            "state": self.state(key),
            "models": list(terms.models),
            "rate": rate_text(terms),
            "budget": terms.budget,
            "budget_period": terms.budget_period or None,
            "spent": round(self._spent(key), 6),
            "created_at": key.created_at,
            "expires_at": terms.expires_at,
            "revoked_at": key.revoked_at,
            "last_used_at": use.used_at,
            "requests": use.requests,
            "prompt_tokens": use.prompt_tokens,
            "completion_tokens": use.completion_tokens,
            "cost": round(use.cost, 6),
        }

    # --- for requests -----------------------------------------------------------------------------------------------

    @property
    def usable(self) -> bool:
        """Whether anybody has a key that counts."""
        return any(self.state(key) in ("active", "used up") for key in self._keys.values())

    def find(self, hashed: bytes) -> StoredKey | None:
        """Returns the key of that hash, whatever its state."""
        return self._keys.get(hashed)

    def find_id(self, name: str) -> StoredKey | None:
        """Returns the key of that id, whatever its state."""
        return self._by_id.get(name)

    def state(self, key: StoredKey) -> State:
        """Returns whether a key counts now, and why not."""
        if key.revoked_at is not None:
            return "revoked"
        if key.terms.expires_at is not None and self._wall() >= key.terms.expires_at:
            return "expired"
        if key.terms.budget is not None and self._spent(key) >= key.terms.budget:
            return "used up"
        return "active"

    def renewed_in_s(self, key: StoredKey) -> float | None:
        """Returns in how many seconds the budget of a key counts anew; None for never."""
        now = self._wall()
        at = datetime.fromtimestamp(now, UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        if key.terms.budget_period == "day":
            return at.timestamp() + 86_400 - now
        if key.terms.budget_period == "month":
            following = at.replace(year=at.year + at.month // 12, month=at.month % 12 + 1, day=1)
            return following.timestamp() - now
        return None

    def _spent(self, key: StoredKey) -> float:
        return key.use.period_cost if key.use.period == self._period(key) else 0.0

    def _period(self, key: StoredKey) -> str:
        if not key.terms.budget_period:
            return ""
        day = datetime.fromtimestamp(self._wall(), UTC)
        return day.strftime("%Y-%m-%d" if key.terms.budget_period == "day" else "%Y-%m")

    def note(self, key: StoredKey, prompt_tokens: int = 0, completion_tokens: int = 0, cost: float = 0.0) -> None:
        """Counts a request that was let in and has ended."""
        use, period = key.use, self._period(key)
        if use.period != period:
            use.period, use.period_cost = period, 0.0
        use.used_at = self._wall()
        use.requests += 1
        use.prompt_tokens += max(0, prompt_tokens)
        use.completion_tokens += max(0, completion_tokens)
        if cost > 0 and math.isfinite(cost):
            use.cost += cost
            use.period_cost += cost
        self._changed[key.hash] = use
        self._wake.set()


def parse_rate(text: str) -> tuple[int, float]:
    """Reads `60/min` as requests and seconds.

    Raises:
        UserError: It has another form.
    """
    match = re.fullmatch(r"([0-9]{1,7})\s*/\s*([a-z]+)", text.strip().lower())
    count = int(match[1]) if match else 0
    seconds = _UNITS.get(match[2], 0.0) if match else 0.0
    if not 0 < count <= MOST_RATE or not seconds:
        raise UserError(f"{text[:32]!r} is not a rate.", "Give one such as 10/s, 60/min, 500/hour or 2000/day.")
    return count, seconds


def rate_text(terms: KeyTerms) -> str | None:
    """Returns the rate of a key as `parse_rate` reads it."""
    if not terms.rate_count:
        return None
    return f"{terms.rate_count}/{ {1.0: 's', 60.0: 'min', 3_600.0: 'hour', 86_400.0: 'day'}[terms.rate_s] }"


def parse_budget(text: str) -> tuple[float, Period]:
    """Reads `5.00` or `5.00/month` as US dollars and a period.

    Raises:
        UserError: It has another form.
    """
    match = re.fullmatch(r"\$?([0-9]{1,9}(?:\.[0-9]{1,6})?)(?:\s*/\s*(day|month))?", text.strip().lower())
    if match is None:
        raise UserError(f"{text[:32]!r} is not a budget.", "Give US dollars such as 5.00, 5.00/month or 0.50/day.")
    return float(match[1]), cast(Period, match[2] or "")


def _name(name: str) -> str:
    if len(name) > NAME_CHARS or not _NAME.fullmatch(name) or name.startswith("sk-"):
        what = f"The name {name[:NAME_CHARS]!r} of a key cannot be used."
        raise UserError(what, f"Give up to {NAME_CHARS} letters, digits, dots, hyphens, underscores and @.")
    return name


def _patterns(models: tuple[str, ...]) -> tuple[str, ...]:
    if len(models) > MOST_PATTERNS:
        raise UserError(f"A key takes at most {MOST_PATTERNS} patterns of models.", "Join some of them by a *.")
    for pattern in models:
        if not pattern or len(pattern) > PATTERN_CHARS or not pattern.isprintable() or " " in pattern:
            raise UserError(f"{pattern[:PATTERN_CHARS]!r} is no pattern of models.", "Give names, with * for any text.")
    return models
