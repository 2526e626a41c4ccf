"""UPnP for routers that speak neither PCP nor NAT-PMP, where the package `miniupnpc` is installed.

The library runs in a child process (`upnp_child`): what it says is looked at as if a stranger had sent it, and where it
does not answer in time it is ended.
"""

from __future__ import annotations

import importlib.util
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import trio

from atmo.errors import WireError
from atmo.reach.port_mapping_config import Mapped, PortMappingConfig
from atmo.wire.address import Address

UPNP = "UPnP"

_ANSWER_S = 30.0
"""For one answer of the child. Source: guess; finding the router takes 2 s, and up to ten questions follow."""

_LINE_MOST = 1_024
_FORGET_S = 0.5
"""At the end, to take mappings back; the child goes on for a while where that is not enough."""

_CHILD = Path(__file__).with_name("upnp_child.py")


def is_installed() -> bool:
    """Says whether the library is there."""
    return importlib.util.find_spec("miniupnpc") is not None


class Upnp:
    """Keeps the port mapped by UPnP.

    Args:
        config: Periods.
        client: Address of this machine.
        router: That of the router, and of nobody else.
        port: To be mapped.
        tcp: The TCP port of the same number, too.
        child: The program that does it.
        answer_s: For one answer of it.

    Attributes:
        mapped: What is mapped, or why nothing is.
        due: When `step` wants to be called, in monotonic seconds.
    """

    def __init__(
        self,
        config: PortMappingConfig,
        client: str,
        router: str,
        port: int,
        tcp: bool,
        child: Path = _CHILD,
        answer_s: float = _ANSWER_S,
    ) -> None:
        self.mapped = Mapped()
        self.due = -math.inf
        self._config = config
        self._child, self._answer_s = child, answer_s
        self._arguments = [client, router, str(port), str(int(tcp)), str(config.lifetime_s)]
        self._process: trio.Process | None = None

    async def step(self) -> None:
        """Maps the port, or renews that."""
        wait_s = self._config.retry_s if self.mapped.external else self._config.rest_most_s
        try:
            with trio.fail_after(self._answer_s):
                self.mapped = self._read_untrusted(await self._ask())
        except (OSError, WireError, trio.TooSlowError, trio.BrokenResourceError, trio.ClosedResourceError) as error:
            await self._end()
            self.mapped = Mapped(reason=f"{UPNP}: {str(error) or 'no answer'}")
        if self.mapped.external is None:
            await self.forget()
        else:
            left_s = self.mapped.until - trio.current_time()
            wait_s = max(self._config.retry_s, min(self._config.check_s, left_s / 2))
        self.due = trio.current_time() + wait_s

    async def forget(self) -> None:
        """Has the mappings taken back, and waits a little for that; may be called again."""
        process, before = self._process, self.mapped
        if process is None:
            return
        self.mapped = Mapped(reason=before.reason)
        self.due = trio.current_time() + self._config.rest_s
        with trio.move_on_after(_FORGET_S, shield=True) as scope:
            assert process.stdin is not None, "it is a pipe"
            await process.stdin.aclose()
            await process.wait()
        if scope.cancelled_caught and before.external is not None:
            self._process = None  # it takes its time for that, and ends by itself
        await self._end()

    async def _ask(self) -> bytes:
        """Has the child map or renew; returns the line that it says."""
        if self._process is None:
            self._process = await trio.lowlevel.open_process(
                [sys.executable, "-I", str(self._child), *self._arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
        else:
            assert self._process.stdin is not None, "it is a pipe"
            await self._process.stdin.send_all(b"\n")
        assert self._process.stdout is not None, "it is a pipe"
        line = b""
        while not line.endswith(b"\n") and len(line) < _LINE_MOST:
            more = await self._process.stdout.receive_some(_LINE_MOST)
            if not more:
                raise WireError("it broke off")
            line += more
        return line

    def _read_untrusted(self, line: bytes) -> Mapped:
        try:
            said: Any = json.loads(line)
            if "error" in said:
                return Mapped(reason=f"{UPNP}: {str(said['error'])[:200]}")
            external, lifetime_s = Address(str(said["host"]), int(said["port"])), int(said["lifetime_s"])
            tcp = said["tcp"] is True
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
            raise WireError("what it said makes no sense") from error
        known_s = min(lifetime_s, self._config.lifetime_s) if lifetime_s > 0 else self._config.lifetime_s
        return Mapped(UPNP, external, tcp, trio.current_time() + known_s)

    async def _end(self) -> None:
        """Ends a child, however it is."""
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()
            for pipe in (process.stdin, process.stdout):
                assert pipe is not None, "it is a pipe"
                await pipe.aclose()
