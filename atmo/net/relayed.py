"""Paths over relays: datagrams by node id become virtual paths of the endpoint, one for each node and relay.

A node holds a connection to its home relay, where others find it; to reach a node whose home is another relay it
connects to that one for as long as it is used (`atmo.relay.client`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
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
from atmo.relay.link import Connect, connect_tcp

_OWN_MOST, _OTHERS_MOST = 96, 96
"""Paths that this node opened, and that others did, of the endpoint's 256 virtual ones; forwarded ones need room, too.
Whoever is at a relay can send datagrams, so that strangers fill no place that this node needs for itself."""

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
        relays: Its own; the first that answers becomes its home. Without any it still reaches nodes at theirs.
        config: Of the client.
        connect: Opens TCP connections.

    Attributes:
        changed: Told when the home relay changes, one after the other.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        signer: Signer,
        relays: Sequence[RelayAddress] = (),
        config: RelayClientConfig = RelayClientConfig(),
        connect: Connect = connect_tcp,
    ) -> None:
        self.changed: list[Callable[[RelayState], None]] = []
        self._endpoint = endpoint
        self._paths: dict[Key, _RelayPath] = {}
        self._client = RelayClient(
            signer,
            relays,
            self._deliver_untrusted,
            absent=self._absent,
            changed=self._state_changed,
            config=config,
            connect=connect,
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
            RemoteError: That is no URL of a relay, or there are too many paths in use.
        """
        entry = self._open((node, _address_untrusted(url)), own=True)
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
            entry = self._paths[key] = _RelayPath(self._endpoint.open_path(RELAY, partial(self._send, key)), own)
        entry.used_at = trio.current_time()
        return entry

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
