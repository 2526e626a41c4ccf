"""Invitations: one-time secrets, of which only hashes are kept: this node's own, and those of others it redeemed."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from typing import Literal

MOST_INVITES = 10_000
"""Invitations kept at once. Source: guess."""

KEPT_AFTER_S = 86_400.0
"""An expired invitation is remembered for a day, so that who uses it learns why it fails. Source: guess."""


@dataclass(frozen=True, slots=True)
class Redemption:
    """The outcome of using an invitation.

    Attributes:
        role: What the invitation grants, None when it grants nothing.
        reason: Why not; empty when it grants.
    """

    role: str | None
    reason: Literal["", "unknown", "expired", "used", "busy", "not founder"] = ""


@dataclass(frozen=True, slots=True)
class OpenInvite:
    """An invitation that has not expired.

    Attributes:
        secret_hash: Names it.
        role: What it grants.
        expires_at: Unix seconds.
        used_by: The id of the node that used it here, None while nobody has.
    """

    secret_hash: bytes
    role: str
    expires_at: int
    used_by: bytes | None


def add(run: sqlite3.Connection, secret_hash: bytes, role: str, expires_at: float, now: float) -> None:
    """Keeps a new invitation, within a transaction.

    Raises:
        ValueError: There are too many invitations, or this secret exists.
    """
    run.execute("DELETE FROM invites WHERE expires_at < ?", (now - KEPT_AFTER_S,))
    (count,) = run.execute("SELECT count(*) FROM invites").fetchone()
    if count >= MOST_INVITES:
        raise ValueError(f"there are already {count} invitations")
    if run.execute("SELECT 1 FROM invites WHERE secret_hash = ?", (secret_hash,)).fetchone():
        raise ValueError("this secret is already in use")
    run.execute(
        "INSERT INTO invites (secret_hash, role, expires_at, created_at) VALUES (?, ?, ?, ?)",
        (secret_hash, role, expires_at, now),
    )


def redeem(run: sqlite3.Connection, secret_hash: bytes, node: bytes, now: float) -> Redemption:
    """Uses an invitation for `node`, within a transaction."""
    row = run.execute("SELECT role, expires_at, used_by FROM invites WHERE secret_hash = ?", (secret_hash,)).fetchone()
    if row is None:
        return Redemption(None, "unknown")
    role, expires_at, used_by = row
    if now >= expires_at:
        return Redemption(None, "expired")
    if used_by is None:
        run.execute("UPDATE invites SET used_by = ?, used_at = ? WHERE secret_hash = ?", (node, now, secret_hash))
    elif bytes(used_by) != node:
        return Redemption(None, "used")
    return Redemption(str(role))


def take(
    run: sqlite3.Connection, secret_hash: bytes, role: str, expires_at: float, node: bytes, now: float
) -> Redemption:
    """Uses another node's invitation for `node`, within a transaction; it is kept so that it is not used again.

    Raises:
        ValueError: There are too many invitations.
    """
    if not run.execute("SELECT 1 FROM invites WHERE secret_hash = ?", (secret_hash,)).fetchone():
        add(run, secret_hash, role, expires_at, now)
    return redeem(run, secret_hash, node, now)
