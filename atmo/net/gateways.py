"""The routers by which this machine reaches the rest of the world."""

from __future__ import annotations

import ipaddress
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import ifaddr

_ROUTE4, _ROUTE6 = Path("/proc/net/route"), Path("/proc/net/ipv6_route")
_GATEWAY, _REJECT = 0x2, 0x200  # RTF_GATEWAY, RTF_REJECT of linux/route.h
_LINES_MOST = 10_000
"""Source: guess; a machine with more routes has no router that opens ports."""

_SOMEWHERE = "192.0.2.1"  # of RFC 5737: nothing is sent there


def default_gateways() -> tuple[str, ...]:
    """Returns the address of the default router, of each IP version that has one.

    Linux tells. Elsewhere it is a guess: the first address of the network from which this machine would send, which is
    the router in most homes. None where the way out is a tunnel, which has no router.
    """
    if sys.platform != "linux":
        return _guess()
    found = (_best(_routes4(_read(_ROUTE4))), _best(_routes6(_read(_ROUTE6))))
    return tuple(gateway for gateway in found if gateway)


def _read(path: Path) -> list[str]:
    try:
        with path.open(encoding="ascii", errors="replace") as lines:
            return [line for line, _ in zip(lines, range(_LINES_MOST), strict=False)]
    except OSError:
        return []


def _best(routes: Iterator[tuple[int, str]]) -> str:
    """Returns the gateway of the default route with the lowest metric, empty where it has none."""
    return min(routes, key=lambda route: route[0], default=(0, ""))[1]


def _routes4(lines: list[str]) -> Iterator[tuple[int, str]]:
    for line in lines[1:]:
        fields = line.split()
        if len(fields) < 8 or int(fields[1], 16) or int(fields[7], 16) or int(fields[3], 16) & _REJECT:
            continue
        address = ipaddress.IPv4Address(int(fields[2], 16).to_bytes(4, sys.byteorder))
        yield int(fields[6]), str(address) if int(fields[3], 16) & _GATEWAY else ""


def _routes6(lines: list[str]) -> Iterator[tuple[int, str]]:
    for line in lines:
        fields = line.split()
        if len(fields) < 10 or int(fields[0], 16) or int(fields[1], 16) or int(fields[8], 16) & _REJECT:
            continue
        address = ipaddress.IPv6Address(bytes.fromhex(fields[4]))
        scope = f"%{fields[9]}" if address.is_link_local else ""
        yield int(fields[5], 16), f"{address}{scope}" if int(fields[8], 16) & _GATEWAY else ""


def _guess() -> tuple[str, ...]:
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.connect((_SOMEWHERE, 9))
            own = ipaddress.IPv4Address(sock.getsockname()[0])
    except OSError:
        return ()
    for adapter in ifaddr.get_adapters():
        for entry in adapter.ips:
            if entry.ip == str(own) and entry.network_prefix < 31:
                first = ipaddress.IPv4Interface(f"{own}/{entry.network_prefix}").network.network_address + 1
                return (str(first),) if first != own else ()
    return ()
