"""Work in a child process: limits on memory and time, a clean environment, and no process left behind.

The child is a module of this package run by `python -m`; its side of the agreement is `child_side`. A folder of its own
carries `request.json` in and `result.json` out, so that nothing the work prints can be mistaken for the result.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trio

import atmo
from atmo.backends.child_side import REQUEST, RESULT
from atmo.errors import UserError

log = logging.getLogger(__name__)

MAX_RESULT_BYTES = 4 * 1024 * 1024
MAX_STDERR_BYTES = 64 * 1024

_KEPT_VARIABLES = ("PATH", "LANG", "LC_ALL", "SYSTEMROOT")


@dataclass(frozen=True, slots=True)
class ChildLimits:
    """What a child may use.

    Attributes:
        memory_bytes: Address space. numpy, scikit-learn and onnx take about 1 GiB of it.
        wall_s: Time on the clock; then the child and all it started are killed.
        cpu_s: Processor time.
        file_bytes: The largest file it may write.
        advice: What a person can do when it took too much time: a sentence.
    """

    memory_bytes: int = 4 * 1024**3
    wall_s: float = 120.0
    cpu_s: int = 120
    file_bytes: int = 2 * 1024**3
    advice: str = "Try again with less data."


async def run_child(
    module: str, request: Mapping[str, Any], folder: Path, limits: ChildLimits, what: str
) -> dict[str, Any]:
    """Runs `module` on `request` and returns its result.

    Args:
        module: Full name of a module whose `main` calls `child_side.serve`.
        request: JSON for the child.
        folder: An empty folder of the caller's, the child's working directory.
        limits: What the child may use.
        what: Names the work in errors: "Converting model.joblib".

    Raises:
        UserError: The child refused with a reason, ran out of memory or time, or died.
    """
    text = json.dumps(
        {"limits": {"memory": limits.memory_bytes, "cpu": limits.cpu_s, "file": limits.file_bytes}}
        | {"request": dict(request)}
    )
    await trio.Path(folder / REQUEST).write_text(text)
    process = await trio.lowlevel.open_process(
        [sys.executable, "-P", "-m", module, str(folder)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        cwd=folder,
        env=environment(folder),
        start_new_session=True,
    )
    stderr = bytearray()
    late = True
    try:
        with trio.move_on_after(limits.wall_s):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_drain, process, stderr)
                await process.wait()
                late = False
                # Whoever the child left behind may hold the pipe open.
                kill_group(process)
    finally:
        with trio.CancelScope(shield=True):
            kill_group(process)
            await process.wait()
            assert process.stderr is not None
            await process.stderr.aclose()
    if stderr:
        log.info("%s: %s", what, stderr[-4_000:].decode("utf-8", "replace"))
    if late:
        raise UserError(f"{what} took longer than {limits.wall_s:.0f} s and was stopped.", limits.advice)
    return _read_result(folder / RESULT, process.returncode, limits, what)


def environment(folder: Path) -> dict[str, str]:
    """Returns the environment of a child with a folder of its own: nothing of the user's, one thread per library."""
    kept = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}
    package_parent = str(Path(atmo.__file__).parent.parent)
    one_thread = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "OPENBLAS", "MKL")}
    return (
        kept
        | one_thread
        | {
            "LOKY_MAX_CPU_COUNT": "1",
            "PYTHONPATH": package_parent,
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONUTF8": "1",
            "HOME": str(folder),
            "TMPDIR": str(folder),
        }
    )


async def _drain(process: trio.Process, into: bytearray) -> None:
    assert process.stderr is not None
    async for data in process.stderr:
        into += data[: max(0, MAX_STDERR_BYTES - len(into))]


def kill_group(process: trio.Process) -> None:
    """Kills a child that was started as the leader of a session, and all that it started."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return


def _read_result(path: Path, code: int | None, limits: ChildLimits, what: str) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_RESULT_BYTES + 1)
        result = json.loads(data)
    except (OSError, ValueError, RecursionError):
        raise UserError(*_death(code, limits, what)) from None
    if not isinstance(result, dict) or len(data) > MAX_RESULT_BYTES:
        raise UserError(f"{what} failed: the child process gave no valid result.", "Report this as a bug.")
    error = result.get("error")
    if isinstance(error, dict):
        if error.get("kind") == "memory":
            raise UserError(*_out_of_memory(limits, what))
        raise UserError(str(error.get("message", f"{what} failed."))[:1_000], str(error.get("hint", ""))[:1_000])
    if code != 0:
        raise UserError(*_death(code, limits, what))
    return result


def _death(code: int | None, limits: ChildLimits, what: str) -> tuple[str, str]:
    if code in (-signal.SIGXCPU, -signal.SIGKILL):
        return (
            f"{what} used more than {limits.cpu_s} s of processor time or more memory than this machine has,"
            " and was stopped.",
            limits.advice,
        )
    if code in (-signal.SIGABRT, -signal.SIGSEGV, -signal.SIGBUS):
        return f"{what} crashed the child process; the file is damaged or not what it says it is.", ""
    if code == -signal.SIGXFSZ:
        return f"{what} wrote a file larger than {limits.file_bytes // 1024**2} MiB and was stopped.", ""
    return f"{what} failed: the child process ended with code {code} and gave no result.", "Its log says why."


def _out_of_memory(limits: ChildLimits, what: str) -> tuple[str, str]:
    return f"{what} needs more than {limits.memory_bytes / 1024**3:.1f} GiB of memory and was stopped.", ""
