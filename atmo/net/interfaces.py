"""The addresses under which other machines may reach this one."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterator
from itertools import islice

import ifaddr

from atmo.wire.address import Address

_VIRTUAL = ("docker", "br-", "veth", "virbr", "cni", "flannel", "podman", "lxc", "lxd")
"""Bridges of containers and virtual machines: nobody outside this machine reaches them."""

_IPV6_MOST = 3
"""IPv6 addresses come first where there are some (RFC 6724), and privacy addresses (RFC 8981) make them many."""

Interface = ipaddress.IPv4Interface | ipaddress.IPv6Interface
"""An address of this machine, with its network."""
_INTERFACES_MOST = 16
"""Source: guess; a machine with more is no machine on one LAN."""


def reachable_addresses(host: str, port: int) -> tuple[Address, ...]:
    """Returns where a socket bound to `host` can be reached, best first; loopback only where there is nothing else.

    Args:
        host: A literal address; `0.0.0.0` and `::` stand for all interfaces.
        port: Of the socket; 0 when it is not known, which gives no address.
    """
    if not port:
        return ()
    if not ipaddress.ip_address(host).is_unspecified:
        return (Address(host, port),)
    both = ":" in host
    found: list[ipaddress.IPv4Address | ipaddress.IPv6Address] = []
    for interface in _interfaces():
        address = interface.ip
        if not address.is_link_local and (both or address.version == 4):
            found.append(address)
    found.sort(key=lambda address: (address.version, int(address)))
    six = [address for address in found if address.version == 6][:_IPV6_MOST]
    four = [address for address in found if address.version == 4]
    return tuple(Address(str(address), port) for address in [*six, *four]) or (Address("127.0.0.1", port),)


def any_host() -> str:
    """Returns the host that stands for all addresses of this machine: `::`, or `0.0.0.0` where there is no IPv6."""
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
            sock.bind(("::", 0))
    except OSError:
        return "0.0.0.0"
    return "::"


def lan_interfaces(host: str) -> tuple[Interface, ...]:
    """Returns where others of the same LAN reach a socket bound to `host`; none where it is bound to loopback.

    Unlike `reachable_addresses` it counts the addresses that machines give themselves where nobody else does.
    """
    bound = ipaddress.ip_address(host)
    found = [
        interface
        for interface in _interfaces()
        if interface.ip == bound or (bound.is_unspecified and (bound.version == 6 or interface.version == 4))
    ]
    found.sort(key=lambda interface: (interface.version, int(interface.ip)))
    return tuple(islice(found, _INTERFACES_MOST))


def is_near(host: str) -> bool:
    """Says whether a host is this machine, or in a private network in which this machine has an address, too."""
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        return False
    if ip.is_loopback:
        return True
    return ip.is_private and any(ip in interface.network for interface in _interfaces())


def _interfaces() -> Iterator[Interface]:
    for adapter in ifaddr.get_adapters():
        if adapter.name.startswith(_VIRTUAL):
            continue
        for entry in adapter.ips:
            text = entry.ip if isinstance(entry.ip, str) else entry.ip[0]
            interface = ipaddress.ip_interface(f"{text}/{entry.network_prefix}")
            if not interface.ip.is_loopback:
                yield interface
