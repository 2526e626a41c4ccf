"""Virtual paths: what carries datagrams other than the UDP socket, such as a chain of neighbours (`net.forwarding`).

To QUIC a path is an address. A virtual one has a pseudo address that no socket reports: a triple whose host is of the
range that is routed nowhere (100::/64, RFC 6666), so that it prints and counts like an address and never leaves.
"""

from __future__ import annotations

from collections.abc import Callable

from atmo.errors import RemoteError
from atmo.net.quic_core import SocketAddress

SendDatagram = Callable[[bytes], None]
"""Takes a datagram to send; never blocks, drops what it cannot take, and never calls the endpoint back."""

PATHS_MOST = 256
"""As many as an endpoint's connections. Source: `QuicConfig.max_connections`."""

_NUMBERS = 2**48
_PREFIX = "100::"


def is_virtual(address: SocketAddress) -> bool:
    """Says whether an address is that of a virtual path; those of sockets have two or four parts."""
    return len(address) == 3


def is_virtual_host(host: str) -> bool:
    """Says whether a host is that of a virtual path."""
    return host.startswith(_PREFIX)


def kind_of(address: SocketAddress) -> str:
    """Returns what kind of path a pseudo address is of, such as `forward`."""
    return str(address[2])


class VirtualPath:
    """One path; made by `Endpoint.open_path`.

    Attributes:
        address: Its pseudo address.
        send: Carries a datagram to the other end.
    """

    def __init__(
        self, number: int, kind: str, send: SendDatagram, arrived: Callable[[bytes, VirtualPath], None], gone: Closed
    ) -> None:
        self.address: SocketAddress = (
            f"{_PREFIX}{number >> 32:x}:{number >> 16 & 0xFFFF:x}:{number & 0xFFFF:x}",
            1,
            kind,
        )
        self.send = send
        self._arrived = arrived
        self._gone = gone

    def __repr__(self) -> str:
        return f"<VirtualPath {self.host}>"

    @property
    def kind(self) -> str:
        """Such as `forward`."""
        return kind_of(self.address)

    @property
    def host(self) -> str:
        """The host of its pseudo address."""
        return str(self.address[0])

    def deliver_untrusted(self, data: bytes) -> None:
        """Takes a datagram that came over this path."""
        self._arrived(data, self)

    def close(self, reason: str) -> None:
        """Forgets the path and closes the connections that run over it; once is enough."""
        self._gone(self, reason)


Closed = Callable[[VirtualPath, str], None]


class VirtualPaths:
    """The open virtual paths of an endpoint."""

    def __init__(self) -> None:
        self._paths: dict[str, VirtualPath] = {}
        self._number = 0

    def __len__(self) -> int:
        return len(self._paths)

    def open(
        self, kind: str, send: SendDatagram, arrived: Callable[[bytes, VirtualPath], None], gone: Closed
    ) -> VirtualPath:
        """Opens a path.

        Raises:
            RemoteError: There are too many.
        """
        if len(self._paths) >= PATHS_MOST:
            raise RemoteError(f"this node has {PATHS_MOST} forwarded paths, which is its limit")
        self._number = self._number % (_NUMBERS - 1) + 1
        path = VirtualPath(self._number, kind, send, arrived, gone)
        self._paths[path.host] = path
        return path

    def find(self, address: SocketAddress) -> VirtualPath | None:
        """Returns the path of a pseudo address, None once it is closed."""
        return self._paths.get(address[0])

    def close(self, path: VirtualPath) -> bool:
        """Forgets a path; says whether it was there."""
        return self._paths.pop(path.host, None) is not None
