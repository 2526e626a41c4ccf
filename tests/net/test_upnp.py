"""Whatever the child that speaks UPnP does, the node takes it for what it is, and goes on."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import trio

from atmo.net.upnp import Upnp
from atmo.reach.port_mapping_config import PortMappingConfig
from atmo.wire.address import Address

GOOD = """
import sys
for turn in range(9):
    print('{"host": "11.0.0.1", "port": %d, "tcp": true, "lifetime_s": 7200}' % (40_000 + turn), flush=True)
    if not sys.stdin.readline():
        break
open(sys.argv[0] + ".done", "w").write(" ".join(sys.argv[1:]))
"""


def child(folder: Path, text: str) -> Path:
    path = folder / "child.py"
    path.write_text(text)
    return path


def upnp_of(path: Path) -> Upnp:
    return Upnp(PortMappingConfig(), "192.168.1.2", "192.168.1.1", 11_450, True, path, 3.0)


async def test_it_is_mapped_renewed_and_taken_back(tmp_path: Path) -> None:
    path = child(tmp_path, GOOD)
    upnp = Upnp(PortMappingConfig(), "192.168.1.2", "192.168.1.1", 11_450, True, path)
    for port in (40_000, 40_001):
        await upnp.step()
        assert (upnp.mapped.how, upnp.mapped.external, upnp.mapped.tcp) == ("UPnP", Address("11.0.0.1", port), True)
        assert 0 < upnp.due - trio.current_time() <= PortMappingConfig().check_s
    await upnp.forget()
    await upnp.forget()
    assert upnp.mapped.external is None
    done = tmp_path / "child.py.done"
    with trio.fail_after(20):
        while not done.exists() or not done.read_text():
            await trio.sleep(0.05)
    assert done.read_text() == "192.168.1.2 192.168.1.1 11450 1 7200"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('print(\'{"error": "no router"}\')', "UPnP: no router"),
        ("", "broke off"),
        ("import os; os.abort()", "broke off"),
        ("raise SystemExit(3)", "broke off"),
        ("import time; time.sleep(600)", "no answer"),
        ("print('x' * 10_000_000)", "makes no sense"),
        ("print('[' * 1_000)", "makes no sense"),
        ("print('[]')", "makes no sense"),
        ("print('7')", "makes no sense"),
        ("print('{}')", "makes no sense"),
        ('print(\'{"host": "nobody", "port": 1, "tcp": true, "lifetime_s": 1}\')', "makes no sense"),
        ('print(\'{"host": "11.0.0.1", "port": 0, "tcp": true, "lifetime_s": 1}\')', "makes no sense"),
        ('print(\'{"host": "11.0.0.1", "port": Infinity, "tcp": true, "lifetime_s": 1}\')', "makes no sense"),
    ],
)
async def test_hostile_children(tmp_path: Path, text: str, words: str) -> None:
    upnp = upnp_of(child(tmp_path, text))
    await upnp.step()
    assert upnp.mapped.external is None
    assert words in upnp.mapped.reason
    assert upnp.due > trio.current_time() + 60, "not again at once"
    await upnp.forget()


@pytest.mark.skipif(not hasattr(signal, "alarm"), reason="no such signals")
async def test_a_child_that_dies_later_is_noticed_at_the_renewal(tmp_path: Path) -> None:
    upnp = upnp_of(child(tmp_path, GOOD))
    await upnp.step()
    assert upnp.mapped.how == "UPnP"
    assert upnp._process is not None
    os.kill(upnp._process.pid, signal.SIGKILL)
    await upnp._process.wait()
    await upnp.step()
    mapped = upnp.mapped
    assert mapped.external is None
    assert mapped.reason.startswith("UPnP")
    assert upnp.due < trio.current_time() + 61, "it was there a moment ago"
    await upnp.step()
    assert upnp.mapped.how == "UPnP"
    await upnp.forget()
