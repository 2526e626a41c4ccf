"""Network addresses as they travel in records, join codes and effects."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Annotated

from atmo.errors import WireError
from atmo.identity import NodeId
from atmo.wire.schema import Most

_TEXT = re.compile(r"(?:\[([0-9a-fA-F:.]+)\]|([0-9.]+)):([0-9]{1,5})")
_SCOPE = re.compile(r"[A-Za-z0-9._-]{1,16}")


@dataclass(frozen=True, slots=True)
class Address:
    """A UDP (and TCP) endpoint: a literal IP address and a port.

    Raises:
        ValueError: The host is no IP address or the port is not within 1 to 65535.
    """

    host: Annotated[str, Most(45)]
    port: Annotated[int, Most(65_535)]

    def __post_init__(self) -> None:
        ipaddress.ip_address(self.host)
        _, percent, scope = self.host.partition("%")
        if percent and not _SCOPE.fullmatch(scope):
            raise ValueError("the scope of an IPv6 address is no interface's name")
        if not 0 < self.port < 65_536:
            raise ValueError(f"port {self.port} is not within 1 to 65535")

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @classmethod
    def parse(cls, text: str) -> Address:
        """Reads `1.2.3.4:5` or `[::1]:5`.

        Raises:
            WireError: It is not such an address.
        """
        form = _TEXT.fullmatch(text)
        try:
            if form is not None:
                return cls(form[1] or form[2], int(form[3]))
        except ValueError:
            pass
        raise WireError(f"{text[:64]!r} is not an address such as 192.168.1.10:11450 or [::1]:11450")


def host_group(host: str) -> str:
    """Returns what counts as one host: the IPv4 address, also one on an IPv6 socket, or the /64 of an IPv6 address."""
    if ":" not in host:
        return host
    address = ipaddress.IPv6Address(host.partition("%")[0])
    return str(address.ipv4_mapped or address.exploded[:19])


CONTACT_ADDRESSES = 4
"""Addresses of one contact: a public one, one of the LAN, and both of IPv6."""


@dataclass(frozen=True, slots=True)
class Contact:
    """Where a node is said to listen. A hint for a dial, no more: the dial proves who answers there.

    Attributes:
        node: Who.
        addresses: The best ones first.
    """

    node: NodeId
    addresses: Annotated[tuple[Address, ...], Most(CONTACT_ADDRESSES)]
