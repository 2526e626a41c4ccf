"""Has the routers before this machine let its port in: a socket for each of them, on which `reach.PortMapping` talks.

Of IPv4 it is the default router, unless this machine has an address of the internet itself. Of IPv6 it is the default
router for each address that the node tells others: there is no other address outside then, the router's firewall lets
the port in.
"""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import math
import random
import socket
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import trio

from atmo.clock import Now
from atmo.errors import RemoteError
from atmo.net.gateways import default_gateways
from atmo.net.interfaces import reachable_addresses
from atmo.net.quic_core import SocketAddress
from atmo.net.udp import socket_address, to_address
from atmo.net.upnp import Upnp, is_installed
from atmo.reach.port_mapping import PortMapping
from atmo.reach.port_mapping_config import Mapped, PortMappingConfig, PortMappingStats
from atmo.reach.port_mapping_message import MOST_BYTES, SERVER_PORT
from atmo.wire.address import Address

log = logging.getLogger(__name__)

_LOOK_S = 600.0
"""Routers are looked for so often, beside when this machine's addresses change. Source: guess."""

_UNCONFIRMED_S = 30.0
"""Likewise while there is an address outside that others may not be told yet. Source: guess."""

_GOODBYE_S, _GOODBYES = 0.1, 3
"""At the end each mapping is taken back, so often, until the router says that it has. Source: guess; the whole node
ends within two seconds."""

_BATCH = 16  # datagrams that are read at once


def is_global(address: Address) -> bool:
    """Says whether an address is one of the internet."""
    return ipaddress.ip_address(address.host.partition("%")[0]).is_global


def nothing_mapped(reason: str) -> dict[str, Any]:
    """Returns the view of a node for which no router does anything."""
    nothing: dict[str, Any] = {"how": None, "external": None, "tcp": False, "lifetime_s": None}
    return {**nothing, "announced": [], "pinholes": [], "reason": reason}


@dataclass(eq=False, slots=True)
class _Route:
    """One router, and one address of this machine."""

    engine: PortMapping
    sock: socket.socket
    client: str
    router: Address
    peer: SocketAddress
    upnp: Upnp | None
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    waiting: trio.CancelScope = field(default_factory=trio.CancelScope)
    told: Mapped = field(default_factory=Mapped)

    def mapped(self) -> Mapped:
        """Returns what is mapped, or why nothing is."""
        found = self.engine.mapped()
        if found.external or self.upnp is None:
            return found
        if self.upnp.mapped.external:
            return self.upnp.mapped
        return replace(found, reason="; ".join(filter(None, (found.reason, self.upnp.mapped.reason))))

    def next_timer(self) -> float:
        """Returns when something is to be done, in monotonic seconds."""
        due = self.upnp.due if self.upnp is not None and self.engine.resting else math.inf
        return min(self.engine.next_timer(), due)

    def changed(self) -> bool:
        """Says whether something else is mapped than when this was asked before."""
        before, self.told = self.told, self.mapped()
        return (before.how, before.external, before.tcp, before.reason) != (
            self.told.how,
            self.told.external,
            self.told.tcp,
            self.told.reason,
        )


