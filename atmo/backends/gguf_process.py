"""One running GGUF model, as the node sees it: a child process, spoken to by HTTP over a socket in a folder of its own.

llama.cpp's server speaks OpenAI's API itself, so an answer goes from its socket through the same client, the same
bounds and the same checks as that of any other server (`upstream`), and no chunk is touched by Python in the child.
A client that goes away closes its connection, which is how llama.cpp is told to stop.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import trio

from atmo.backends import child
from atmo.backends.child_side import REQUEST
from atmo.backends.gguf_child import SOCKET
from atmo.backends.gguf_file import GgufFacts, Plan
from atmo.backends.http_client import HttpClient, HttpConfig
from atmo.backends.upstream import Upstream, UpstreamConfig

log = logging.getLogger(__name__)

_MODULE = "atmo.backends.gguf_child"
_LOG = "log.txt"
_FOLDERS = "atmo-gguf-"
"""In the system's folder for such things rather than in the home: the path of a socket has about 100 characters."""
_REPORT_MOST_BYTES = 4_096
_LOG_MOST_BYTES = 1024 * 1024
_END_S = 0.5

SPARE_BYTES = 3 * 1024**3
"""Address space beyond twice what the model needs: code, stacks and arenas of threads, copies of weights in an order
that the processor likes better. Source: guess; 1.1 GiB measured with a model of 0.5 MB."""

ANSWER_S = 1_800.0
"""Until an answer begins: the whole prompt is read before. Source: guess; 32,768 tokens on a slow processor."""

IDLE_S = 180.0
"""Between two pieces of a stream. Source: six of llama.cpp's signs of life (one each 30 s) while it reads a prompt."""


class GgufRefused(Exception):
    """llama.cpp does not run the file; the message says why."""


class GgufDied(Exception):
    """The process ended where it should not have; the message says how."""


@dataclass(frozen=True, slots=True)
class Order:
    """What a process runs.

    Attributes:
        label: Names it in errors: "The model tiny 1.0.0".
        path: The file.
        facts: What it says of itself.
        plan: How it is run.
        threads: Processors that it uses.
    """

    label: str
    path: Path
    facts: GgufFacts
    plan: Plan
    threads: int


