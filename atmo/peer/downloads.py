"""The commands of a peer by which the shell starts downloads and tells what became of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Sequence

from atmo.clock import Now
from atmo.engine import FetchChunk
from atmo.identity import NodeId
from atmo.transfer.engine import TransferEngine


class Downloads(ABC):
    """This part of a peer's commands.

    Attributes:
        transfer: The engine that they go to.
    """

    transfer: TransferEngine

    @abstractmethod
    def _settle(self, now: Now) -> None:
        """Moves effects outwards until the inner engines are silent."""

    def want(
        self, now: Now, transfer: str, sizes: Sequence[int], have: Collection[int], holders: Iterable[NodeId]
    ) -> None:
        """Starts a download; see `TransferEngine.want`."""
        self.transfer.want(now, transfer, sizes, have, holders)
        self._settle(now)

    def cancel(self, now: Now, transfer: str) -> None:
        """Ends a download without any event."""
        self.transfer.cancel(now, transfer)
        self._settle(now)

    def holder_up(self, now: Now, transfer: str, node: NodeId) -> None:
        """A node has all chunks of a download."""
        self.transfer.source_up(now, transfer, node)
        self._settle(now)

    def holder_left(self, now: Now, transfer: str, node: NodeId) -> None:
        """A node does not have the chunks of a download any more."""
        self.transfer.source_left(now, transfer, node)
        self._settle(now)

    def chunk_done(self, now: Now, fetch: FetchChunk) -> None:
        """A chunk is verified and stored."""
        self.transfer.chunk_done(now, fetch.transfer, fetch.source, fetch.index)
        self._settle(now)

    def chunk_failed(self, now: Now, fetch: FetchChunk, reason: str, *, fatal: bool) -> None:
        """A fetch failed; `fatal` means that the source sent bytes that are not the chunk."""
        self.transfer.chunk_failed(now, fetch.transfer, fetch.source, fetch.index, reason, fatal)
        self._settle(now)
