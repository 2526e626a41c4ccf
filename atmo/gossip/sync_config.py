"""Periods, bounds and counters of the replicated records."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SyncConfig:
    """Periods and bounds.

    Attributes:
        lifetime_s: Of own records. Source: choice; what a node held is forgotten five minutes after its last word.
        renew_s: Own records of that lifetime are signed again after this, a third of it, so that two losses do no harm;
            those of another lifetime, after as large a part of it.
        renew_spread: Up to this share sooner, by chance, so that no two nodes keep in step. Source: guess.
        skew_s: Tolerated difference of clocks. Source: docs/PROTOCOL.md section 8.
        reclaim_s: Between two times that this node takes back what is said in its name. Source: guess.
        sweep_s: Longest wait between two looks at the wall clock for what expired, as it may be set or jump.
        remember_s: An expired node record is still good for dialling this long. Source: guess.
        author_bytes, table_bytes: Of envelopes kept. Source: guess.
    """

    lifetime_s: int = 300
    renew_s: float = 100.0
    renew_spread: float = 0.1
    skew_s: float = 60.0
    reclaim_s: float = 10.0
    sweep_s: float = 30.0
    remember_s: float = 30 * 86_400
    author_bytes: int = 2 * 1024 * 1024
    table_bytes: int = 256 * 1024 * 1024


@dataclass(slots=True)
class SyncStats:
    """Counters since start.

    Attributes:
        accepted: Records that were news.
        replayed: Records not newer than what was known, and not the same.
        refused: Records that broke a rule.
        expired: Records past their lifetime.
        early: Records from the future: some clock is wrong.
        unknown_author: Records of nodes whose certificate is not known yet.
        no_room: Records beyond a bound of the table.
        reclaimed: Times that a newer record of ours came back from the mesh.
    """

    accepted: int = 0
    replayed: int = 0
    refused: int = 0
    expired: int = 0
    early: int = 0
    unknown_author: int = 0
    no_room: int = 0
    reclaimed: int = 0
