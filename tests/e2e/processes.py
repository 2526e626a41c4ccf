"""Real `atmo` processes on loopback, each with a home of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx

START_S = 60.0
COMMAND_S = 180.0


class NodeProcess:
    """One `atmo node` and the commands on its home.

    Args:
        home: Its folder.
        name: What it is called.
        options: Further options of `atmo node`.
        variables: Environment variables over the usual ones.
    """

    def __init__(
        self, home: Path, name: str, options: Sequence[str] = (), variables: Mapping[str, str] | None = None
    ) -> None:
        self.home = home
        self._variables = dict(variables or {})
        self.name = name
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None
        self._client = httpx.Client(verify=False, trust_env=False)  # loading certificates takes longer than asking
        self._log = home.with_suffix(".log")

    def start(self) -> NodeProcess:
        """Starts the node and waits until it is ready."""
        self.launch()
        self.wait_until_ready()
        return self

    def launch(self) -> None:
        """Starts the node."""
        arguments = ["node", "--http", "127.0.0.1:0", "--listen", "127.0.0.1:0", "--name", self.name, *self._options]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "atmo", "--home", str(self.home), *arguments],
                stdout=log,
                stderr=log,
                env=environment() | self._variables,
            )

    def wait_until_ready(self) -> None:
        """Waits until a node that was launched answers requests."""
        assert self._process is not None
        deadline = time.monotonic() + START_S
        while not (self.home / "run" / "node.json").exists() or self.info["pid"] != self._process.pid:
            assert self._process.poll() is None, self.log()
            assert time.monotonic() < deadline, self.log()
            time.sleep(0.05)

    @property
    def info(self) -> dict[str, Any]:
        """`run/node.json`."""
        found: dict[str, Any] = json.loads((self.home / "run" / "node.json").read_text())
        return found

    @property
    def url(self) -> str:
        """The base URL of the endpoint for OpenAI's clients."""
        return str(self.info["http"]) + "/v1"

    def log(self) -> str:
        """What the node wrote."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def atmo(self, *arguments: str, code: int = 0) -> str:
        """Runs a command on this home; returns what it printed."""
        done = self.run(*arguments)
        assert done.returncode == code, f"{arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}\n{self.log()}"
        return done.stdout

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Runs a command on this home."""
        return subprocess.run(
            [sys.executable, "-m", "atmo", "--home", str(self.home), *arguments],
            capture_output=True,
            text=True,
            timeout=COMMAND_S,
            env=environment() | self._variables,
            check=False,
        )

    def json(self, *arguments: str) -> Any:
        """Runs a command with `--json`."""
        return json.loads(self.atmo(*arguments, "--json"))

    def ask(self, path: str, body: Any = None) -> Any:
        """Asks the control API of the running node, which is cheaper than a command; POST where there is a body."""
        method = "GET" if body is None else "POST"
        headers = {"authorization": f"Bearer {self.info['token']}"}
        url = f"{self.info['http']}/atmo/v1/{path}"
        answer = self._client.request(method, url, json=body, headers=headers, timeout=COMMAND_S)
        assert answer.status_code == 200, f"{path}: {answer.status_code} {answer.text}\n{self.log()}"
        last = json.loads(answer.text.splitlines()[-1])
        assert "error" not in last, last
        return last

    @property
    def ended(self) -> bool:
        """No process of this node runs."""
        return self._process is None or self._process.poll() is not None

    def kill(self) -> None:
        """Ends the node as a power cut would."""
        self._client.close()
        self._client = httpx.Client(verify=False, trust_env=False)
        if self._process:
            self._process.kill()
            self._process.wait()

    def stop(self) -> tuple[int, float]:
        """Sends SIGINT; returns the exit code and the seconds that it took."""
        assert self._process is not None
        began = time.monotonic()
        self._process.send_signal(signal.SIGINT)
        return self._process.wait(timeout=20), time.monotonic() - began

    def __enter__(self) -> NodeProcess:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()


def environment() -> dict[str, str]:
    """No settings of the machine's owner leak into a test, no Ollama and no cache is found, no router is asked."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("ATMO_")}
    return {
        **kept,
        "ATMO_OLLAMA_URL": "false",
        "ATMO_PORT_MAPPING": "0",
        "ATMO_BRIDGE": "0",
        "PYTHONWARNINGS": "default",
    }


def join(founder: NodeProcess, guest: NodeProcess, role: str = "edge") -> None:
    """Brings `guest` into the founder's mesh by code."""
    code = founder.atmo("mesh", "invite", "--role", role).splitlines()[-1]
    guest.atmo("mesh", "join", code)


def write_gguf(path: Path, size: int) -> None:
    """Writes a GGUF file with one tensor of random bytes (ggml's gguf.md, version 3)."""
    name = b"weights"
    header = b"GGUF" + (3).to_bytes(4, "little") + (1).to_bytes(8, "little") + (0).to_bytes(8, "little")
    elements = size - 4096
    header += len(name).to_bytes(8, "little") + name + (1).to_bytes(4, "little") + elements.to_bytes(8, "little")
    header += (24).to_bytes(4, "little") + (0).to_bytes(8, "little")  # type I8, offset 0
    padding = -len(header) % 32
    with path.open("wb") as file:
        file.write(header + b"\0" * padding)
        for _ in range(0, elements, 2**20):
            file.write(os.urandom(2**20))
        file.truncate(len(header) + padding + elements)


def wait_for(condition: Any, seconds: float = 20.0) -> None:
    """Waits until `condition()` is true."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.1)
