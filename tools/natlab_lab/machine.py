"""Processes in hosts of the lab: `atmo node`, `atmo relay`, a STUN server, a server of models."""

from __future__ import annotations

import functools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from atmo.shell.client import NodeClient
from natlab_lab.inside import Inside
from natlab_lab.net import Host, Lab
from natlab_lab.shell import wait

RELAY_PORT, STUN_PORT, MODELS_PORT = 11_452, 3_478, 8_000
START_S = 60.0
_STOP_S = 5.0
_LINE = 1 << 20
_HERE = Path(__file__).resolve().parent


def start(host: Host, log: Path, *command: str) -> subprocess.Popen[bytes]:
    """Starts a command in a host, with a session of its own: Ctrl-C reaches the lab alone, which ends all in order."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ATMO_")}
    environment["ATMO_BRIDGE"] = "0"
    with log.open("ab") as output:
        return subprocess.Popen(
            host.command(*command),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=environment,
            start_new_session=True,
        )


def stop(process: subprocess.Popen[bytes], how: signal.Signals = signal.SIGTERM) -> None:
    """Ends a process."""
    process.send_signal(how)
    try:
        process.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


class Machine:
    """A node in a host of the lab.

    Args:
        host: Where it runs.
        folder: Of the run; its home and its log go there.
        relays: URLs.
        stun: `HOST:PORT` of STUN servers; ignored where `atmo node` does not know them.
        models: Names of models that a server beside the node offers.
    """

    def __init__(
        self, host: Host, folder: Path, relays: Sequence[str], stun: Sequence[str] = (), models: Sequence[str] = ()
    ) -> None:
        self.host = host
        self.folder = folder / host.name
        self.log = folder / f"{host.name}.log"
        self.inside = Inside(host.namespace)
        self.id = ""
        self._flags = [f"--relay={url}" for url in relays]
        self._flags += [f"--stun={server}" for server in stun if knows_stun()]
        self._models = models
        self._processes: list[subprocess.Popen[bytes]] = []
        self._client: NodeClient | None = None

    def start(self) -> None:
        """Starts it with an empty home; `wait_until_ready` waits for it."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        if self._models:
            server = {"name": f"models of {self.host.name}", "url": f"http://127.0.0.1:{MODELS_PORT}/v1"}
            (self.folder / "config.json").write_text(json.dumps({"servers": [server], "ollama": False}))
            command = [sys.executable, str(_HERE / "models.py"), str(MODELS_PORT), *self._models]
            self._processes.append(start(self.host, self.log, *command))
        command = [sys.executable, str(_HERE / "watched.py"), str(self.folder), "node", "--home", str(self.folder)]
        command += ["--name", self.host.name, "--log-level", os.environ.get("NATLAB_LOG_LEVEL", "info"), *self._flags]
        self._processes.append(start(self.host, self.log, *command))

    def wait_until_ready(self) -> None:
        """Returns when its API answers.

        Raises:
            RuntimeError: It does not.
        """
        file = self.folder / "run" / "node.json"
        wait(lambda: self._ended() or file.exists(), START_S, f"{self.host.name} is ready")
        if self._ended():
            raise RuntimeError(f"{self.host.name} ended: {self.log.read_text(errors='replace')[-500:]}")
        info = json.loads(file.read_text())
        self.id, self._client = info["node_id"], NodeClient(info)

    def _ended(self) -> bool:
        return self._processes[-1].poll() is not None

    @property
    def client(self) -> NodeClient:
        """Its API; to be called in a thread of `inside`."""
        assert self._client is not None
        return self._client

    def nodes(self) -> dict[str, dict[str, Any]]:
        """Returns the members it knows, by id: those of earlier tries have the same names."""
        return {row["id"]: row for row in self.inside.call(self.client.nodes)}

    def path_to(self, other: Machine) -> str:
        """Returns the kind of path to another node, empty for none."""
        row = self.nodes().get(other.id)
        return (row["path"] or "") if row else ""

    def relay(self) -> str:
        """Returns the relay at which it is found, empty for none."""
        return str(self.inside.call(self.client.status).get("relay") or "")

    def hold(self, other: Machine) -> None:
        """Keeps it from dialling another node from the start; both are ready and in no mesh."""
        (self.folder / "held").write_text(other.id)

    def watch(self, do: str, other: Machine | None = None) -> Any:
        """Asks the watcher in the node; see `natlab_lab.watched`."""
        command = {"do": do, "node": other.id if other else ""}
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(START_S)
            connection.connect(str(self.folder / "sock"))
            connection.sendall(json.dumps(command).encode() + b"\n")
            answer = b""
            while not answer.endswith(b"\n"):
                data = connection.recv(_LINE)
                if not data:
                    raise RuntimeError(f"{self.host.name} ended in the middle of {do}")
                answer += data
        return json.loads(answer)

    def stop(self) -> None:
        """Ends it and what runs beside it."""
        if self._client is not None:
            self._client.close()
            self._client = None
        while self._processes:
            stop(self._processes.pop())

    def close(self) -> None:
        """Ends it for good."""
        self.stop()
        self.inside.close()