class PortMapper:
    """Keeps the port of a socket mapped.

    Args:
        listen: Where the socket is bound.
        tcp: TCP comes in on the same port.
        secret: Of this node; see `PortMapping`.
        changed: Called when `external` has others than before; must not block.
        usable: Says whether others may be told of an external address: a second NAT before the router makes it one
            that nobody reaches.
        gateways: Returns the addresses of the routers.
        server_port: Of the routers.
        config: Periods and bounds.
        upnp: Whether UPnP is tried, where the library for it is installed.

    Attributes:
        stats: Counters of all routers.
    """

    def __init__(
        self,
        listen: Address,
        tcp: bool,
        secret: bytes,
        changed: Callable[[], None] = lambda: None,
        usable: Callable[[Address], bool] = is_global,
        gateways: Callable[[], tuple[str, ...]] = default_gateways,
        server_port: int = SERVER_PORT,
        config: PortMappingConfig = PortMappingConfig(),
        upnp: bool = True,
    ) -> None:
        self.stats = PortMappingStats()
        self._listen = listen
        self._tcp = tcp
        self._secret = secret
        self._changed = changed
        self._usable = usable
        self._gateways = gateways
        self._server_port = server_port
        self._config = config
        self._upnp = upnp and is_installed()
        self._routes: dict[tuple[str, str], _Route] = {}
        self._wake = trio.Event()
        self._network_changed = False
        self._problem = "it is not known yet whether there is a router"
        self._told: tuple[Address, ...] = ()

    # --- what it knows --------------------------------------------------------------------------------------------

    @property
    def external(self) -> tuple[Address, ...]:
        """Where others reach this node because a router lets them in, beside its own addresses."""
        found = (route.mapped().external for route in self._routes.values())
        return tuple(address for address in found if address and self._is_news(address) and self._usable(address))

    def view(self) -> dict[str, Any]:
        """Returns what is mapped, or why nothing is, for people and for JSON."""
        routes = sorted(self._routes.values(), key=lambda route: ":" in route.client)
        every = [route.mapped() for route in routes]
        mapped = next((each for each in every if each.external), Mapped())
        pinholes = [str(each.external) for each in every if each.external and ":" in each.external.host]
        first = every[0].reason or "the router is being asked" if every else self._problem
        reason = "" if mapped.external else first
        if mapped.external and self._is_news(mapped.external) and not self._usable(mapped.external):
            reason = f"{mapped.external.host} is no address of the internet: there is a second NAT"
        if not mapped.external:
            return nothing_mapped(reason)
        return {
            "how": mapped.how,
            "external": str(mapped.external),
            "tcp": mapped.tcp,
            "lifetime_s": max(0, round(mapped.until - trio.current_time())),
            "announced": [str(address) for address in self.external],
            "pinholes": pinholes,
            "reason": reason,
        }

    def _is_news(self, address: Address) -> bool:
        return address.host not in {route.client for route in self._routes.values()}

    # --- running --------------------------------------------------------------------------------------------------

    def look_again(self) -> None:
        """This machine's addresses may have changed: there may be another router."""
        self._network_changed = True
        self._wake.set()

    async def run(self) -> None:
        """Asks the routers until cancelled, and then to forget it all, for a fraction of a second."""
        async with trio.open_nursery() as nursery:
            while True:
                self._wake = trio.Event()
                self._look(nursery, self._network_changed)
                self._network_changed = False
                self._tell()
                mapped = [route.mapped().external for route in self._routes.values()]
                open_questions = any(each and self._is_news(each) and not self._usable(each) for each in mapped)
                with trio.move_on_after(_UNCONFIRMED_S if open_questions else _LOOK_S):
                    await self._wake.wait()

    def _look(self, nursery: trio.Nursery, network_changed: bool) -> None:
        """Begins with routers that were not there before, and leaves those that are gone."""
        found = {each[:2]: each[2] for each in self._open_all()}
        for key in self._routes.keys() - found.keys():
            self._routes.pop(key).scope.cancel()
        for key, sock in found.items():
            route = self._routes.get(key)
            if route is not None:
                sock.close()
                if network_changed:
                    route.engine.check(_now())
                    if route.upnp is not None:
                        route.upnp.due = -math.inf
                    route.waiting.cancel()
                continue
            client, router = key
            engine = PortMapping(
                self._config,
                random.SystemRandom(),
                self._secret,
                client,
                Address(router, self._server_port),
                self._listen.port,
                self._tcp,
            )
            engine.stats = self.stats
            upnp = None
            if ":" not in client and self._upnp:
                upnp = Upnp(self._config, client, router, self._listen.port, self._tcp)
            route = self._routes[key] = _Route(engine, sock, client, engine.router, sock.getpeername(), upnp)
            nursery.start_soon(self._keep, route)

    def _open_all(self) -> list[tuple[str, str, socket.socket]]:
        """Returns the address of this machine, the router and a socket between them, for all there are."""
        gateways = self._gateways()
        self._problem = "" if gateways else "there is no default router"
        found = []
        for gateway in gateways:
            for own in self._own(six=":" in gateway):
                sock = _open(own, gateway, self._server_port)
                if sock is None:
                    continue
                client = to_address(sock.getsockname()).host.partition("%")[0]
                if ":" not in client and ipaddress.ip_address(client).is_global:
                    self._problem = "none is needed: this machine has a public address"
                    sock.close()
                    continue
                found.append((client, gateway, sock))
        if not found and not self._problem:
            self._problem = "no router reaches the address on which the node listens"
        return found

    def _own(self, *, six: bool) -> list[str]:
        """Returns from where to ask a router."""
        host = self._listen.host
        if not six:
            return [] if ":" in host and host != "::" else ["0.0.0.0" if host == "::" else host]
        every = reachable_addresses(host, self._listen.port) if ":" in host else ()
        return [address.host for address in every if ":" in address.host and is_global(address)]

    async def _keep(self, route: _Route) -> None:
        """Talks to one router until it is gone."""
        with route.sock, route.scope:
            try:
                while True:
                    self._flush(route)
                    self._tell_of(route)
                    with trio.CancelScope(deadline=route.next_timer()) as route.waiting:
                        await trio.lowlevel.wait_readable(route.sock)
                    self._read_untrusted(route)
                    route.engine.handle_timer(_now())
                    await self._try_upnp(route)
            finally:
                with trio.CancelScope(shield=True):
                    await self._say_goodbye(route)

    async def _try_upnp(self, route: _Route) -> None:
        """Uses UPnP while nothing else helps, and leaves it as soon as something does."""
        if route.upnp is None:
            return
        if route.engine.mapped().external is not None:
            await route.upnp.forget()
        elif route.engine.resting and route.upnp.due <= trio.current_time():
            self._tell_of(route)
            await route.upnp.step()

    async def _say_goodbye(self, route: _Route) -> None:
        if route.upnp is not None:
            await route.upnp.forget()
        for _ in range(_GOODBYES):
            route.engine.stop()
            self._flush(route)
            with trio.move_on_after(_GOODBYE_S):
                while not route.engine.forgotten:
                    await trio.lowlevel.wait_readable(route.sock)
                    self._read_untrusted(route)
            if route.engine.forgotten:
                return

    def _flush(self, route: _Route) -> None:
        while out := route.engine.drain():
            for data in out:
                try:
                    route.sock.send(data)
                except ConnectionRefusedError:
                    route.engine.unreachable(_now())
                except OSError as error:
                    log.debug("nothing can be sent to the router %s: %s", route.router.host, error)

    def _read_untrusted(self, route: _Route) -> None:
        for _ in range(_BATCH):
            try:
                data, source = route.sock.recvfrom(MOST_BYTES + 1)
                address = to_address(source)
            except ConnectionRefusedError:
                route.engine.unreachable(_now())
            except (OSError, ValueError):
                return  # nothing more, or from port 0
            else:
                same = source == route.peer
                route.engine.receive_untrusted(_now(), data, route.router if same else address)

    def _tell_of(self, route: _Route) -> None:
        self._tell()
        if route.engine.asking or not route.changed():
            return
        mapped = route.told
        if mapped.external:
            tcp = "UDP and TCP" if mapped.tcp else "UDP"
            log.info("the router %s lets %s in at %s (%s)", route.router.host, tcp, mapped.external, mapped.how)
        elif mapped.reason:
            log.info("the router %s does not let others in: %s", route.router.host, mapped.reason)
        self._wake.set()  # how long to wait depends on it

    def _tell(self) -> None:
        now = self.external
        if now != self._told:
            self._told = now
            self._changed()


def _open(own: str, router: str, port: int) -> socket.socket | None:
    """Returns a socket that takes datagrams from the router alone; None where there is no way there."""
    family = socket.AF_INET6 if ":" in router else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_DGRAM)
    try:
        sock.setblocking(False)
        sock.bind((own, 0))
        sock.connect(socket_address(Address(router, port), family))
    except (OSError, ValueError, RemoteError) as error:  # an interface may have a name that no address can hold
        with contextlib.suppress(OSError):
            sock.close()
        log.debug("no way to the router %s from %s: %s", router, own, error)
        return None
    return sock


def _now() -> Now:
    return Now(trio.current_time(), 0.0)  # nothing here depends on the wall clock
