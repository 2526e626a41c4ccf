"""What the transfer engine tells: events, and counters."""

from __future__ import annotations

from dataclasses import dataclass

from atmo.identity import NodeId


@dataclass(slots=True)
class TransferStats:
    """Counters over all transfers.

    Attributes:
        chunks, bytes: Arrived and verified.
        asked_again: Chunks asked of a second source in the end game.
        cancelled: Fetches taken back, for whatever reason.
        late: Fetches that passed their deadline.
        failed: Fetches that a source did not fulfil.
        wrong: Chunks whose bytes were not what their name says.
        done, lost: Transfers that finished and that failed.
        served_bytes: Of chunks that others were allowed to fetch.
        choked: Requests of others that had no slot.
        slots_opened: Slots that were given to others.
        advised: Chunks that a first seed handed out.
    """

    chunks: int = 0
    bytes: int = 0
    asked_again: int = 0
    cancelled: int = 0
    late: int = 0
    failed: int = 0
    wrong: int = 0
    done: int = 0
    lost: int = 0
    served_bytes: int = 0
    choked: int = 0
    slots_opened: int = 0
    advised: int = 0


@dataclass(frozen=True, slots=True)
class TransferProgress:
    """How far a transfer is.

    Attributes:
        transfer: Its name.
        bytes_done, bytes_total: What is here, and what will be.
        sources: Those that have sent something and are still there.
        bytes_s: Over the last seconds.
        left_s: Until it is done if that goes on; None while nothing comes.
        paused: Somebody paused it.
        waiting: There is nobody who has the model; it goes on when somebody comes back.
    """

    transfer: str
    bytes_done: int
    bytes_total: int
    sources: tuple[NodeId, ...]
    bytes_s: float = 0.0
    left_s: float | None = None
    paused: bool = False
    waiting: bool = False


@dataclass(frozen=True, slots=True)
class TransferDone:
    """Every chunk has arrived, verified."""

    transfer: str


@dataclass(frozen=True, slots=True)
class TransferFailed:
    """The engine has given up; what arrived stays where it is."""

    transfer: str
    reason: str