@functools.cache
def knows_stun() -> bool:
    """Says whether `atmo node` takes STUN servers."""
    done = subprocess.run([sys.executable, "-m", "atmo", "node", "--help"], capture_output=True, text=True, check=False)
    return "--stun" in done.stdout


class Public:
    """What stands on the public wire: relays, a STUN server with two addresses, and the node that founds the mesh."""

    def __init__(self, lab: Lab, folder: Path, relays: int = 1) -> None:
        self._folder = folder
        self.relays: list[subprocess.Popen[bytes]] = []
        self.urls: list[str] = []
        for number in range(1, relays + 1):
            host = lab.host(f"relay{number}", "none")
            self.relays.append(self._relay(host))
            self.urls.append(f"ws://{host.address}:{RELAY_PORT}/")
        self.stun: list[str] = []
        self._stun = self._start_stun(lab)
        self.hub = Machine(lab.host("hub", "none"), folder, self.urls, self.stun)

    def _relay(self, host: Host) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "atmo", "relay", "--listen", f"{host.address}:{RELAY_PORT}", "--rate", "16M"]
        return start(host, self._folder / f"{host.name}.log", *command)

    def _start_stun(self, lab: Lab) -> subprocess.Popen[bytes] | None:
        """Starts coturn; with two addresses it serves for RFC 5780's tests of NATs, too."""
        if shutil.which("turnserver") is None:
            return None
        host = lab.host("stun", "none")
        addresses = (host.address, lab.second_address(host))
        self.stun.append(f"{host.address}:{STUN_PORT}")
        flags = ["-n", "--stun-only", "--no-auth", "--no-cli", "--no-tcp", "--no-tls", "--no-dtls", "--simple-log"]
        flags += ["--log-file", "stdout", "--db", str(self._folder / "stun.db")]
        flags += [f"--listening-ip={address}" for address in addresses]
        flags += [f"--listening-port={STUN_PORT}", "--pidfile", str(self._folder / "stun.pid")]
        return start(host, self._folder / "stun.log", "turnserver", *flags)

    def found(self) -> None:
        """Has the hub, which was started, found the mesh."""
        hub = self.hub
        hub.wait_until_ready()
        hub.inside.call(hub.client.create, "lab")
        wait(hub.relay, START_S, "the hub is at a relay")

    def let_in(self, machine: Machine) -> None:
        """A machine that is ready joins the mesh."""
        code = self.hub.inside.call(self.hub.client.invite, "edge", 3_600)["code"]
        machine.inside.call(machine.client.join, code)

    def close(self) -> None:
        """Ends all of it."""
        self.hub.close()
        for process in (*self.relays, *([self._stun] if self._stun else [])):
            stop(process, signal.SIGKILL)


def settle(machines: Sequence[Machine], seconds: float = 30.0) -> None:
    """Returns when all of them know each other and are at their relay.

    Raises:
        RuntimeError: It takes too long.
    """
    ids = {machine.id for machine in machines}

    def knows_all(machine: Machine) -> bool:
        return ids <= machine.nodes().keys()

    for machine in machines:
        wait(partial(knows_all, machine), seconds, f"{machine.host.name} knows the others")
        wait(machine.relay, seconds, f"{machine.host.name} is at a relay")
    time.sleep(0.5)  # what the last one told of itself is on its way to the others
