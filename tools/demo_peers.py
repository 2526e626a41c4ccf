"""Peers for the demonstration: `atmo node` processes with homes of their own, and the commands run on them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import httpx

READY_S = 90.0
COMMAND_S = 120.0
WAIT_S = 60.0
STOP_S = 5.0
LOG_LINES = 12

Result = TypeVar("Result")


class DemoError(Exception):
    """A step did not do what it should; the text is one line for a person."""


class Peer:
    """One `atmo node` process.

    Args:
        name: What the mesh calls it.
        folder: Holds its home and its log.
    """

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.home = folder / name
        self.log = folder / f"{name}.log"
        self.url = ""
        self._token = ""
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Starts the process on free ports of the loopback interface; `wait_ready` waits for it."""
        command = [*atmo("node"), "--home", str(self.home), "--name", self.name]
        command += ["--http", "127.0.0.1:0", "--listen", "127.0.0.1:0"]
        with self.log.open("wb") as log:
            # A session of its own, so that Ctrl-C reaches this program alone and it stops the peers in order.
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment(),
                start_new_session=True,
            )

    def wait_ready(self) -> None:
        """Waits until the node has written `run/node.json`."""
        info = wait_for(f"{self.name} to be ready", self._read_info, READY_S)
        self.url, self._token = info["http"], info["token"]

    def _read_info(self) -> dict[str, Any] | None:
        assert self._process is not None
        if self._process.poll() is not None:
            raise DemoError(f"{self.name} ended with exit code {self._process.returncode} before it was ready")
        try:
            info: dict[str, Any] = json.loads((self.home / "run" / "node.json").read_text())
        except (OSError, ValueError):
            return None
        return info

    def atmo(self, *arguments: str) -> str:
        """Runs one command on this peer's home and returns what it printed."""
        command = [*atmo(*arguments), "--home", str(self.home)]
        result = subprocess.run(
            command, capture_output=True, text=True, env=environment(), timeout=COMMAND_S, check=False
        )
        if result.returncode != 0:
            line = (result.stderr.strip() or result.stdout.strip() or "no output").splitlines()[-1]
            raise DemoError(f"`atmo {' '.join(arguments)}` failed on {self.name}: {line}")
        return result.stdout.strip()

    def get(self, path: str, **query: str) -> Any:
        """Asks the endpoint or the control API."""
        answer = httpx.get(self.url + path, params=query, headers=self._headers(), timeout=COMMAND_S)
        return checked(self.name, answer).json()

    def post(self, path: str, body: Mapping[str, Any]) -> httpx.Response:
        """Sends a request to the endpoint."""
        answer = httpx.post(self.url + path, json=dict(body), timeout=COMMAND_S)
        return checked(self.name, answer)

    def pull(self, spec: str) -> tuple[dict[str, Any], set[str]]:
        """Pulls a model as `atmo model pull` does; returns its row and the names of the nodes that sent chunks."""
        sources: set[str] = set()
        request = {"spec": spec}
        url = f"{self.url}/atmo/v1/models/pull"
        with httpx.stream("POST", url, json=request, headers=self._headers(), timeout=COMMAND_S) as answer:
            for line in answer.iter_lines():
                report = json.loads(line) if line.strip() else {}
                sources.update(report.get("progress", {}).get("sources", ()))
                if "error" in report:
                    raise DemoError(f"{self.name} could not pull {spec}: {report['error']['message']}")
                if "done" in report:
                    return report["done"], sources
        raise DemoError(f"{self.name} could not pull {spec}: the answer was cut short")

    def _headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self._token}"}

    def tail(self) -> str:
        """Returns the last lines of the log."""
        lines = self.log.read_text(errors="replace").splitlines() if self.log.exists() else []
        return "\n".join(lines[-LOG_LINES:])

    def ask_to_stop(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)

    def stop(self) -> int | None:
        """Waits for the end and makes sure that nothing of the process's session is left; returns its exit code."""
        if self._process is None:
            return None
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(STOP_S)
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        return self._process.wait()


def atmo(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "atmo", *arguments]


def environment() -> dict[str, str]:
    """Returns this program's environment without settings meant for another node and without its user's models."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("ATMO_")}
    return own | {"ATMO_BRIDGE": "0"}


def checked(name: str, answer: httpx.Response) -> httpx.Response:
    if answer.is_error:
        try:
            message = answer.json()["error"]["message"]
        except (ValueError, KeyError, TypeError):
            message = answer.text[:200]
        raise DemoError(f"{name} answered {answer.request.url.path} with {answer.status_code}: {message}")
    return answer


def wait_for(what: str, look: Callable[[], Result | None], most_s: float = WAIT_S) -> Result:
    """Calls `look` until it returns something true; fails after `most_s` seconds."""
    deadline = time.monotonic() + most_s
    while True:
        found = look()
        if found:
            return found
        if time.monotonic() > deadline:
            raise DemoError(f"waited {most_s:.0f} s in vain for {what}")
        time.sleep(0.05)


@contextmanager
def running(peers: list[Peer]) -> Iterator[None]:
    """Starts the peers' processes; whatever happens in the block, none of them runs after it.

    Raises:
        DemoError: The block went well and then a peer did not end as it should.
    """
    codes: dict[str, int | None] = {}
    try:
        for peer in peers:
            peer.start()
        yield
    finally:
        # A second Ctrl-C must not leave processes behind.
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        for peer in peers:
            peer.ask_to_stop()
        codes = {peer.name: peer.stop() for peer in peers}
        signal.signal(signal.SIGINT, before)
    for name, code in codes.items():
        if code != 0:
            raise DemoError(f"{name} ended with exit code {code} when it was asked to stop")
