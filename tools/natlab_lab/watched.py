"""Runs `atmo` with a watcher in the node: `python watched.py FOLDER node ...`. The lab's machines run this.

The node is the one that everybody runs; the watcher notes when its links are dialled, ready and moved, in monotonic
seconds, which are the same for all processes of a machine. Starting a command or asking over HTTP for that would be too
coarse. It also holds dials between two nodes back until it is told that they may meet, so that a connection begins when
both know each other and are at their relay, and not at some moment in the middle of joining.

`FOLDER/held` holds the ids of nodes that are not dialled at first. `FOLDER/sock` takes one JSON object a line and
answers each with one: `{"do": "part" | "meet" | "ask" | "events", "node": ID}`.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from collections import deque
from pathlib import Path
from typing import Any

import trio

from atmo.cli.main import main
from atmo.engine import Dial
from atmo.errors import RemoteError
from atmo.identity import NodeId
from atmo.net.connection import Connection
from atmo.net.driver import PeerDriver
from atmo.peer import LinkReady
from atmo.reach.paths import Path as NetworkPath
from atmo.services.topology import PROTOCOL

_EVENTS = 4_096
_LINE = 65_536
_ASK_S = 30.0
_PART_S = 10.0
_CROWD = 8
"""Requests that wait for the first byte at once; the lab makes one."""


class Watcher:
    """What is known of one node's links.

    Args:
        driver: The running peer.
        folder: Holds `held` and `sock`.
    """

    def __init__(self, driver: PeerDriver, folder: Path) -> None:
        self._driver = driver
        self._folder = folder
        self._events: deque[dict[str, Any]] = deque(maxlen=_EVENTS)
        self._gates: dict[NodeId, trio.Event] = {}
        self._at_gate: set[NodeId] = set()
        held = folder / "held"
        for text in held.read_text().split() if held.exists() else ():
            self._gates[NodeId.parse(text)] = trio.Event()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Watches, and answers on the socket."""
        driver = self._driver
        self._dial, self._moved = driver.links.dial, driver.endpoint.probing.moved
        setattr(driver.links, "dial", self._on_dial)  # noqa: B010 - a method of this one object
        driver.endpoint.probing.moved = self._on_moved
        driver.observers.append(self._on_event)
        path = self._folder / "sock"
        path.unlink(missing_ok=True)
        with trio.socket.socket(socket.AF_UNIX) as listener:
            await listener.bind(str(path))
            listener.listen(_CROWD)
            task_status.started()
            await trio.serve_listeners(self._serve, [trio.SocketListener(listener)])

    # --- what happens ---------------------------------------------------------------------------------------------

    def _note(self, event: str, node: NodeId, kind: str = "") -> float:
        now = time.monotonic()
        self._events.append({"t": now, "event": event, "node": str(node), "kind": kind})
        return now

    async def _on_dial(self, effect: Dial) -> None:
        node = effect.node
        gate = self._gates.get(node)
        if gate is not None and not gate.is_set():
            if node in self._at_gate:
                return  # the first one goes when the gate opens
            self._at_gate.add(node)
            try:
                await gate.wait()
            finally:
                self._at_gate.discard(node)
        self._note("dial", node)
        await self._dial(effect)

    def _on_moved(self, connection: Connection, path: NetworkPath, reason: str) -> None:
        self._note("moved", connection.node_id, path.kind)
        self._moved(connection, path, reason)

    def _on_event(self, event: Any) -> None:
        if isinstance(event, LinkReady) and (link := self._driver.links.get(event.node)):
            self._note("ready", event.node, link.path)

    # --- what is asked --------------------------------------------------------------------------------------------

    async def _serve(self, stream: trio.SocketStream) -> None:
        buffer = b""
        while data := await stream.receive_some(_LINE):
            buffer += data
            while b"\n" in buffer:
                line, _, buffer = buffer.partition(b"\n")
                await stream.send_all(json.dumps(await self._do(json.loads(line))).encode() + b"\n")

    async def _do(self, command: dict[str, Any]) -> Any:
        if command["do"] == "events":
            return list(self._events)
        node = NodeId.parse(command["node"])
        if command["do"] == "part":
            return await self._part(node)
        self._gates.pop(node, trio.Event()).set()
        began = self._note(command["do"], node)
        return await self._ask(node, began) if command["do"] == "ask" else {"t": began}

    async def _part(self, node: NodeId) -> dict[str, Any]:
        """Ends the link to a node, and dials it no more."""
        self._gates[node] = trio.Event()
        if link := self._driver.links.get(node):
            link.end("the lab parts them")
            with trio.move_on_after(_PART_S):
                await link.gone.wait()
        return {"t": self._note("parted", node)}

    async def _ask(self, node: NodeId, began: float) -> dict[str, Any]:
        """Makes a request to a node; tells how long its answer's first byte took."""
        try:
            async with self._driver.request(node, PROTOCOL, {}, _ASK_S) as stream:
                await stream.receive()
        except RemoteError as error:
            return {"t": began, "error": str(error)}
        link = self._driver.links.get(node)
        return {"t": began, "first_byte_s": time.monotonic() - began, "kind": link.path if link else ""}


def watch(folder: Path) -> None:
    """Has every peer of this process watched."""
    plain = PeerDriver.run

    async def run(  # noqa: ASYNC128 - the driver's own tells the status
        driver: PeerDriver, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(Watcher(driver, folder).run)
            await plain(driver, task_status=task_status)
            nursery.cancel_scope.cancel()

    setattr(PeerDriver, "run", run)  # noqa: B010


if __name__ == "__main__":
    os.umask(0o077)
    watch(Path(sys.argv[1]))
    sys.argv[:2] = ["atmo"]
    main(sys.argv[1:])
