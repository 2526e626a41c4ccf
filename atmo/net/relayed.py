"""Paths over relays: datagrams by node id become virtual paths of the endpoint, one for each node and relay.

A node holds a connection to its home relay, where others find it; to reach a node whose home is another relay it
connects to that one for as long as it is used (`atmo.relay.client`).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache, partial

import trio

from atmo.errors import RemoteError, WireError
from atmo.identity import NodeId, Signer
from atmo.net.paths import VirtualPath
from atmo.net.quic import Endpoint
from atmo.reach.config import RELAY
from atmo.relay.address import RelayAddress
from atmo.relay.client import RelayClient, RelayClientConfig, RelayState
from atmo.relay.http import SOCKET_PATHS
from atmo.relay.link import Connect, connect_tcp
from atmo.wire.address import Address

_OWN_MOST, _OTHERS_MOST = 96, 96
"""Paths that this node opened, and that others did, of the endpoint's 256 virtual ones; forwarded ones need room, too.
Whoever is at a relay can send datagrams, so that strangers fill no place that this node needs for itself."""

_NODE_MOST = 4
"""Of the former, to one node: whoever names ever new relays has its own oldest path closed. Source: guess; a node has
one home, and another one after it."""

_IDLE_S = 45.0
"""A path unused for so long makes room. Source: `QuicConfig.idle_timeout_s` and margin."""


@dataclass(eq=False, slots=True)
class _RelayPath:
    path: VirtualPath
    own: bool
    used_at: float = 0.0


Key = tuple[NodeId, RelayAddress]


class RelayPaths:
    """The relays of a node, and the paths over them.

    Args:
        endpoint: Whose connections run over the paths.
        signer: This node's key.
        relays: Its own; the first that answers becomes its home. Without any it still reaches nodes at theirs. None
            where its user names relays, as a join code does: those may be anywhere.
        config: Of the client.
        connect: Opens TCP connections; None for the system's, kept from where relays of others have no business.

    Attributes:
        changed: Told when the home relay changes, one after the other.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        signer: Signer,
        relays: Sequence[RelayAddress] | None = None,
        config: RelayClientConfig = RelayClientConfig(),
        connect: Connect | None = None,
    ) -> None:
        self.changed: list[Callable[[RelayState], None]] = []
        self._endpoint = endpoint
        self._own = frozenset(relays or ())
        self._trusts = relays is None
        self._paths: dict[Key, _RelayPath] = {}
        self._client = RelayClient(
            signer,
            relays or (),
            self._deliver_untrusted,
            absent=self._absent,
            changed=self._state_changed,
            config=config,
            connect=connect or self._connect,
        )

    def network_changed(self, hosts: Collection[str]) -> None:
        """This machine has these addresses now."""
        self._client.network_changed(hosts)

    async def run(self) -> None:
        """Holds the connections until cancelled."""
        await self._client.run()

    @property
    def state(self) -> RelayState:
        """Where this node can be found."""
        return self._client.state

    def home(self) -> str | None:
        """Returns the URL at which this node can be found, with the id that the relay has proved; None for nowhere."""
        state = self._client.state
        return None if state.home is None or state.relay is None else f"{state.home.url}#{state.relay}"

    def path(self, node: NodeId, url: str) -> VirtualPath:
        """Returns the path to a node over the relay at which it says it is found.

        Raises:
            RemoteError: That is no URL of a relay that this node would ask, or there are too many paths in use.
        """
        key = node, _address_untrusted(url)
        if not self._is_trusted(key[1]) and key[1].path not in SOCKET_PATHS:
            raise RemoteError(f"{key[1]} is not where a relay answers: others choose no path of a request")
        if key not in self._paths:
            same = {each: entry.used_at for each, entry in self._paths.items() if entry.own and each[0] == node}
            if len(same) >= _NODE_MOST:
                self._close(min(same, key=lambda each: same[each]), "its node names ever new relays")
        entry = self._open(key, own=True)
        entry.own = True
        return entry.path

    def _open(self, key: Key, *, own: bool) -> _RelayPath:
        entry = self._paths.get(key)
        if entry is None:
            alike = {each: entry.used_at for each, entry in self._paths.items() if entry.own == own}
            if len(alike) >= (_OWN_MOST if own else _OTHERS_MOST):
                oldest = min(alike, key=lambda each: alike[each])
                if trio.current_time() < alike[oldest] + _IDLE_S:
                    raise RemoteError(f"this node has {len(alike)} relayed paths in use, which is its limit")
                self._close(oldest, "it was not used for a while")
            path = self._endpoint.open_path(RELAY, partial(self._send, key))
            entry = self._paths[key] = _RelayPath(path, own, trio.current_time())
        if own:  # others use it by being answered
            entry.used_at = trio.current_time()
        return entry

    async def _connect(self, relay: RelayAddress) -> trio.abc.Stream:
        """Connects to a relay; to one that others named not where only this machine can be meant, or its link.

        Raises:
            OSError: There is none, or nowhere that others may have this node connect to.
        """
        if self._is_trusted(relay):
            return await connect_tcp(relay)
        with suppress(ValueError):  # a name, of which it is known where it leads when somebody answered
            self._check(str(ipaddress.ip_address(relay.host)))
        stream = await connect_tcp(relay)
        try:
            if isinstance(stream, trio.SocketStream):
                self._check(stream.socket.getpeername()[0])
        except OSError:
            await trio.aclose_forcefully(stream)
            raise
        return stream

    def _is_trusted(self, relay: RelayAddress) -> bool:
        return self._trusts or relay in self._own

    def _check(self, host: str) -> None:
        address = ipaddress.ip_address(host.partition("%")[0])
        address = getattr(address, "ipv4_mapped", None) or address
        if address.is_link_local or not self._endpoint.may_probe(Address(str(address), 1)):
            raise OSError(f"{host} is no place that others may have this node connect to")

    def _deliver_untrusted(self, node: NodeId, data: bytes, relay: RelayAddress) -> None:
        """Takes a datagram that a relay says is of a node; QUIC and the tags of probes say whether it is."""
        try:
            entry = self._open((node, relay), own=False)
        except RemoteError:
            return  # whoever uses a path keeps it
        entry.path.deliver_untrusted(data)

    def _state_changed(self, state: RelayState) -> None:
        for changed in self.changed:
            changed(state)

    def _absent(self, node: NodeId, relay: RelayAddress) -> None:
        if (node, relay) in self._paths:
            self._close((node, relay), f"it is not at the relay {relay.url}")

    def _send(self, key: Key, data: bytes) -> None:
        if entry := self._paths.get(key):
            entry.used_at = trio.current_time()
        self._client.send(key[0], data, key[1])

    def _close(self, key: Key, reason: str) -> None:
        self._paths.pop(key).path.close(reason)


@lru_cache(maxsize=256)
def _address_untrusted(url: str) -> RelayAddress:
    try:
        return RelayAddress.parse_untrusted(url)
    except WireError as error:
        raise RemoteError(str(error)) from error
