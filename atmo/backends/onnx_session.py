"""Sessions of onnxruntime: loaded by the first use, run in worker threads, the least recently used let go."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import trio
from numpy.typing import NDArray

from atmo.backends.onnx_file import BadModelFile, check_onnx_file

log = logging.getLogger(__name__)

MAX_TENSOR_BYTES = 2 * 1024**3
"""What the tensors of all runs take together, besides the weights: a graph of 200 bytes can ask for any amount.

Source: choice.
"""

_EMPTY_GRAPH = (
    b'\x08\x08:7\n\x10\n\x01x\x12\x01y"\x08Identity\x12\x01gZ\x0f\n\x01x\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x00'
    b"b\x0f\n\x01y\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x00B\x04\n\x00\x10\r"
)
"""An ONNX model: x float[0] -> Identity -> y float[0]."""

_making_sweeper = threading.Lock()
_made_sweeper: Any = None

Array = NDArray[Any]
FileKey = tuple[str, int, int]


@dataclass(frozen=True, slots=True)
class Port:
    """One input or output of a graph.

    Attributes:
        name: Its name.
        type: As onnxruntime writes it: `tensor(float)`, `seq(map(string,tensor(float)))`.
        shape: An int where the size is fixed, else None.
    """

    name: str
    type: str
    shape: tuple[int | None, ...]


@dataclass(frozen=True, slots=True)
class Signature:
    """What goes into a graph and what comes out of it."""

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]


@dataclass(frozen=True, slots=True)
class Loaded:
    """A session with its signature and what its file weighs."""

    session: Any
    signature: Signature
    size_bytes: int


class SessionCache:
    """A bounded set of loaded models. Every method may be called from several threads.

    Args:
        most: How many models stay loaded.
        most_bytes: How much their files weigh together; one larger model may stay alone.
        threads: Threads within one run.
        changed: Told, in the thread that loads, after a model was loaded or let go.
    """

    def __init__(
        self,
        most: int = 8,
        most_bytes: int = 2 * 1024**3,
        threads: int = 1,
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        self._most = most
        self._most_bytes = most_bytes
        self._threads = threads
        self._changed = changed
        self._lock = threading.Lock()
        self._loading: dict[FileKey, threading.Lock] = {}
        self._loaded: OrderedDict[FileKey, Loaded] = OrderedDict()

    def load(self, path: Path) -> Loaded:
        """Returns the session of the file, loading it in this thread where it is not loaded yet.

        Raises:
            BadModelFile: The file is gone, or cannot be run by this onnxruntime.
        """
        try:
            key = file_key(path)
        except OSError as error:
            raise BadModelFile(f"its file cannot be read ({error.strerror})") from error
        with self._lock:
            found = self._loaded.get(key)
            if found is not None:
                self._loaded.move_to_end(key)
                return found
            turn = self._loading.setdefault(key, threading.Lock())
        with turn:
            found = self._loaded.get(key)
            try:
                if found is None:
                    found = _load(path, key, self._threads)
                    self._keep(key, found)
                    self._changed()
            finally:
                self._loading.pop(key, None)
        return found

    def loaded(self) -> list[FileKey]:
        """Returns what is loaded, the least recently used first."""
        with self._lock:
            return list(self._loaded)

    def _keep(self, key: FileKey, loaded: Loaded) -> None:
        with self._lock:
            self._loaded[key] = loaded
            total = sum(one.size_bytes for one in self._loaded.values())
            while len(self._loaded) > 1 and (len(self._loaded) > self._most or total > self._most_bytes):
                _, gone = self._loaded.popitem(last=False)
                total -= gone.size_bytes


def file_key(path: Path) -> FileKey:
    """Returns what tells one state of a file from another.

    Raises:
        OSError: The file cannot be read.
    """
    state = path.stat()
    return (str(path), state.st_mtime_ns, state.st_size)


async def run_session(loaded: Loaded, outputs: Sequence[str], feeds: Mapping[str, Array]) -> list[Any]:
    """Runs a graph in a worker thread; cancelling ends the run at the next operator.

    Raises:
        BadModelFile: The graph failed on these values, with the runtime's reason.
    """
    import onnxruntime

    options = onnxruntime.RunOptions()
    options.log_severity_level = 4

    def run() -> list[Any]:
        try:
            # Copies: an answer that stays in the allocator's memory keeps all that lay around it.
            return [
                np.array(value) if isinstance(value, np.ndarray) else value
                for value in loaded.session.run(list(outputs), dict(feeds), options)
            ]
        except _runtime_errors() as error:
            raise BadModelFile(f"it failed to run: {_reason(error)}") from error
        finally:
            _give_back()

    try:
        return await trio.to_thread.run_sync(run, abandon_on_cancel=True)
    except trio.Cancelled:
        options.terminate = True
        raise


def _load(path: Path, key: FileKey, threads: int) -> Loaded:
    check_onnx_file(path)
    import onnxruntime

    _sweeper()
    options = _session_options()
    options.intra_op_num_threads = threads
    try:
        session = onnxruntime.InferenceSession(
            str(path),
            options,
            providers=["CPUExecutionProvider"],
            # It runs parts of the graph when it is loaded, outside the allocator's limit, and keeps what they give.
            disabled_optimizers=["ConstantFolding"],
        )
    except _runtime_errors() as error:
        raise BadModelFile(f"onnxruntime cannot load it: {_reason(error)}") from error
    signature = Signature(_ports(session.get_inputs()), _ports(session.get_outputs()))
    return Loaded(session, signature, key[2])


def _session_options() -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    options.enable_mem_pattern = False
    options.add_session_config_entry("session.use_env_allocators", "1")
    options.add_session_config_entry("session.use_device_allocator_for_initializers", "1")
    return options


def _sweeper() -> Any:
    """Returns a session whose runs have the allocator give back what nobody uses; the first call makes both.

    The allocator has a limit, and all sessions of this module take their tensors from it.
    """
    global _made_sweeper
    import onnxruntime

    with _making_sweeper:
        if _made_sweeper is None:
            memory = onnxruntime.OrtMemoryInfo(
                "Cpu", onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, onnxruntime.OrtMemType.DEFAULT
            )
            # Strategy 1: the arena grows by what is asked for, not by powers of two.
            arena = onnxruntime.OrtArenaCfg({"max_mem": MAX_TENSOR_BYTES, "arena_extend_strategy": 1})
            onnxruntime.create_and_register_allocator(memory, arena)
            providers = ["CPUExecutionProvider"]
            _made_sweeper = onnxruntime.InferenceSession(_EMPTY_GRAPH, _session_options(), providers=providers)
        return _made_sweeper


def _give_back() -> None:
    """A run shrinks the arena before its own answer is freed, so that an empty run has to follow."""
    import onnxruntime

    options = onnxruntime.RunOptions()
    options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
    _sweeper().run(None, {"x": np.empty(0, np.float32)}, options)


def _ports(nodes: Sequence[Any]) -> tuple[Port, ...]:
    return tuple(
        Port(node.name, node.type, tuple(size if isinstance(size, int) else None for size in node.shape or ()))
        for node in nodes
    )


def _runtime_errors() -> tuple[type[Exception], ...]:
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    found = [item for item in vars(state).values() if isinstance(item, type) and issubclass(item, Exception)]
    return (*found, RuntimeError, ValueError, MemoryError)


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text.rpartition(" : ")[2][:300] or type(error).__name__


def as_strings(texts: Sequence[str]) -> Array:
    """Returns texts as onnxruntime takes them: object[n]."""
    return np.array(texts, dtype=object)
