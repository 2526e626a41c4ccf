"""One node in a process of its own, for `swarm.py`: `python _swarm_node.py HOME NAME clear|sealed`.

It reads commands from its standard input and ends with it.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import trio
from _memory import forget_peak, memory_mb
from _swarm_child import say

from atmo.config.settings import Settings
from atmo.config.transfer import TransferSettings
from atmo.config.values import HostPort
from atmo.errors import AtmoError
from atmo.identity import NodeId
from atmo.net.driver import PeerDriver
from atmo.net.quic import open_endpoint
from atmo.net.tcp import open_tcp
from atmo.node.offline import Services, build_host, open_home, open_services
from atmo.services.host import MeshHost
from atmo.storage.decisions import TrustPolicy
from atmo.transfer.engine import TransferDone, TransferProgress


class Node:
    """What the commands work on; each public method is one."""

    def __init__(self, host: MeshHost, services: Services) -> None:
        self._host = host
        self._services = services
        self._chunks_at = 0.0
        self._bytes_done = 0
        self._watched = False

    async def create(self) -> dict[str, Any]:
        await self._services.mesh.create("bench")
        return {}

    async def invite(self) -> dict[str, Any]:
        return {"code": (await self._services.mesh.invite())["code"]}

    async def join(self, code: str) -> dict[str, Any]:
        await self._services.mesh.join(code)
        return {}

    async def imports(self, path: str, name: str) -> dict[str, Any]:
        row = await self._services.models.import_model(Path(path), name=name, version="1.0")
        return {"path": str(self._services.models.local_models()[0].path), "size": row.size_bytes}

    async def await_holders(self, name: str, count: int) -> dict[str, Any]:
        """Waits until a model has so many holders to whom there are links; neighbours alone need not be they."""
        with trio.fail_after(60):
            while True:
                linked, others = self._holders(name)
                if len(linked) >= count:
                    break
                for node in others:
                    self._driver.peer.reach(self._driver.now(), node)
                self._driver.kick()
                await trio.sleep(0.25)
        return {}

    async def pull(self, name: str) -> dict[str, Any]:
        """Pulls a model; tells when all chunks were verified and written, and when it was registered."""
        driver, models = self._driver, self._services.models
        if not self._watched:
            driver.observers.append(self._watch)
            self._watched = True
        tcp = models.fetching.tcp_chunks
        forget_peak()
        self._bytes_done = 0
        began = time.perf_counter()
        row = await models.pull(name)
        ended = time.perf_counter()
        return {
            "chunks_s": self._chunks_at - began,
            "pull_s": ended - began,
            "peak_mb": memory_mb(peak=True),
            "size": row.size_bytes,
            "tcp_chunks": models.fetching.tcp_chunks - tcp,
        }

    async def start(self, name: str, until: int) -> dict[str, Any]:
        """Begins to pull in the background and returns when a part has come; then it waits to be killed."""
        self._driver.observers.append(self._watch)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._services.models.pull, name)
            while self._bytes_done < until:  # noqa: ASYNC110 - no event tells of it
                await trio.sleep(0.001)
            say({"bytes": self._bytes_done})
            await trio.sleep_forever()
        raise AssertionError

    async def remove(self, name: str) -> dict[str, Any]:
        await self._services.models.remove(name)
        return {}

    async def tcp(self, on: bool) -> dict[str, Any]:
        self._driver.bulk = self._host.bulk if on else None
        return {}

    async def state(self) -> dict[str, Any]:
        """Tells what was served and at what cost; the peak of memory begins anew."""
        peak = memory_mb(peak=True)
        forget_peak()
        served = self._services.models.server.stats
        return {"chunks": served.chunks, "cpu_s": time.process_time(), "peak_mb": peak}

    @property
    def _driver(self) -> PeerDriver:
        assert isinstance(self._host.port, PeerDriver)
        return self._host.port

    def _holders(self, name: str) -> tuple[list[NodeId], list[NodeId]]:
        """Returns the holders with a link, and those without."""
        peer, now = self._driver.peer, self._driver.now()
        holders = [offer.node for offer in peer.models(now) if offer.record.name == name]
        linked = [node for node in holders if peer.is_ready(node)]
        return linked, [node for node in holders if node not in linked]

    def _watch(self, event: Any) -> None:
        if isinstance(event, TransferDone):
            self._chunks_at = time.perf_counter()
        elif isinstance(event, TransferProgress):
            self._bytes_done = event.bytes_done


async def _run(home: Path, name: str, clear: bool) -> None:
    transfer = TransferSettings(clear_on_lan=clear)
    trust = TrustPolicy(first_time="allow")
    settings = Settings(name, listen=HostPort("127.0.0.1", 0), lan=False, transfer=transfer, trust=trust)
    with ExitStack() as stack:
        opened = open_home(stack, home, 10.0)
        async with (
            open_endpoint(opened.signer, "127.0.0.1", 0) as endpoint,
            open_tcp(endpoint.local_address) as tcp,
            trio.open_nursery() as nursery,
        ):
            host = build_host(opened, settings, endpoint, nursery, tcp=tcp)
            async with open_services(opened, settings, host) as services:
                await _obey(Node(host, services))
            nursery.cancel_scope.cancel()


async def _obey(node: Node) -> None:
    say({"ready": True})
    while line := await trio.to_thread.run_sync(sys.stdin.readline, abandon_on_cancel=True):
        told = json.loads(line)
        command: Callable[..., Awaitable[dict[str, Any]]] = getattr(node, told.pop("do"))
        try:
            say(await command(**told))
        except (AtmoError, trio.TooSlowError) as error:
            say({"error": str(error) or "it took too long"})


if __name__ == "__main__":
    trio.run(_run, Path(sys.argv[1]), sys.argv[2], sys.argv[3] == "clear")
