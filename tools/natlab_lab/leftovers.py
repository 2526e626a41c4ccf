"""Removes namespaces, processes and folders of the lab, those of runs that were killed included."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import tempfile
from pathlib import Path

from natlab_lab.rules import nat_rules
from natlab_lab.shell import run

PREFIX = "natlab"
NETNS = Path("/run/netns")
_OWN = re.compile(rf"{PREFIX}(\d+)-")


def remove_namespace(namespace: str) -> None:
    """Ends what runs in a namespace, and removes it."""
    with contextlib.suppress(RuntimeError):
        for pid in run("ip", "netns", "pids", namespace).split():
            if int(pid) != os.getpid():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
        run("ip", "netns", "del", namespace)


def why_not() -> str:
    """Returns why namespaces with NAT cannot be made here, nothing where they can: containers may lack the rights."""
    namespace = f"{PREFIX}{os.getpid()}-probe"
    try:
        run("ip", "netns", "add", namespace)
        try:
            run("ip", "-n", namespace, "link", "add", "lan", "type", "bridge")
            run("ip", "-n", namespace, "link", "add", "one", "type", "veth", "peer", "name", "two")
            run("ip", "netns", "exec", namespace, "nft", "-f", "-", stdin=nat_rules("symmetric", "5.5.5.5", "10.0.0.2"))
            run("ip", "netns", "exec", namespace, "sysctl", "-qw", "net.ipv4.ip_forward=1")
        finally:
            remove_namespace(namespace)
    except RuntimeError as error:
        return f"this machine does not let it make network namespaces with NAT: {error}"
    return ""


def remove_leftovers() -> list[str]:
    """Removes what runs left behind that are no more; returns the names."""
    removed = []
    for place in (NETNS, Path(tempfile.gettempdir())):
        for path in sorted(place.glob(f"{PREFIX}*-*")) if place.is_dir() else ():
            own = _OWN.match(path.name)
            if own is None or _runs(int(own[1])):
                continue
            if place == NETNS:
                remove_namespace(path.name)
            else:
                shutil.rmtree(path, ignore_errors=True)
            removed.append(path.name)
    return removed


def _runs(pid: int) -> bool:
    """Says whether a process is a run of the lab; its number may have gone to another one."""
    if pid == os.getpid():
        return True
    try:
        return b"natlab" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
