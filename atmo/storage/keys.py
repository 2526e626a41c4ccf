"""Keys of clients of the HTTP endpoint: hashes, what each may do, what was done with it. What changes them blocks."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from atmo.errors import UserError
from atmo.storage.database import Database

MOST_KEYS = 1_000
"""That are not revoked. Source: guess; a person gives each to somebody."""

REVOKED_KEPT = 1_000
"""The newest revoked ones, so that who still uses one is told, and what it cost is known. Source: guess."""

Period = Literal["", "day", "month"]


@dataclass(frozen=True, slots=True)
class KeyTerms:
    """What a key allows.

    Attributes:
        name: For people; of two keys that are not revoked never the same.
        models: Patterns of models that may be used, empty for all.
        rate_count: Requests in `rate_s` seconds; 0 for any number.
        rate_s: See `rate_count`.
        budget: US dollars that may be spent, None for any.
        budget_period: In which, UTC; empty for ever.
        expires_at: Unix seconds; None for never.
    """

    name: str
    models: tuple[str, ...] = ()
    rate_count: int = 0
    rate_s: float = 60.0
    budget: float | None = None
    budget_period: Period = ""
    expires_at: float | None = None


@dataclass(slots=True)
class KeyUse:
    """What was done with a key.

    Attributes:
        used_at: Unix seconds of the last request, None before the first.
        requests: That were let in.
        prompt_tokens, completion_tokens: As far as backends told them.
        cost: US dollars.
        period: The day or month of `period_cost`, as in `2026-11`; empty where the budget is for ever.
        period_cost: US dollars of it.
    """

    used_at: float | None = None
    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0
    period: str = ""
    period_cost: float = 0.0


@dataclass(slots=True)
class StoredKey:
    """One key.

    Attributes:
        hash: By which it is known.
        terms: What it allows.
        created_at: Unix seconds.
        revoked_at: Unix seconds; None while it counts.
        use: What was done with it.
    """

    hash: bytes
    terms: KeyTerms
    created_at: float
    revoked_at: float | None = None
    use: KeyUse = field(default_factory=KeyUse)


_COLUMNS = (
    "hash, created_at, revoked_at, name, models, rate_count, rate_s, budget, budget_period, expires_at,"
    " used_at, requests, prompt_tokens, completion_tokens, cost, period, period_cost"
)


class KeyTable:
    """The table of a home.

    Args:
        database: Of the home.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def load(self) -> list[StoredKey]:
        """Returns all keys, the oldest first."""
        rows = self._database.query(f"SELECT {_COLUMNS} FROM api_keys ORDER BY created_at, hash")
        return [
            StoredKey(
                bytes(hashed),
                KeyTerms(name, tuple(filter(None, models.split("\n"))), *terms),
                created_at,
                revoked_at,
                KeyUse(*use),
            )
            for hashed, created_at, revoked_at, name, models, *rest in rows
            for terms, use in ((rest[:5], rest[5:]),)
        ]

    def add(self, hashed: bytes, terms: KeyTerms, now: float) -> StoredKey:
        """Keeps a new key.

        Raises:
            UserError: There are too many, or the name is taken.
        """
        with self._database.transaction() as run:
            (count,) = run.execute("SELECT count(*) FROM api_keys WHERE revoked_at IS NULL").fetchone()
            if count >= MOST_KEYS:
                raise UserError(f"There are {count} keys, more than that cannot be.", "Revoke those that are not used.")
            taken = "SELECT 1 FROM api_keys WHERE name = ? AND revoked_at IS NULL"
            if run.execute(taken, (terms.name,)).fetchone():
                hint = f"Give another name, or revoke that one with `atmo key revoke {terms.name}`."
                raise UserError(f"There is a key named {terms.name} already.", hint)
            columns = "hash, created_at, name, models, rate_count, rate_s, budget, budget_period, expires_at"
            rate, budget = (terms.rate_count, terms.rate_s), (terms.budget, terms.budget_period)
            values = (hashed, now, terms.name, "\n".join(terms.models), *rate, *budget, terms.expires_at)
            run.execute(f"INSERT INTO api_keys ({columns}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", values)
        return StoredKey(hashed, terms, now)

    def revoke(self, hashed: bytes, now: float) -> list[bytes]:
        """Takes a key back; of those that were taken back the oldest are forgotten, and returned."""
        with self._database.transaction() as run:
            run.execute("UPDATE api_keys SET revoked_at = ? WHERE hash = ? AND revoked_at IS NULL", (now, hashed))
            rows = run.execute(
                "DELETE FROM api_keys WHERE hash IN (SELECT hash FROM api_keys WHERE revoked_at IS NOT NULL"
                " ORDER BY revoked_at DESC LIMIT -1 OFFSET ?) RETURNING hash",
                (REVOKED_KEPT,),
            ).fetchall()
        return [bytes(forgotten) for (forgotten,) in rows]

    def write_use(self, uses: Iterable[tuple[bytes, KeyUse]]) -> None:
        """Notes how much was done with keys until now, in one transaction."""
        with self._database.transaction() as run:
            run.executemany(
                "UPDATE api_keys SET used_at = ?, requests = ?, prompt_tokens = ?, completion_tokens = ?, cost = ?,"
                " period = ?, period_cost = ? WHERE hash = ?",
                [
                    (
                        use.used_at,
                        use.requests,
                        use.prompt_tokens,
                        use.completion_tokens,
                        use.cost,
                        use.period,
                        use.period_cost,
                        hashed,
                    )
                    for hashed, use in uses
                ],
            )
