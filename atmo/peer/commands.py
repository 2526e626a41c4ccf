"""What the services and the shell ask of a peer."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from atmo.clock import Now
from atmo.engine import FetchChunk, Misbehaved, Send
from atmo.errors import WireError
from atmo.gossip.messages import Goodbye
from atmo.gossip.records import Hardware, ModelRecord, NodeRecord
from atmo.identity import NodeId
from atmo.peer.budgets import Cost
from atmo.peer.directory import open_body_untrusted
from atmo.peer.queries import Queries
from atmo.peer.rights import Rights
from atmo.router.capability import Capability
from atmo.wire.address import CONTACT_ADDRESSES, Address, Contact

REASON_CHARS = 200


class Commands(Queries, Rights):
    """This part of a peer."""

    # --- what this node tells the mesh ----------------------------------------------------------------------------

    def publish_node(self, now: Now, name: str, addresses: Sequence[Address], version: str, hardware: Hardware) -> None:
        """Tells the mesh who this node is and where it listens.

        Raises:
            WireError: The name is one that every reader would refuse.
        """
        self.hyparview.contact = Contact(self.node_id, tuple(addresses[:CONTACT_ADDRESSES]))
        self.index.contact = self.hyparview.contact
        self._adverts.node(now, name, addresses, version, hardware)
        self._settle(now)

    def publish_relay(self, now: Now, url: str | None) -> None:
        """Tells the mesh at which relay this node is found, once it said who it is; None for at none."""
        self._adverts.relay(now, url)
        self._settle(now)

    def publish_models(self, now: Now, models: Sequence[ModelRecord]) -> None:
        """Tells the mesh which models this node holds, in place of what it said before.

        One that no reader would accept is left out: an `AdvertLeftOut` says so.

        Raises:
            WireError: They are more than a node may tell; what it said before stands.
        """
        self._adverts.models(now, models)
        self._settle(now)
        self._provide(now)
        self._settle(now)

    def publish_capabilities(self, now: Now, capabilities: Sequence[Capability]) -> None:
        """Tells the mesh what this node can run, in place of what it said before; see `publish_models`."""
        self._adverts.capabilities(now, capabilities)
        self._settle(now)
        self._provide(now)
        self._settle(now)

    def leave(self, now: Now, reason: str = "shutting down") -> None:
        """Tells the mesh that this node leaves, and says goodbye to everyone it is linked with."""
        self._adverts.leave(now)
        self.hyparview.leave(now)
        self._settle(now)
        for node in self.linked():
            self._out.put(Send(node, Goodbye(reason[:REASON_CHARS])))

    def set_load(self, load: int) -> None:
        """Tells how many requests this node is running: its answers to pings say so."""
        self.detector.load = load

    # --- what it knows from before --------------------------------------------------------------------------------

    def load_records(self, now: Now, envelopes: Iterable[bytes]) -> None:
        """Takes the records kept from an earlier run or handed over at joining.

        Revocations among them count if their authors could write them at their dates. Node records that have expired
        tell where to look for their authors.
        """
        expired = self.sync.load(now, envelopes)
        self._settle(now)
        for author, record in sorted(expired, key=lambda row: row[1].issued_s):
            try:
                node = open_body_untrusted(NodeRecord, record.body)
                self.trust.admit_untrusted(now.wall, author, node.certificate, node.issuer_certificate)
            except WireError:
                self.sync.forget(author)
                continue
            self._directory.remember(author, record)
            self.hyparview.learn(now, self._contact(author), stale=True)
        self._forget_surplus(now)
        self._settle(now)

    def load_bans(self, now: Now, kept: Iterable[tuple[str, bytes]]) -> None:
        """Keeps out who broke too much before a restart: keys that begin with `strikes.BAN_PREFIX`, and values."""
        for store in self._offenders.load(now, kept):
            self._out.put(store)

    # --- links ----------------------------------------------------------------------------------------------------

    def reach(self, now: Now, node: NodeId, addresses: tuple[Address, ...] = ()) -> None:
        """Opens a link to a member unless there is one: `LinkReady` or `Unreachable` tells how it went.

        Args:
            now: The clocks.
            node: Who.
            addresses: Where it listens, if that was just heard of it; else what this node knows.
        """
        self._seek(now, node, addresses)
        self._settle(now)

    def nearby(self, now: Now, node: NodeId, addresses: Sequence[Address]) -> None:
        """Opens a link to a node that is said to be near and of this mesh, unless there is one.

        Args:
            now: The clocks.
            node: Who; the dial proves that it is it, its Hello that it is a member.
            addresses: Where it is said to listen, by nobody knows whom: what its record says is tried as well, so that
                a lie costs time and does not make it look unreachable.
        """
        places = dict.fromkeys((*addresses[:CONTACT_ADDRESSES], *self._contact(node).addresses))
        self._links.dial(now, Contact(node, tuple(places)))
        self._settle(now)

    def hold(self, now: Now, node: NodeId) -> None:
        """Something runs over the link to this node, which stays until `release`."""
        self._links.hold(now, node)
        self._watch(now, node)
        self._settle(now)

    def release(self, now: Now, node: NodeId) -> None:
        """The counterpart of `hold`; without a link it does nothing."""
        self._links.release(now, node)
        self._unwatch(now, node)
        self._settle(now)

    def admits_stream(self, now: Now, node: NodeId) -> bool:
        """Charges a request that `node` opens; returns whether it is within its budget."""
        if self.budgets.admits(now, node, Cost.STREAM):
            return True
        self.accuse(now, node, "more requests than anyone may open")
        return False

    def accuse(self, now: Now, node: NodeId, reason: str) -> None:
        """Counts against a node what the shell found wrong outside of chunks, such as a manifest that lies."""
        self._move(now, Misbehaved(node, reason))
        self._settle(now)

    # --- looking things up ----------------------------------------------------------------------------------------

    def find_providers(self, now: Now, key: bytes) -> int:
        """Looks for the providers of a key (`atmo.index.keys`) in the index.

        Returns:
            The number of the query, which `ProviderFound` events carry as providers are found, and `LookupDone` at its
            end.
        """
        query = self.index.find_providers(now, key)
        self._settle(now)
        return query

    def find_node(self, now: Now, node: NodeId) -> int:
        """Looks for a node in the index: `NodeFound` tells where it is said to be, `LookupDone` that it is over."""
        query = self.index.find_node(now, node)
        self._settle(now)
        return query

    def cancel_query(self, now: Now, query: int) -> None:
        """Ends a query without any further event."""
        self.index.cancel(now, query)
        self._settle(now)

    def find_route(self, now: Now, target: NodeId, deadline: float) -> int:
        """Looks for a way to a node through neighbours, until a monotonic second: `RouteFound` or `RouteFailed`."""
        search = self.routes.find(now, target, deadline)
        self._settle(now)
        return search

    def cancel_route(self, now: Now, search: int) -> None:
        """Ends a search without any further event."""
        self.routes.cancel(now, search)
        self._settle(now)

    # --- downloads ------------------------------------------------------------------------------------------------

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
