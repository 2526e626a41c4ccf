"""Tells when this machine's addresses change: another Wi-Fi, a cable pulled, a lease that gave another address."""

from __future__ import annotations

import socket
from collections.abc import Callable, Hashable
from contextlib import ExitStack

import ifaddr
import trio

PERIOD_S = 10.0
"""Where the system does not tell, and in case that it did and was not heard, it is looked so often. Source: guess."""

SETTLE_S = 0.3
"""Addresses come and go in several steps; what counts is what is there after this. Source: guess."""

_GROUPS = 0x1 | 0x10 | 0x100  # RTMGRP_LINK, RTMGRP_IPV4_IFADDR, RTMGRP_IPV6_IFADDR of rtnetlink(7)
_READ_BYTES = 65_536


def addresses_now() -> frozenset[tuple[str, str]]:
    """Returns the names of all interfaces with their addresses."""
    return frozenset(
        (adapter.name, entry.ip if isinstance(entry.ip, str) else entry.ip[0])
        for adapter in ifaddr.get_adapters()
        for entry in adapter.ips
    )


def hosts_now() -> frozenset[str]:
    """Returns all addresses of this machine."""
    return frozenset(ip for _, ip in addresses_now())


async def watch_interfaces(changed: Callable[[], None], look: Callable[[], Hashable] = addresses_now) -> None:
    """Calls `changed` each time that the addresses are others than before; runs until cancelled.

    Args:
        changed: Must not block.
        look: Returns what is there now.
    """
    with ExitStack() as stack:
        news = _open_netlink()
        if news is not None:
            stack.callback(news.close)
        last = look()
        while True:
            with trio.move_on_after(PERIOD_S):
                if news is None:
                    await trio.sleep_forever()
                else:
                    await trio.lowlevel.wait_readable(news)
                    await trio.sleep(SETTLE_S)
            if news is not None:
                _drain(news)
            now = look()
            if now != last:
                last = now
                changed()


def _open_netlink() -> socket.socket | None:
    """Returns a socket that becomes readable when interfaces or addresses change; None where there is no such thing."""
    family = getattr(socket, "AF_NETLINK", None)
    if family is None:
        return None
    try:
        sock = socket.socket(family, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, 0)
    except OSError:
        return None
    try:
        sock.bind((0, _GROUPS))
    except OSError:
        sock.close()
        return None
    return sock


def _drain(news: socket.socket) -> None:
    """Reads what is there; what it says is not looked at, for it can have been lost, as in an overrun."""
    for _ in range(1_000):
        try:
            news.recv(_READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            continue  # ENOBUFS: some were lost
