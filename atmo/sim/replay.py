"""Compares a run with the trace of an earlier one, entry by entry."""

from __future__ import annotations

from atmo.sim.trace import TraceReader


class Comparison:
    """Stands in for the file of a `Trace`: what would be written is compared with what was.

    Args:
        reader: Of the earlier run's trace.

    Attributes:
        bytes: Compared so far.
        differs: The byte at which the two part, None as long as they do not.
        ended: The recorded run stopped earlier, such as by Ctrl-C.
        longer: The recorded run went on after this one ended.
    """

    def __init__(self, reader: TraceReader) -> None:
        self._reader = reader
        self._mine = bytearray()
        self.bytes = 0
        self.differs: int | None = None
        self.ended = False
        self.longer = False

    def write(self, block: bytes) -> int:
        """Compares the next block; returns its length, as a file does."""
        if self.differs is None and not self.ended:
            theirs = self._reader.read(len(block))
            self.ended = len(theirs) < len(block)
            mine = block[: len(theirs)]
            if mine != theirs:
                ahead = next(index for index, pair in enumerate(zip(mine, theirs, strict=True)) if pair[0] != pair[1])
                self.differs = self.bytes + ahead
            self.bytes += len(theirs)
        return len(block)

    def close(self) -> None:
        """The reader is closed by whoever opened it."""

    def finish(self) -> None:
        """Looks whether the recorded run went on, once this one is over."""
        self.longer = self.differs is None and bool(self._reader.read(1))

    @property
    def same(self) -> bool:
        """Whether all that the trace tells happened again, and nothing else."""
        return self.differs is None and not self.longer

    def where(self) -> str:
        """Returns what the recorded run says at the place where the two part."""
        if self.differs is None:
            return "more"
        again = TraceReader(self._reader.path)
        try:
            entry = again.entry_at(self.differs)
        finally:
            again.close()
        return str(entry) if entry is not None else "the end"
