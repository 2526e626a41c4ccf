"""Paths over relays: datagrams by node id become virtual paths of the endpoint, one for each node and relay."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Protocol

import trio

from atmo.errors import RemoteError
from atmo.identity import NodeId
from atmo.net.paths import VirtualPath
from atmo.net.quic import Endpoint
from atmo.reach.config import RELAY

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


class Carries(Protocol):
    """What carries datagrams by node id: `relay.client.RelayClient` with its addresses as text."""

    def send(self, node: NodeId, data: bytes, url: str) -> None:
        """Sends a datagram to a node over the relay at a URL; never blocks, drops what it cannot take."""

    def home(self) -> str | None:
        """Returns the URL of the relay at which this node is found now."""


class RelayPaths:
    """The relayed paths of an endpoint.

    Args:
        endpoint: Whose connections run over them.
        carries: Carries the datagrams.
    """

    def __init__(self, endpoint: Endpoint, carries: Carries) -> None:
        self._endpoint = endpoint
        self._carries = carries
        self._paths: dict[tuple[NodeId, str], _RelayPath] = {}

    def home(self) -> str | None:
        """Returns the URL of the relay at which this node is found now."""
        return self._carries.home()

    def path(self, node: NodeId, url: str) -> VirtualPath:
        """Returns the path to a node over a relay, for this node's own use.

        Raises:
            RemoteError: There are too many that are in use.
        """
        entry = self._open((node, url), own=True)
        entry.own = True
        return entry.path

    def _open(self, key: tuple[NodeId, str], *, own: bool) -> _RelayPath:
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

    def deliver_untrusted(self, node: NodeId, data: bytes, url: str) -> None:
        """Takes a datagram that a relay says is of a node; QUIC and the tags of probes say whether it is."""
        try:
            entry = self._open((node, url), own=False)
        except RemoteError:
            return  # whoever uses a path keeps it
        entry.path.deliver_untrusted(data)

    def absent(self, node: NodeId, url: str, reason: str) -> None:
        """A node is not at a relay, or the relay cannot be reached: what runs over that alone ends."""
        if (node, url) in self._paths:
            self._close((node, url), reason)

    def close_all(self, reason: str) -> None:
        """Ends all of them."""
        for key in list(self._paths):
            self._close(key, reason)

    def _send(self, key: tuple[NodeId, str], data: bytes) -> None:
        if entry := self._paths.get(key):
            entry.used_at = trio.current_time()
        self._carries.send(key[0], data, key[1])

    def _close(self, key: tuple[NodeId, str], reason: str) -> None:
        self._paths.pop(key).path.close(reason)
