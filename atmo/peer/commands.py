"""What the services and the shell ask of a peer."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from atmo.clock import Now
from atmo.engine import FetchChunk, Misbehaved, Send, Store
from atmo.errors import WireError
from atmo.gossip.messages import Goodbye
from atmo.gossip.records import DeprecationBody, Hardware, ModelRecord, NodeRecord, ProfileBody
from atmo.identity import NodeId
from atmo.peer.budgets import Cost
from atmo.peer.directory import open_body_untrusted
from atmo.peer.queries import Queries
from atmo.peer.rights import Rights
from atmo.router.capability import Capability
from atmo.transfer.limits import LimitsConfig
from atmo.transfer.scores import SCORES_KEY
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

    def publish_models(self, now: Now, models: Sequence[ModelRecord]) -> tuple[ModelRecord, ...]:
        """Tells the mesh which models this node holds, in place of what it said before.

        One that no reader would accept is left out: an `AdvertLeftOut` says so. Where they are many, the mesh is told
        a digest of them, and who asks gets answers by pages.

        Returns:
            Those that were not left out.
        """
        told, untold = self._adverts.models(now, models)
        self._settle(now)
        if untold:
            self._directory.answered(self.node_id, told, most=len(told))
        self._provide(now)
        self._settle(now)
        return told

    def publish_capabilities(self, now: Now, capabilities: Sequence[Capability]) -> None:
        """Tells the mesh what this node can run, in place of what it said before.

        One that no reader would accept is left out: an `AdvertLeftOut` says so.

        Raises:
            WireError: They are more than a node may tell; what it said before stands.
        """
        self._adverts.capabilities(now, capabilities)
        self._settle(now)
        self._provide(now)
        self._settle(now)

    def publish_profile(self, now: Now, profile: ProfileBody) -> None:
        """Tells the mesh what this node has beside its hardware.

        Raises:
            WireError: Nobody would accept it.
        """
        self._adverts.profile(now, profile)
        self._settle(now)

    def publish_deprecation(self, now: Now, deprecation: DeprecationBody, *, withdrawn: bool = False) -> None:
        """Advises everybody against versions of a model, for a year, or takes that back.

        This node says it again after each start, as what it said before is not its word any more.

        Raises:
            WireError: Nobody would accept it, or this node says too much.
        """
        self._adverts.deprecation(now, deprecation, withdrawn=withdrawn)
        self._settle(now)

    def learn_models(self, now: Now, node: NodeId, models: Iterable[ModelRecord]) -> None:
        """A node that tells the mesh a digest answered that it has these: they count among its models from now on."""
        self._directory.answered(node, models)

    def leave(self, now: Now, reason: str = "shutting down") -> None:
        """Tells the mesh that this node leaves, and says goodbye to everyone it is linked with."""
        self._adverts.leave(now)
        self.transfer.keep(now)
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

    def load_scores(self, now: Now, kept: bytes | None) -> None:
        """Remembers what is known of sources from before a restart: what lay under `scores.SCORES_KEY`, if anything."""
        try:
            self.transfer.scores.unpack_untrusted(now, kept or b"")
        except WireError:
            self._out.put(Store(SCORES_KEY, None))

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
        self,
        now: Now,
        transfer: str,
        sizes: Sequence[int],
        have: Collection[int],
        holders: Iterable[NodeId],
        *,
        patient: bool = False,
        serves: bool = False,
    ) -> None:
        """Starts a download; see `TransferEngine.want`."""
        self.transfer.want(now, transfer, sizes, have, holders, patient=patient, serves=serves)
        self._settle(now)

    def share(self, now: Now, transfer: str, count: int) -> None:
        """A model is here as a whole, in so many chunks: others may fetch it; see `TransferEngine.share`."""
        self.transfer.share(now, transfer, count)

    def unshare(self, now: Now, transfer: str) -> None:
        """A model is no longer here."""
        self.transfer.unshare(now, transfer)
        self._settle(now)

    def may_serve(self, now: Now, node: NodeId, size: int) -> float | None:
        """A node asks for a chunk; returns the seconds to wait before it is sent, None where it has no slot."""
        return self.transfer.may_serve(now, node, size)

    def served(self, now: Now, node: NodeId, size: int, spared: int = 0) -> None:
        """What `may_serve` let through is over: so many bytes were sent, and so many did not have to be."""
        self.transfer.served(now, node, size, spared)

    def pause(self, now: Now, transfer: str) -> None:
        """Takes all fetches of a download back and asks for nothing more."""
        self.transfer.pause(now, transfer)
        self._settle(now)

    def resume(self, now: Now, transfer: str) -> None:
        """The counterpart of `pause`."""
        self.transfer.resume(now, transfer)
        self._settle(now)

    def set_limits(self, now: Now, limits: LimitsConfig) -> None:
        """Other limits of transfers hold from now on."""
        self.transfer.set_limits(now, limits)
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

    def chunk_done(self, now: Now, fetch: FetchChunk, travelled: int | None = None) -> None:
        """A chunk is verified and stored; so many bytes came in its place where it did not come as it is."""
        self.transfer.chunk_done(now, fetch.transfer, fetch.source, fetch.index, travelled)
        self._settle(now)

    def chunk_failed(self, now: Now, fetch: FetchChunk, reason: str, *, fatal: bool) -> None:
        """A fetch failed; `fatal` means that the source sent bytes that are not the chunk."""
        self.transfer.chunk_failed(now, fetch.transfer, fetch.source, fetch.index, reason, fatal)
        self._settle(now)
