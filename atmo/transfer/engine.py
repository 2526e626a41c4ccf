"""The transfer engine: all downloads of a node, the swarms that it is in, and whom it serves.

It is told of wants, sources and outcomes, and answers with `FetchChunk` and `CancelFetch`; over links it tells others
of its swarms what it has and hears what they have. Bytes never come here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Sequence
from random import Random

from atmo.clock import Now
from atmo.engine import Contact, Effect, Emit, Message, Misbehaved, Outbox, Send, Store
from atmo.errors import WireError
from atmo.identity import NodeId
from atmo.transfer.bits import all_of, bits_of
from atmo.transfer.common import Common, names_swarm, nowhere
from atmo.transfer.config import TransferConfig
from atmo.transfer.download import Download
from atmo.transfer.events import TransferDone, TransferFailed, TransferProgress, TransferStats
from atmo.transfer.limits import Limits, LimitsConfig
from atmo.transfer.messages import SwarmHave, SwarmHello, SwarmLeave, SwarmMessage, SwarmPeers, SwarmSlot
from atmo.transfer.scores import SCORES_KEY, Scores
from atmo.transfer.slots import Slots
from atmo.transfer.swarm import Swarm

__all__ = ["TransferDone", "TransferEngine", "TransferFailed", "TransferProgress", "TransferStats"]


class TransferEngine:
    """All downloads of one node, and what it serves.

    Args:
        random: For choices among equals.
        config: Sizes and times.
        contact: Returns where a node is, as far as this node knows.

    Attributes:
        stats: Counts.
        scores: How reliable others have been.
        slots: Whom this node serves.
    """

    def __init__(
        self,
        random: Random,
        config: TransferConfig = TransferConfig(),
        contact: Callable[[NodeId], Contact] = nowhere,
    ) -> None:
        self.out = Outbox()
        self.stats = TransferStats()
        self.scores = Scores(config.scores)
        self._config = config
        self._limits = Limits(config.limits)
        self._common = Common(config, random, contact, self.out, self.stats, self.scores, self._limits)
        self._downloads: dict[str, Download] = {}
        self._shared: dict[str, int] = {}  # chunks of each model that is here as a whole
        self._swarms: dict[str, Swarm] = {}
        self.slots = Slots(self._common, self._swarms)
        self._due = math.inf  # nothing is due before

    # --- commands -------------------------------------------------------------------------------------------------

    def want(
        self,
        now: Now,
        transfer: str,
        sizes: Sequence[int],
        have: Collection[int],
        sources: Iterable[NodeId],
        *,
        patient: bool = False,
        serves: bool = False,
    ) -> None:
        """Starts a download; one that is under way only gets the sources.

        Args:
            now: The clocks.
            transfer: Names it in effects and events; the manifest's id in hexadecimal digits names a swarm as well.
            sizes: Of all chunks, in bytes.
            have: Indices that are already here and verified.
            sources: Nodes that have every chunk.
            patient: It waits for sources for ever instead of failing.
            serves: Others may fetch what has arrived while the rest is on its way, and afterwards.
        """
        if transfer not in self._downloads:
            if len(self._downloads) >= self._config.transfers_most:
                self._emit_failed(transfer, f"{self._config.transfers_most} other transfers are under way")
                return
            self.unshare(now, transfer)
            download = Download(now, transfer, sizes, have, self._common, patient=patient)
            self._downloads[transfer] = download
            if names_swarm(transfer, len(sizes)) and self._has_room(transfer):
                swarm = Swarm(transfer, len(sizes), download.picker.here, self._common, serves=serves)
                self._swarms[transfer] = swarm
                swarm.fetch(now, download)
        for node in sources:
            self._source(now, transfer, node)
        self._downloads[transfer].fill(now)
        self._go_on(now, transfer)

    def share(self, now: Now, transfer: str, count: int) -> None:
        """A model is here as a whole, in so many chunks: others may fetch it."""
        if names_swarm(transfer, count):
            self._shared[transfer] = count

    def unshare(self, now: Now, transfer: str) -> None:
        """A model is no longer here."""
        self._shared.pop(transfer, None)
        if transfer not in self._downloads:
            self._end_swarm(now, transfer)

    def pause(self, now: Now, transfer: str) -> None:
        """Takes all fetches of a download back and asks for nothing more; what is here is served on."""
        if transfer in self._downloads:
            self._downloads[transfer].pause(now)
            self._recompute()

    def resume(self, now: Now, transfer: str) -> None:
        """The counterpart of `pause`."""
        if transfer in self._downloads:
            self._downloads[transfer].resume(now)
            self._note(transfer)

    def cancel(self, now: Now, transfer: str) -> None:
        """Ends a download without any event; what arrived stays where it is."""
        download = self._downloads.pop(transfer, None)
        if download is not None:
            download.take_all_back()
            self._end_swarm(now, transfer)
            self._recompute()

    def set_limits(self, now: Now, limits: LimitsConfig) -> None:
        """Other limits hold from now on, of single downloads for those that begin."""
        self._limits.config = limits
        for transfer, download in self._downloads.items():
            download.fill(now)
            self._note(transfer)

    def may_serve(self, now: Now, node: NodeId, size: int) -> float | None:
        """A node asks for a chunk of so many bytes.

        Returns:
            How many seconds to wait before it is sent, as a limit is set; None where the node has no slot.
        """
        return self.slots.admit(now, node, size)

    def served(self, now: Now, node: NodeId, size: int, spared: int = 0) -> None:
        """What `may_serve` let through is over: so many bytes were sent, and so many did not have to be."""
        self.slots.served(now, node, size, spared)

    def accuse(self, node: NodeId, reason: str) -> None:
        """Counts against a node what the shell found wrong outside of chunks, such as a manifest that lies."""
        self.out.put(Misbehaved(node, reason))

    # --- sources and chunks ---------------------------------------------------------------------------------------

    def source_up(self, now: Now, transfer: str, node: NodeId, chunks: Iterable[int] | None = None) -> None:
        """A node has the model's chunks, all of them or those given; a node that was dropped stays dropped."""
        download = self._downloads.get(transfer)
        if download is not None:
            if chunks is None:
                self._source(now, transfer, node)
            else:
                download.add(now, node, bits_of(chunks, download.picker.count))
            download.ask(now, (node,))
            self._go_on(now, transfer)

    def source_left(self, now: Now, transfer: str, node: NodeId) -> None:
        """A node does not have the model any more."""
        download = self._downloads.get(transfer)
        if download is not None:
            if transfer in self._swarms:
                self._swarms[transfer].left(now, node)
                self.slots.gone(now, transfer, node)
            else:
                download.remove(now, node)
            self._go_on(now, transfer)

    def source_down(self, now: Now, node: NodeId) -> None:
        """The link to a node is gone, for all transfers."""
        for transfer, swarm in list(self._swarms.items()):
            swarm.lost(now, node)
            self.slots.gone(now, transfer, node)
            self._note(transfer)
        for transfer, download in self._downloads.items():
            download.remove(now, node)
            self._note(transfer)

    def link_up(self, now: Now, node: NodeId) -> None:
        """There is a link to a node."""
        for transfer, swarm in list(self._swarms.items()):
            swarm.linked(now, node)
            self._note(transfer)

    def failed(self, now: Now, node: NodeId) -> None:
        """Nobody answers at a node that was to be greeted."""
        for transfer, swarm in list(self._swarms.items()):
            swarm.unreachable(now, node)
            self._note(transfer)

    def chunk_done(self, now: Now, transfer: str, source: NodeId, index: int, travelled: int | None = None) -> None:
        """A chunk from `source` is verified and stored. Also good for a fetch that was just taken back.

        Args:
            now: The clocks.
            transfer, source, index: Of the fetch.
            travelled: How many bytes came in its place; None where it came as it is.
        """
        download = self._downloads.get(transfer)
        size = download.arrived(now, source, index, travelled) if download is not None else 0
        if not size:
            return
        self.stats.chunks += 1
        self.stats.bytes += size
        self.scores.delivered(now, source)
        swarm = self._swarms.get(transfer)
        if swarm is not None:
            swarm.gained(now, index, source)
            if source in swarm.partners:
                swarm.partners[source].taken += size
        self._go_on(now, transfer)

    def chunk_failed(self, now: Now, transfer: str, source: NodeId, index: int, reason: str, fatal: bool) -> None:
        """A fetch failed; `fatal` means that the source sent bytes that are not the chunk."""
        if fatal:
            self.stats.wrong += 1
            self.scores.lied(now, source)
            self.out.put(Misbehaved(source, reason))
        download = self._downloads.get(transfer)
        if download is None:
            return
        if fatal:
            download.drop(now, source, index)
        elif download.failed(now, source, index):
            self.stats.failed += 1
            self.scores.failed(now, source)
        self._go_on(now, transfer)

    # --- messages -------------------------------------------------------------------------------------------------

    def receive(self, now: Now, source: NodeId, message: Message) -> None:
        """Takes a message of a linked node."""
        if not isinstance(message, SwarmMessage):
            self.out.put(Misbehaved(source, f"the transfer engine knows no {type(message).__name__}"))
            return
        name = message.swarm.hex()
        swarm = self._swarms.get(name)
        if swarm is None and isinstance(message, SwarmHello) and name in self._shared and self._has_room(name):
            count = self._shared[name]
            swarm = self._swarms[name] = Swarm(name, count, all_of(count), self._common, serves=True)
        if swarm is None:
            if isinstance(message, SwarmHello) and not message.answer:
                self.out.put(Send(source, SwarmLeave(message.swarm)))
            return
        try:
            self._take_untrusted(now, swarm, source, message)
        except WireError as error:
            self.out.put(Misbehaved(source, str(error)))
        if name in self._downloads:
            self._go_on(now, name)
        else:
            self._note(name)

    def _take_untrusted(self, now: Now, swarm: Swarm, source: NodeId, message: SwarmMessage) -> None:
        match message:
            case SwarmHave():
                partner = swarm.have_untrusted(now, source, message)
                if partner is not None:
                    self.slots.gained(now, swarm, source, partner)
            case SwarmSlot():
                swarm.slot_untrusted(now, source, message)
            case SwarmHello():
                if swarm.hello_untrusted(now, source, message):
                    self.slots.greeted(now, swarm, source, anew=not message.answer)
            case SwarmPeers():
                swarm.peers_untrusted(now, source, message.peers)
            case _:
                swarm.leave_untrusted(now, source, message)
        if source not in swarm.partners:
            self.slots.gone(now, swarm.name, source)

    # --- time -----------------------------------------------------------------------------------------------------

    def handle_timer(self, now: Now) -> None:
        """Lets all parts do what is due, and gives up what has stalled."""
        for transfer, swarm in list(self._swarms.items()):
            if swarm.next_timer() <= now.mono and swarm.handle_timer(now):
                self.slots.consider(now, swarm)
            self._note(transfer)
        for transfer, download in list(self._downloads.items()):
            download.handle_timer(now)
            if now.mono >= download.give_up_at():
                self.cancel(now, transfer)
                self._emit_failed(transfer, download.why_given_up())
            else:
                self._go_on(now, transfer)
        self.slots.handle_timer(now)
        if now.mono >= self.scores.keep_at:
            self.keep(now)
        self._recompute()

    def keep(self, now: Now) -> None:
        """Has what is known of others kept on the disk, where anything is new."""
        if self.scores.keep_at < math.inf:
            self.out.put(Store(SCORES_KEY, self.scores.pack(now)))

    def next_timer(self) -> float:
        """Returns when `handle_timer` wants to be called, or earlier."""
        return min(self._due, self.slots.next_timer(), self.scores.keep_at)

    def drain(self) -> list[Effect]:
        """Returns and forgets the effects since the last call."""
        return self.out.drain()

    def rate_of(self, transfer: str, source: NodeId) -> float:
        """Returns how many bytes a second come from a source of a download, 0 while that is not known."""
        download = self._downloads.get(transfer)
        known = download.sources.get(source) if download is not None else None
        return known.rate if known is not None else 0.0

    def progress(self, now: Now, transfer: str) -> TransferProgress | None:
        """Returns how far a transfer is, None when it is not under way."""
        download = self._downloads.get(transfer)
        return None if download is None else download.progress(now)

    def partners(self, transfer: str) -> tuple[NodeId, ...]:
        """Returns with whom chunks of a model are exchanged."""
        swarm = self._swarms.get(transfer)
        return () if swarm is None else tuple(swarm.partners)

    # --- all parts ------------------------------------------------------------------------------------------------

    def _source(self, now: Now, transfer: str, node: NodeId) -> None:
        if transfer in self._swarms:
            self._swarms[transfer].holder(now, node)
        else:
            self._downloads[transfer].add(now, node, None)

    def _go_on(self, now: Now, transfer: str) -> None:
        """Ends a download that is complete, else tells how far it is."""
        download = self._downloads[transfer]
        if download.picker.missing:
            download.tell(now, self._config.progress_period_s)
            self._note(transfer)
            return
        download.tell(now, 0.0)
        del self._downloads[transfer]
        swarm = self._swarms.get(transfer)
        if swarm is not None:
            for node in swarm.finished(now):
                self.slots.gone(now, transfer, node)
            if swarm.serves:
                self._shared[transfer] = swarm.count
                self.slots.consider(now, swarm)
            else:
                self._end_swarm(now, transfer)
        self.stats.done += 1
        self.out.put(Emit(TransferDone(transfer)))
        self._recompute()

    def _has_room(self, transfer: str) -> bool:
        return transfer in self._swarms or len(self._swarms) < self._config.swarm.swarms

    def _end_swarm(self, now: Now, transfer: str) -> None:
        swarm = self._swarms.pop(transfer, None)
        if swarm is not None:
            nodes = list(swarm.partners)
            swarm.leave()
            for node in nodes:
                self.slots.gone(now, transfer, node)

    def _note(self, transfer: str) -> None:
        """Something of a transfer changed: it may be due earlier than before, and nobody may want it any more."""
        swarm = self._swarms.get(transfer)
        if transfer in self._downloads:
            self._due = min(self._due, self._downloads[transfer].next_timer())
        elif swarm is not None and not swarm.partners:
            del self._swarms[transfer]
            return
        if swarm is not None:
            self._due = min(self._due, swarm.next_timer())

    def _recompute(self) -> None:
        dues = [download.next_timer() for download in self._downloads.values()]
        self._due = min(dues + [swarm.next_timer() for swarm in self._swarms.values()], default=math.inf)

    def _emit_failed(self, transfer: str, reason: str) -> None:
        self.stats.lost += 1
        self.out.put(Emit(TransferFailed(transfer, reason)))
