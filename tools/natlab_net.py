"""A small internet in network namespaces: a public wire, routers that do NAT, hosts behind them.

All of it has names that begin with this process's own prefix, and goes when the block ends, however it ends. Nothing
outside is touched: no interface of the machine, no rule, no route.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

PORT = 11_450
PUBLIC = "5.5.5"
"""The first three numbers of public addresses inside the lab: of a range that is not private, so that nodes take them
for public ones."""

KINDS = ("none", "full", "address", "port", "symmetric", "double", "blocked")
"""`none`: a public address. `full`, `address`, `port`: a NAT that keeps one mapping for a socket and lets in anyone, or
those addresses, or those addresses and ports, to which something went out (RFC 4787's endpoint-independent mapping
with the three kinds of filtering). `symmetric`: another random port for each destination. `double`: a `port` NAT behind
another. `blocked`: a `port` NAT that lets no UDP out."""

CONE = {"port": "", "double": "", "blocked": "", "symmetric": " fully-random"}


def run(*command: str, stdin: str = "") -> str:
    """Runs a command.

    Raises:
        RuntimeError: It failed; with what it said.
    """
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


@dataclass(frozen=True, slots=True)
class Host:
    """A machine of the lab.

    Attributes:
        name: For people.
        namespace: Its network.
        address: Of its one interface.
    """

    name: str
    namespace: str
    address: str

    def command(self, *command: str) -> list[str]:
        """Returns a command that runs another one in this machine."""
        return ["ip", "netns", "exec", self.namespace, *command]


class Lab:
    """The public wire and what hangs on it; made by `open_lab`."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._namespaces: list[str] = []
        self._public = 0
        self._wire = self._namespace("wire")
        run("ip", "-n", self._wire, "link", "add", "br0", "type", "bridge")
        run("ip", "-n", self._wire, "link", "set", "br0", "up")

    def _namespace(self, name: str) -> str:
        namespace = f"{self._prefix}-{name}"
        run("ip", "netns", "add", namespace)
        self._namespaces.append(namespace)
        run("ip", "-n", namespace, "link", "set", "lo", "up")
        return namespace

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
        if kind == "double":
            middle = self._namespace(f"{name}-m")
            self._join(middle, "wan", f"10.{number}.0.2", router, "lan", f"10.{number}.0.1")
            self._nat(router, "port", outside, f"10.{number}.0.2")
            self._join(inner, "eth0", f"192.168.{number}.2", middle, "lan", f"192.168.{number}.1")
            self._nat(middle, kind, f"10.{number}.0.2", f"192.168.{number}.2")
        else:
            self._join(inner, "eth0", f"192.168.{number}.2", router, "lan", f"192.168.{number}.1")
            self._nat(router, kind, outside, f"192.168.{number}.2")
        return Host(name, inner, f"192.168.{number}.2")

    def _plug(self, namespace: str) -> str:
        self._public += 1
        address, cable = f"{PUBLIC}.{self._public}", f"cable{self._public}"
        run("ip", "-n", self._wire, "link", "add", cable, "type", "veth", "peer", "name", "wan", "netns", namespace)
        run("ip", "-n", self._wire, "link", "set", cable, "master", "br0", "up")
        run("ip", "-n", namespace, "addr", "add", f"{address}/24", "dev", "wan")
        run("ip", "-n", namespace, "link", "set", "wan", "up")
        return address

    def _join(self, low: str, port: str, address: str, high: str, far: str, gateway: str) -> None:
        run("ip", "-n", low, "link", "add", port, "type", "veth", "peer", "name", far, "netns", high)
        for namespace, device, own in ((low, port, address), (high, far, gateway)):
            run("ip", "-n", namespace, "addr", "add", f"{own}/24", "dev", device)
            run("ip", "-n", namespace, "link", "set", device, "up")
        run("ip", "-n", low, "route", "add", "default", "via", gateway)
        run("ip", "netns", "exec", high, "sysctl", "-qw", "net.ipv4.ip_forward=1")

    def _nat(self, router: str, kind: str, outside: str, inside: str) -> None:
        """A router: what comes from inside is masked, and only its answers come in, or what the kind lets in."""
        let_in = {
            "full": f"iifname wan udp dport {PORT} dnat to {inside}",
            "address": f"iifname wan udp dport {PORT} ip saddr @spoken dnat to {inside}",
        }.get(kind, "")
        note = "oifname wan meta l4proto udp update @spoken { ip daddr }" if kind == "address" else ""
        blocked = "oifname wan meta l4proto udp drop" if kind == "blocked" else ""
        rules = f"""
            table ip lab {{
                set spoken {{
                    type ipv4_addr
                    size 1024
                    flags dynamic, timeout
                    timeout 2m
                }}
                chain before {{
                    type nat hook prerouting priority -100
                    {let_in}
                }}
                chain after {{
                    type nat hook postrouting priority 100
                    oifname wan masquerade{CONE.get(kind, "")}
                }}
                chain through {{
                    type filter hook forward priority 0
                    policy drop
                    {note}
                    {blocked}
                    ct state established,related accept
                    iifname lan accept
                    ct status dnat accept
                }}
                chain local {{
                    type filter hook input priority 0
                    iifname wan drop
                }}
            }}
        """
        run("ip", "netns", "exec", router, "nft", "-f", "-", stdin=rules)

    def close(self) -> None:
        """Ends what runs in the lab, and removes it."""
        for namespace in reversed(self._namespaces):
            with contextlib.suppress(RuntimeError):
                for pid in run("ip", "netns", "pids", namespace).split():
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(int(pid), signal.SIGKILL)
                run("ip", "netns", "del", namespace)
        self._namespaces.clear()


@contextmanager
def open_lab() -> Iterator[Lab]:
    """Makes a lab for a block."""
    lab = Lab(f"natlab{os.getpid()}")
    try:
        yield lab
    finally:
        lab.close()