class GgufProcess:
    """A child that loads a model and serves it.

    Attributes:
        order: What it runs.
        socket: Where its server is.
        upstream: Requests to it, once it is ready.
    """

    def __init__(self, order: Order, process: trio.Process, folder: Path) -> None:
        self.order = order
        self._process = process
        self._folder = folder
        self._heard = bytearray()
        self._is_ready = False
        self._failure: GgufDied | GgufRefused | None = None
        self._hearing = trio.Lock()
        self.socket = str(folder / SOCKET)
        client = HttpClient("http://llama/v1", HttpConfig(idle_s=IDLE_S), unix=self.socket)
        self.upstream = Upstream(order.label, client, config=UpstreamConfig(first_byte_s=ANSWER_S))

    @classmethod
    async def start(cls, order: Order) -> GgufProcess:
        """Starts a child and returns at once.

        Raises:
            OSError: The system does not let us.
        """
        folder = Path(await trio.to_thread.run_sync(lambda: tempfile.mkdtemp(prefix=f"{_FOLDERS}{os.getpid()}-")))
        try:
            request = {
                "model": str(order.path.resolve()),
                "context": order.plan.context,
                "slots": order.plan.slots,
                "threads": order.threads,
                "embeds": order.facts.embeds,
            }
            limits = {"memory": 2 * order.plan.need_bytes + SPARE_BYTES, "file": _LOG_MOST_BYTES}
            await trio.Path(folder / REQUEST).write_text(json.dumps({"limits": limits, "request": request}))
            process = await _open(folder)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        return cls(order, process, folder)

    @property
    def pid(self) -> int:
        """Of the child."""
        return self._process.pid

    @property
    def is_ready(self) -> bool:
        """The model was loaded."""
        return self._is_ready

    @property
    def ended(self) -> bool:
        """The child does not run any more."""
        return self._process.poll() is not None

    async def has_ended(self) -> bool:
        """Says whether the child has ended, or does at once: its connections break a moment before."""
        with trio.move_on_after(_END_S):
            await self._process.wait()
        return self.ended

    async def ready(self, within_s: float) -> None:
        """Waits until the model is loaded; whoever gives up leaves the child loading.

        Raises:
            GgufDied: It ended, or is not ready in time.
            GgufRefused: It says why it cannot load the file.
        """
        with trio.move_on_after(within_s):
            async with self._hearing:
                try:
                    while not self._is_ready:
                        if self._failure is not None:
                            raise self._failure
                        await self._hear_untrusted()
                except (GgufDied, GgufRefused) as error:
                    self._failure = error
                    raise
            return
        raise GgufDied(f"was not loaded within {within_s:.0f} s")

    async def _hear_untrusted(self) -> None:
        assert self._process.stdout is not None
        try:
            piece = await self._process.stdout.receive_some(_REPORT_MOST_BYTES)
        except trio.ClosedResourceError:
            raise GgufDied("was ended while it loaded") from None
        self._heard += piece
        if not piece or len(self._heard) > _REPORT_MOST_BYTES:
            await self._process.wait()
            raise GgufDied(self.how_it_ended())
        if b"\n" not in self._heard:
            return
        # The child may be under the control of who wrote the model.
        try:
            report = json.loads(self._heard)
        except (ValueError, RecursionError):
            report = None
        if not isinstance(report, dict):
            raise GgufDied("said something that is no report")
        if "error" in report:
            raise GgufRefused(self.last_words() or str(report["error"])[:300])
        self._is_ready = True

    def how_it_ended(self) -> str:
        """Returns the end of a sentence about a child that does not run any more."""
        code = self._process.returncode
        if code is None or code >= 0:
            return f"ended with code {code}"
        name = signal.Signals(-code).name if -code in {int(known) for known in signal.Signals} else str(-code)
        memory = ", as the system does where memory is short" if code == -signal.SIGKILL else ""
        return f"was ended by {name}{memory}"

    def last_words(self) -> str:
        """Returns what llama.cpp said last about an error, without the name of the file."""
        try:
            with (self._folder / _LOG).open("rb") as file:
                file.seek(max(0, os.fstat(file.fileno()).st_size - 8_192))
                lines = file.read(8_192).decode("utf-8", "replace").splitlines()
        except OSError:
            return ""
        said = [line.partition(" E ")[2] for line in lines if " E " in line]
        telling = [line for line in said if "error loading model" in line] or said
        text = " ".join(telling[0].split()) if telling else ""
        return text.replace(str(self.order.path), "the file").rpartition("error loading model: ")[2][:300]

    def resident_bytes(self) -> int:
        """Returns how much memory the child has at the moment; 0 where the system does not tell."""
        try:
            pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        except (OSError, ValueError, IndexError):
            return 0
        return pages * os.sysconf("SC_PAGE_SIZE")

    async def aclose(self) -> None:
        """Ends the child at once and leaves nothing of it behind."""
        with trio.CancelScope(shield=True):
            child.kill_group(self._process)
            await self._process.wait()
            for pipe in (self._process.stdin, self._process.stdout):
                if pipe is not None:
                    await pipe.aclose()
            await self.upstream.aclose()
            await trio.to_thread.run_sync(lambda: shutil.rmtree(self._folder, ignore_errors=True))


def sweep_folders() -> None:
    """Removes the folders of nodes of this user that were killed; their children have ended by themselves."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_FOLDERS}*-*"):
        pid = folder.name.removeprefix(_FOLDERS).partition("-")[0]
        try:
            if folder.lstat().st_uid == os.geteuid() and pid.isdecimal():
                os.kill(int(pid), 0)
        except ProcessLookupError:
            shutil.rmtree(folder, ignore_errors=True)
        except (OSError, OverflowError):
            continue


async def _open(folder: Path) -> trio.Process:
    with (folder / _LOG).open("wb") as log_file:
        return await trio.lowlevel.open_process(
            [sys.executable, "-P", "-m", _MODULE, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log_file,
            cwd=folder,
            env=child.environment(folder),
            start_new_session=True,
        )
