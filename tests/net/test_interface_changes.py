"""When this machine's addresses change."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest
import trio

from atmo.net import interface_changes
from atmo.net.interface_changes import addresses_now, hosts_now, watch_interfaces

WATCH = """
import trio
from atmo.net.interface_changes import watch_interfaces

async def main():
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch_interfaces, lambda: (print("changed", flush=True), nursery.cancel_scope.cancel()))
        await trio.sleep(0.1)
        print("watching", flush=True)

trio.run(main)
"""


async def test_a_change_is_told_once(monkeypatch: pytest.MonkeyPatch, autojump_clock: object) -> None:
    monkeypatch.setattr(interface_changes, "_open_netlink", lambda: None)
    there, told = ["10.0.0.1"], 0

    def changed() -> None:
        nonlocal told
        told += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch_interfaces, changed, lambda: tuple(there))
        await trio.sleep(interface_changes.PERIOD_S * 5)
        assert told == 0
        there.append("10.0.0.2")
        await trio.sleep(interface_changes.PERIOD_S * 5)
        assert told == 1
        there.clear()
        await trio.sleep(interface_changes.PERIOD_S * 5)
        assert told == 2
        nursery.cancel_scope.cancel()


def test_this_machine_has_its_loopback_address() -> None:
    assert ("lo", "127.0.0.1") in addresses_now() or "127.0.0.1" in hosts_now()


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("ip") is None, reason="needs root and iproute2")
def test_the_system_tells_at_once() -> None:
    name = f"atmotest{os.getpid()}"
    if subprocess.run(["ip", "netns", "add", name], capture_output=True, check=False).returncode:
        pytest.skip("network namespaces cannot be made here")
    try:
        command = ["ip", "netns", "exec", name, sys.executable, "-c", WATCH]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as watcher:
            assert watcher.stdout is not None
            assert watcher.stdout.readline() == "watching\n"
            subprocess.run(["ip", "-n", name, "addr", "add", "10.9.8.7/24", "dev", "lo"], check=True)
            assert watcher.stdout.readline() == "changed\n"
    finally:
        subprocess.run(["ip", "netns", "del", name], check=True)
