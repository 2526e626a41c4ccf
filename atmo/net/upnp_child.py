"""Speaks UPnP with a router, in a process of its own that imports nothing of the node: `atmo.net.upnp` runs it.

The library is written in C and reads what any machine of the LAN sends it. Here it can hang or crash and harm nobody.
Arguments are the address of this machine, that of the router, the port, `1` where TCP is wanted, and the lifetime. One
line of JSON says what is mapped, and one more after each line of input. At the end of the input, that of the node
included however it ended, mappings are taken back.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import random
import signal
import sys
from typing import Any
from urllib.parse import urlsplit

_DISCOVER_MS = 1_500
"""Source: guess; routers answer within the second that they are asked to."""

_PORTS = 4  # outside ports that are tried
_MEMORY_BYTES, _CPU_S = 512 * 1024**2, 120
_LAST_S = 10
"""To take mappings back."""


class Refused(Exception):
    """There is no such router, or it does not map the port."""


class Igd:
    """The router, as the library sees it.

    Args:
        own: Address of this machine.
        router: Of the router; other machines that pass for one are left aside.
        port: Of this machine.
        tcp: TCP, too.
        lifetime_s: Asked for.
    """

    def __init__(self, own: str, router: str, port: int, tcp: bool, lifetime_s: int) -> None:
        self._library: Any = importlib.import_module("miniupnpc").UPnP(multicastif=own)
        self._library.discoverdelay = _DISCOVER_MS
        self._own, self._router, self._port, self._tcp, self._lifetime_s = own, router, port, tcp, lifetime_s
        self._mapped: dict[str, int] = {}
        self._found = False

    def map(self) -> dict[str, Any]:
        """Maps the port, or renews that; returns what is to be said."""
        try:
            if not self._found:
                self._find()
            host = self._call("its external address", "externalipaddress")
            port, lifetime_s = self._map_udp()
            if self._tcp and not self._add(port, "TCP", lifetime_s):
                self._mapped.pop("TCP", None)
        except Refused as error:
            return {"error": str(error)}
        return {"host": str(host), "port": port, "tcp": "TCP" in self._mapped, "lifetime_s": lifetime_s}

    def forget(self) -> None:
        """Takes everything back."""
        for protocol, port in self._mapped.items():
            with contextlib.suppress(Refused):
                self._call("a mapping", "deleteportmapping", port, protocol)

    def _find(self) -> None:
        self._call("anything", "discover")
        control = self._call("that it is a router", "selectigd")
        if urlsplit(str(control)).hostname != self._router:
            raise Refused("another machine than the router answers")
        self._found = True

    def _map_udp(self) -> tuple[int, int]:
        tried = [
            self._mapped.get("UDP", self._port),
            self._port,
            *(random.randint(1_024, 65_535) for _ in range(_PORTS)),
        ]
        for port in dict.fromkeys(tried):
            if self._is_free(port):
                for lifetime_s in (self._lifetime_s, 0):  # some routers know only mappings without an end
                    if self._add(port, "UDP", lifetime_s):
                        return port, lifetime_s
        raise Refused("the router does not map the port")

    def _is_free(self, port: int) -> bool:
        """Says whether no other machine has an outside port: some routers would take it away from that one."""
        try:
            entry = self._call("a mapping", "getspecificportmapping", port, "UDP")
        except Refused:
            return True  # most routers say by an error that there is none
        return not entry or entry[0] == self._own

    def _add(self, port: int, protocol: str, lifetime_s: int) -> bool:
        arguments = (port, protocol, self._own, self._port, "Atmosphere", "", lifetime_s)
        try:
            done = bool(self._call("a mapping", "addportmapping", *arguments))
        except Refused:
            return False
        if done:
            self._mapped[protocol] = port
        return done

    def _call(self, what: str, name: str, *arguments: Any) -> Any:
        try:
            return getattr(self._library, name)(*arguments)
        except Exception as error:
            why = str(error)
            if why == "Success":  # how the library says that nobody answered
                raise Refused("no router answers") from error
            raise Refused(f"the router does not tell {what}: {why}") from error


def main(arguments: list[str]) -> None:
    """Runs until the input ends."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # those who stop the node stop this, too: its input ends then
    _limit()
    own, router, port, tcp, lifetime_s = arguments
    igd = Igd(own, router, int(port), tcp == "1", int(lifetime_s))
    while True:
        print(json.dumps(igd.map()), flush=True)
        if not sys.stdin.readline():
            break
    if hasattr(signal, "alarm"):
        signal.alarm(_LAST_S)
    igd.forget()


def _limit() -> None:
    try:
        import resource
    except ImportError:
        return  # Windows
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
        resource.setrlimit(resource.RLIMIT_CPU, (_CPU_S, _CPU_S))


if __name__ == "__main__":
    main(sys.argv[1:])
