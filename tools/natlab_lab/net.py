"""A small internet in network namespaces: a public wire, routers that do NAT, hosts behind them.

All of it has names that begin with this process's own prefix, and goes when the block ends, however it ends. Nothing
outside is touched: no interface of the machine, no rule, no route.
"""

from __future__ import annotations

import contextlib
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from natlab_lab.delay import Wire
from natlab_lab.leftovers import PREFIX, remove_namespace
from natlab_lab.rules import CUT, KINDS, REBOUND, nat_rules
from natlab_lab.shell import run

PUBLIC = "5.5.5"
"""The first three numbers of public addresses inside the lab: of a range that is not private, so that nodes take them
for public ones."""


@dataclass(frozen=True, slots=True)
class Host:
    """A machine of the lab.

    Attributes:
        name: For people.
        namespace: Its network.
        address: Of its one interface.
        device: That interface.
        gateway: Its router's address inside, empty on the public wire.
        routers: Namespaces of the routers before it, the outermost first.
    """

    name: str
    namespace: str
    address: str
    device: str = "wan"
    gateway: str = ""
    routers: tuple[str, ...] = ()

    def command(self, *command: str) -> list[str]:
        """Returns a command that runs another one in this machine."""
        return ["ip", "netns", "exec", self.namespace, *command]


