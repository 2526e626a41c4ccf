"""The processes of the gateway's benchmark: the upstream, nodes, LiteLLM's proxy; and what they cost."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from _peer_environment import python_with

from tests.e2e.processes import NodeProcess, join

LITELLM = ("litellm[proxy]", "1.106.12")
"""Of the series whose figures the aims go by, so that both can be compared. Source: 1.106 was measured first."""

_OF_PROCESS = 2
"""CPUCLOCK_SCHED of Linux; see clock_getcpuclockid(3)."""

START_S = 120.0
SERVED = tuple(f"m{number}" for number in range(4))
"""Models that LiteLLM is told of; requests in parallel go to all of them, as a node runs eight at a time of each."""


@dataclass(frozen=True)
class Served:
    """A process that answers chats.

    Attributes:
        port: Where, on loopback.
        pid: Of the process.
    """

    port: int
    pid: int

    def cpu_s(self) -> float:
        """Returns the CPU time of all its threads, by the clock that Linux has for every process."""
        return time.clock_gettime((~self.pid << 3) | _OF_PROCESS)


@contextmanager
def upstream() -> Iterator[Served]:
    """Runs the server behind everything."""
    command = [sys.executable, str(Path(__file__).with_name("_gateway_upstream.py"))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        try:
            assert child.stdout is not None
            yield Served(int(child.stdout.readline()), child.pid)
        finally:
            child.kill()


def node(stack: ExitStack, folder: Path, name: str, behind: Served | None = None) -> NodeProcess:
    """Starts a node, with the upstream as its server where one is given."""
    home = folder / name
    home.mkdir()
    if behind is not None:
        servers = [{"name": "noop", "url": f"http://127.0.0.1:{behind.port}/v1"}]
        (home / "config.json").write_text(json.dumps({"servers": servers}))
    process = NodeProcess(home, name, ["--no-lan"])
    stack.callback(process.kill)
    return process.start()


def served(process: NodeProcess) -> Served:
    """Returns where a node answers."""
    return Served(int(process.info["http"].rpartition(":")[2]), process.info["pid"])


def joined(stack: ExitStack, folder: Path, holder: NodeProcess) -> NodeProcess:
    """Returns a node without models of its own in the mesh of `holder`, once it knows the holder's models."""
    asker = node(stack, folder, "asker")
    holder.atmo("mesh", "create", "bench")
    join(holder, asker)
    deadline = time.monotonic() + START_S
    while SERVED[0] not in asker.ask("status")["capabilities"] and not _knows(asker):
        assert time.monotonic() < deadline, asker.log()
        time.sleep(0.1)
    return asker


def _knows(asker: NodeProcess) -> bool:
    import httpx

    rows = httpx.get(f"{asker.url}/models", trust_env=False).json()["data"]
    return any(row["id"] == SERVED[0] for row in rows)


@contextmanager
def litellm(folder: Path, behind: Served) -> Iterator[tuple[Served, float]]:
    """Runs LiteLLM's proxy with one worker; yields it and the seconds that it took to start.

    Raises:
        OSError, subprocess.SubprocessError: It cannot be installed.
    """
    script = python_with(*LITELLM).parent / "litellm"
    config = folder / "litellm.json"
    config.write_text(json.dumps({"model_list": [_entry(name, behind) for name in SERVED]}))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [str(script), "--config", str(config), "--host", "127.0.0.1", "--port", str(port), "--num_workers", "1"]
    began = time.monotonic()
    with (folder / "litellm.log").open("wb") as log:
        child = subprocess.Popen([*command, "--telemetry", "False"], stdout=log, stderr=log, env=_environment())
    try:
        while not _answers(port):
            said = (folder / "litellm.log").read_text()[-2_000:]
            assert child.poll() is None, said
            assert time.monotonic() < began + START_S, said
            time.sleep(0.05)
        yield Served(port, child.pid), time.monotonic() - began
    finally:
        child.kill()
        child.wait()


def _entry(name: str, behind: Served) -> Mapping[str, object]:
    parameters = {"model": f"openai/{name}", "api_base": f"http://127.0.0.1:{behind.port}/v1", "api_key": "sk-bench"}
    return {"model_name": name, "litellm_params": parameters}


def _environment() -> dict[str, str]:
    """Nothing is logged or fetched, and no key is asked for: the least that LiteLLM can do."""
    unset = {"LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true"}
    return {**os.environ, **unset, "LITELLM_LOG": "ERROR", "LITELLM_LOCAL_MODEL_COST_MAP": "True", "NO_PROXY": "*"}


def _answers(port: int) -> bool:
    import httpx

    try:
        return httpx.get(f"http://127.0.0.1:{port}/health/liveliness", trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False
