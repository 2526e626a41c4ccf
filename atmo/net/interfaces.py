"""The addresses under which other machines may reach this one."""

from __future__ import annotations

import ipaddress

import ifaddr

from atmo.wire.address import Address

_VIRTUAL = ("docker", "br-", "veth", "virbr", "cni", "flannel", "podman", "lxc", "lxd")
"""Bridges of containers and virtual machines: nobody outside this machine reaches them."""


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
    for adapter in ifaddr.get_adapters():
        if adapter.name.startswith(_VIRTUAL):
            continue
        for entry in adapter.ips:
            address = ipaddress.ip_address(entry.ip if isinstance(entry.ip, str) else entry.ip[0])
            if not (address.is_loopback or address.is_link_local) and (both or address.version == 4):
                found.append(address)
    found.sort(key=lambda address: (address.version, int(address)))
    return tuple(Address(str(address), port) for address in found) or (Address("127.0.0.1", port),)