class Lab:
    """The public wire and what hangs on it; made by `open_lab`.

    Args:
        prefix: Of all names.
        delay_ms: Round trip between any two machines on the public wire.
        loss: Share of packets that it loses.
    """

    def __init__(self, prefix: str, delay_ms: float = 0.0, loss: float = 0.0) -> None:
        self._prefix = prefix
        self._namespaces: list[str] = []
        self._public = 0
        self._slow = Wire(delay_ms, loss) if delay_ms or loss else None
        self._wire = ""

    def begin(self) -> None:
        """Makes the wire."""
        if self._slow is None:
            self._wire = self._namespace("wire")
            run("ip", "-n", self._wire, "link", "add", "br0", "type", "bridge")
            run("ip", "-n", self._wire, "link", "set", "br0", "up")

    def _namespace(self, name: str) -> str:
        namespace = f"{self._prefix}-{name}"
        run("ip", "netns", "add", namespace)
        self._namespaces.append(namespace)
        run("ip", "-n", namespace, "link", "set", "lo", "up")
        return namespace

    # --- machines -------------------------------------------------------------------------------------------------

    def host(self, name: str, kind: str) -> Host:
        """Adds a machine behind a router of a kind, `none` for one on the public wire."""
        if kind not in KINDS:
            raise ValueError(kind)
        inner = self._namespace(name)
        if kind == "none":
            return Host(name, inner, self._plug(inner))
        router = self._namespace(f"{name}-r")
        outside = self._plug(router)
        number = self._public
        lan = f"192.168.{number}"
        if kind == "double":
            middle = self._namespace(f"{name}-m")
            self._join(middle, "wan", f"10.{number}.0.2", router, f"10.{number}.0.1")
            self._nat(router, "port", outside, f"10.{number}.0.2")
            self._join(inner, "eth0", f"{lan}.2", middle, f"{lan}.1")
            self._nat(middle, kind, f"10.{number}.0.2", f"{lan}.2")
            return Host(name, inner, f"{lan}.2", "eth0", f"{lan}.1", (router, middle))
        self._join(inner, "eth0", f"{lan}.2", router, f"{lan}.1")
        self._nat(router, kind, outside, f"{lan}.2")
        return Host(name, inner, f"{lan}.2", "eth0", f"{lan}.1", (router,))

    def beside(self, name: str, other: Host) -> Host:
        """Adds a machine on the LAN of another one, behind the same router."""
        inner = self._namespace(name)
        address = f"{other.gateway.rpartition('.')[0]}.3"
        self._cable(inner, "eth0", f"{address}/24", other.routers[-1], f"lan-{name}")
        run("ip", "-n", inner, "route", "add", "default", "via", other.gateway)
        return Host(name, inner, address, "eth0", other.gateway, other.routers)

    def second_address(self, host: Host) -> str:
        """Gives a machine on the public wire another address; returns it."""
        self._public += 1
        address = f"{PUBLIC}.{self._public}"
        run("ip", "-n", host.namespace, "addr", "add", f"{address}/24", "dev", host.device)
        return address

    def _plug(self, namespace: str) -> str:
        self._public += 1
        address, cable = f"{PUBLIC}.{self._public}", f"cable{self._public}"
        if self._slow is not None:
            self._slow.plug(namespace, "wan")
        else:
            run("ip", "-n", self._wire, "link", "add", cable, "type", "veth", "peer", "name", "wan", "netns", namespace)
            run("ip", "-n", self._wire, "link", "set", cable, "master", "br0", "up")
        run("ip", "-n", namespace, "addr", "add", f"{address}/24", "dev", "wan")
        run("ip", "-n", namespace, "link", "set", "wan", "up")
        return address

    def _join(self, low: str, port: str, address: str, high: str, gateway: str) -> None:
        """Makes the LAN of a router, a bridge, and plugs the first machine in."""
        run("ip", "-n", high, "link", "add", "lan", "type", "bridge")
        run("ip", "-n", high, "addr", "add", f"{gateway}/24", "dev", "lan")
        run("ip", "-n", high, "link", "set", "lan", "up")
        self._cable(low, port, f"{address}/24", high, "lan-1")
        run("ip", "-n", low, "route", "add", "default", "via", gateway)
        run("ip", "netns", "exec", high, "sysctl", "-qw", "net.ipv4.ip_forward=1")

    @staticmethod
    def _cable(low: str, port: str, address: str, high: str, far: str) -> None:
        run("ip", "-n", low, "link", "add", port, "type", "veth", "peer", "name", far, "netns", high)
        run("ip", "-n", low, "addr", "add", address, "dev", port)
        run("ip", "-n", low, "link", "set", port, "up")
        run("ip", "-n", high, "link", "set", far, "master", "lan", "up")

    def _nat(self, router: str, kind: str, outside: str, inside: str) -> None:
        run("ip", "netns", "exec", router, "nft", "-f", "-", stdin=nat_rules(kind, outside, inside))

    # --- what happens to them -------------------------------------------------------------------------------------

    def forget_mappings(self, host: Host) -> None:
        """Its routers forget all UDP mappings, as after an hour of silence."""
        for router in host.routers:
            with contextlib.suppress(RuntimeError):  # it fails where there is none
                run("ip", "netns", "exec", router, "conntrack", "-D", "-p", "udp")
            run("ip", "netns", "exec", router, "nft", "flush set ip lab spoken")

    def cut_udp(self, host: Host) -> None:
        """Its routers let no UDP through any more."""
        for router in host.routers:
            run("ip", "netns", "exec", router, "nft", "-f", "-", stdin=CUT)

    def allow_udp(self, host: Host) -> None:
        """The opposite."""
        for router in host.routers:
            run("ip", "netns", "exec", router, "nft", "delete table ip cut")

    def rebind(self, host: Host, port: int = 0) -> int:
        """Its outer router gives UDP another port outside, from now on and for what is under way; returns it."""
        port = port or random.randint(20_000, 60_000)
        run("ip", "netns", "exec", host.routers[0], "nft", "-f", "-", stdin=REBOUND.format(port=port))
        self.forget_mappings(host)
        return port

    def readdress(self, host: Host, last: int) -> Host:
        """Its interface gets another address of the LAN, and loses the one it has; returns what the host is now."""
        address = f"{host.address.rpartition('.')[0]}.{last}"
        ip = ("ip", "-n", host.namespace)
        run(*ip, "addr", "flush", "dev", host.device, "scope", "global")
        run(*ip, "addr", "add", f"{address}/24", "dev", host.device)
        run(*ip, "route", "add", "default", "via", host.gateway)
        return Host(host.name, host.namespace, address, host.device, host.gateway, host.routers)

    def down(self, host: Host) -> None:
        """Its interface goes down, as Wi-Fi does."""
        run("ip", "-n", host.namespace, "link", "set", host.device, "down")

    def up(self, host: Host) -> None:
        """It comes back."""
        run("ip", "-n", host.namespace, "link", "set", host.device, "up")
        if host.gateway:
            run("ip", "-n", host.namespace, "route", "add", "default", "via", host.gateway)

    def close(self) -> None:
        """Ends what runs in the lab, and removes it."""
        for namespace in reversed(self._namespaces):
            remove_namespace(namespace)
        self._namespaces.clear()
        if self._slow is not None:
            self._slow.close()


@contextmanager
def open_lab(delay_ms: float = 0.0, loss: float = 0.0) -> Iterator[Lab]:
    """Makes a lab for a block."""
    lab = Lab(f"{PREFIX}{os.getpid()}", delay_ms, loss)
    try:
        lab.begin()
        yield lab
    finally:
        lab.close()
