"""A home behind a real router: three network namespaces, with `miniupnpd` and nftables in the middle one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

TOOLS = ("ip", "nft", "miniupnpd", "sysctl")
WAN, WEB = "11.0.0.1", "11.0.0.2"
"""The router's outside and a machine of the internet; addresses that count as global, and are used here only."""

_CHAINS = """
table inet filter {
    chain forward {
        type filter hook forward priority 0; policy drop;
        ct state established,related accept
        iifname "lan" accept
        jump miniupnpd
    }
    chain miniupnpd { }
    chain prerouting { type nat hook prerouting priority -100; jump prerouting_miniupnpd; }
    chain postrouting {
        type nat hook postrouting priority 100;
        jump postrouting_miniupnpd
        ip saddr 10.99.7.0/24 oifname "wan" masquerade random
    }
    chain prerouting_miniupnpd { }
    chain postrouting_miniupnpd { }
}
"""
_SETTINGS = """
ext_ifname=wan
listening_ip=lan
{ipv6}
enable_natpmp={natpmp}
enable_upnp={upnp}
secure_mode=yes
lease_file={folder}/leases
uuid=00000000-0000-4000-8000-000000000001
allow 1024-65535 10.99.7.0/24 1024-65535
deny 0-65535 0.0.0.0/0 0-65535
"""

_ASK = """
import socket, sys
host, port = sys.argv[1], int(sys.argv[2])
family = socket.AF_INET6 if ":" in host else socket.AF_INET
request = bytes.fromhex("000100002112a442") + b"twelve bytes"
with socket.socket(family, socket.SOCK_DGRAM) as sock:
    sock.settimeout(2)
    sock.sendto(request, (host, port))
    assert sock.recv(2048)[8:20] == request[8:]
if sys.argv[3:] == ["tcp"]:
    socket.create_connection((host, port), 2).close()
"""


def missing() -> str:
    """Returns what this machine lacks."""
    if os.geteuid() != 0:
        return "needs root"
    lacking = [tool for tool in TOOLS if shutil.which(tool) is None]
    return f"needs {', '.join(lacking)} (Debian: iproute2, nftables, miniupnpd, procps)" if lacking else ""


def run(*command: str, stdin: str = "") -> str:
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}{done.stdout}"
    return done.stdout


class Router:
    """The router and what is at its two sides."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.home, self.box, self.web = (f"atmopm{os.getpid()}{side}" for side in ("home", "box", "web"))
        self._daemon: subprocess.Popen[bytes] | None = None

    def build(self) -> None:
        for space in (self.home, self.box, self.web):
            run("ip", "netns", "add", space)
            run("ip", "-n", space, "link", "set", "lo", "up")
        for space, inside, outside in ((self.home, "lan", "eth0"), (self.web, "wan", "eth0")):
            run("ip", "link", "add", inside, "netns", self.box, "type", "veth", "peer", "name", outside, "netns", space)
            run("ip", "-n", self.box, "link", "set", inside, "up")
            run("ip", "-n", space, "link", "set", outside, "up")
        for space, device, address in (
            (self.home, "eth0", "10.99.7.2/24"),
            (self.box, "lan", "10.99.7.1/24"),
            (self.box, "wan", f"{WAN}/24"),
            (self.web, "eth0", f"{WEB}/24"),
            (self.home, "eth0", "2600:99:7::2/64"),
            (self.box, "lan", "2600:99:7::1/64"),
            (self.box, "wan", "2600:99:8::1/64"),
            (self.web, "eth0", "2600:99:8::2/64"),
        ):
            run("ip", "-n", space, "addr", "add", address, "dev", device, *(["nodad"] if ":" in address else []))
        run("ip", "-n", self.home, "route", "add", "default", "via", "10.99.7.1")
        run("ip", "-n", self.home, "route", "add", "default", "via", "2600:99:7::1")
        run("ip", "-n", self.web, "route", "add", "default", "via", "2600:99:8::1")
        for option in ("ipv4.ip_forward", "ipv6.conf.all.forwarding"):
            run("ip", "netns", "exec", self.box, "sysctl", "-qw", f"net.{option}=1")
        run("ip", "netns", "exec", self.box, "nft", "-f", "-", stdin=_CHAINS)

    def start(self, *, natpmp: bool = True, upnp: bool = False, ipv6: bool = True) -> None:
        """Starts the daemon."""
        yes = {True: "yes", False: "no"}
        text = _SETTINGS.format(
            folder=self.folder, natpmp=yes[natpmp], upnp=yes[upnp], ipv6="" if ipv6 else "ipv6_disable=yes"
        )
        settings = self.folder / "miniupnpd.conf"
        settings.write_text(text)
        command = ["ip", "netns", "exec", self.box, "miniupnpd", "-d", "-f", str(settings)]
        command += ["-P", str(self.folder / "pid")]
        with (self.folder / "miniupnpd.log").open("ab") as log:
            self._daemon = subprocess.Popen(command, stdout=log, stderr=log)

    def stop(self) -> None:
        """Stops it; like a router that restarts, it forgets everything."""
        if self._daemon is not None:
            self._daemon.terminate()
            self._daemon.wait(10)
            self._daemon = None

    def rules(self) -> str:
        """Returns what the router lets in."""
        chains = ("prerouting_miniupnpd", "miniupnpd")
        command = ["ip", "netns", "exec", self.box, "nft", "list", "chain", "inet", "filter"]
        return "".join(run(*command, chain) for chain in chains)

    def reaches(self, host: str, port: int, *, tcp: bool = False) -> bool:
        """Says whether a machine outside gets answers there."""
        command = [
            "ip",
            "netns",
            "exec",
            self.web,
            sys.executable,
            "-c",
            _ASK,
            host,
            str(port),
            *(["tcp"] if tcp else []),
        ]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    def log(self) -> str:
        return (self.folder / "miniupnpd.log").read_text(errors="replace")

    def remove(self) -> None:
        self.stop()
        for space in (self.home, self.box, self.web):
            subprocess.run(["ip", "netns", "del", space], capture_output=True, check=False)


@contextmanager
def router(folder: Path) -> Iterator[Router]:
    """Builds all, and removes it at the end."""
    built = Router(folder)
    try:
        built.build()
        yield built
    finally:
        built.remove()
