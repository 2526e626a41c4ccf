"""Nodes that fetch a model from whoever has it, and have it then themselves: what the model service does of a node."""

from __future__ import annotations

from collections.abc import Sequence

from atmo.gossip.records import MODELS, ModelRecord, ModelsBody
from atmo.gossip.sync import RecordChanged
from atmo.identity import NodeId
from atmo.sim.machine import Node
from atmo.sim.scenario import Stage
from atmo.transfer.engine import TransferDone, TransferFailed
from atmo.wire.schema import unpack_untrusted

AGAIN_S = 5.0
"""After a transfer that failed. Source: guess."""

MIB = 1 << 20


class Fetching:
    """One model on its way to many nodes.

    Args:
        stage: Of the run.
        record: How holders tell of it; its manifest names the transfer.
        chunk_bytes: Size of its chunks.

    Attributes:
        wanted_at: When each node began to want it, by name.
        had_at: When each node had it, by name.
        failures: Transfers that failed and began again.
    """

    def __init__(self, stage: Stage, record: ModelRecord, chunk_bytes: int = MIB) -> None:
        self._stage = stage
        self._world = stage.world
        self.record = record
        self._transfer = record.manifest.hex()
        whole, rest = divmod(record.size_bytes, chunk_bytes)
        self.sizes: Sequence[int] = [chunk_bytes] * whole + ([rest] if rest else [])
        self._world.chunks.sizes[self._transfer] = self.sizes
        self.wanted_at: dict[str, float] = {}
        self.had_at: dict[str, float] = {}
        self.failures = 0
        self._world.watch.setdefault(RecordChanged, []).append(self._changed)
        self._world.watch.setdefault(TransferDone, []).append(self._done)
        self._world.watch.setdefault(TransferFailed, []).append(self._failed)

    def seed(self, node: Node) -> None:
        """Lets a node have the model from the beginning."""
        self._world.chunks.whole.setdefault(self._transfer, {})[node.name] = None
        self._has(node)

    def want(self, node: Node) -> None:
        """Lets a node fetch the model from all holders that it knows."""
        if node.peer is None or node.name in self.had_at:
            return
        self.wanted_at.setdefault(node.name, self._world.loop.now)
        offers = node.peer.models(self._world.now(node))
        holders = [
            offer.node for offer in offers if offer.record.manifest == self.record.manifest and offer.node != node.id
        ]
        self._stage.streams.of(node.id, "holders").shuffle(holders)
        have = self._world.chunks.kept(node, self._transfer)
        self._world.command(
            node, lambda peer, now: peer.want(now, self._transfer, self.sizes, have, holders, serves=True)
        )

    def again(self, node: Node) -> None:
        """Lets a node that has the model say so after a restart."""
        self._has(node)

    def lacks(self, node: Node) -> bool:
        """Says whether a chunk of the model never arrived at a node."""
        return len(self._world.chunks.kept(node, self._transfer)) < len(self.sizes)

    def _has(self, node: Node) -> None:
        self.had_at.setdefault(node.name, self._world.loop.now)
        self._world.command(node, lambda peer, now: peer.share(now, self._transfer, len(self.sizes)))
        self._world.command(node, lambda peer, now: peer.publish_models(now, [self.record]))

    def _changed(self, node: Node, change: RecordChanged) -> None:
        """A node that fetches hears of another holder."""
        if change.kind != MODELS or change.record is None or change.author == node.id or not change.record.body:
            return
        if node.name not in self.wanted_at or node.name in self.had_at:
            return
        models = unpack_untrusted(ModelsBody, change.record.body).models
        if any(held.manifest == self.record.manifest for held in models):
            author, life = change.author, node.life
            self._world.later(self._world.loop.now, lambda: self._holder(node, author, life))

    def _holder(self, node: Node, author: NodeId, life: int) -> None:
        if node.life == life and node.peer is not None and node.name not in self.had_at:
            self._world.command(node, lambda peer, now: peer.holder_up(now, self._transfer, author))

    def _done(self, node: Node, event: TransferDone) -> None:
        def have() -> None:
            if node.peer is not None and node.life == life:
                self._has(node)

        if event.transfer == self._transfer:
            life = node.life
            self._world.later(self._world.loop.now, have)

    def _failed(self, node: Node, event: TransferFailed) -> None:
        if event.transfer == self._transfer:
            self.failures += 1
            self._world.later(self._world.loop.now + AGAIN_S, lambda: self.want(node))

    # --- what came out --------------------------------------------------------------------------------------------

    def missing(self) -> list[str]:
        """Returns who wants it and does not have it."""
        return [name for name in self.wanted_at if name not in self.had_at]

    def seconds(self) -> list[float]:
        """Returns how long each node took that fetched it."""
        return [self.had_at[name] - since for name, since in self.wanted_at.items() if name in self.had_at]
