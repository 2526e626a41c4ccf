"""Hashing a file for import: cut, BLAKE3 of every chunk, SHA-256 of the whole, beside what the machine can do.

Files are random bytes, cut by content, and the same as a safetensors file, cut at its tensors: 256 MiB, 1 GiB with
`--full`. All measures take turns in every round; figures are medians. "cold" reads from the disk, as far as the system
lets go of what it has in memory. "no SHA extensions" is another process whose OpenSSL was told that there are none.
"""

from __future__ import annotations

import hashlib
import json
import os
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from blake3 import blake3

from atmo.storage.hashing import copy_hashed, hash_file

ROUNDS = 5
SIZE_BYTES, FULL_BYTES = 256 * 2**20, 2**30
BLOCK = 2**20
TENSOR_BYTES = 24 * 2**20
NO_SHA = "~0x0:~0x20000000"
"""OPENSSL_ia32cap without bit 29 of EBX of CPUID leaf 7. Source: OpenSSL's manual page of that name."""

AIMS = {"hash_percent": "at least 90", "hash_cold_percent": "at least 90"}


def run(full: bool = False) -> dict[str, Any]:
    """Makes the files and measures in turns."""
    size = FULL_BYTES if full else SIZE_BYTES
    with tempfile.TemporaryDirectory() as folder:
        plain, tensors, copy = (Path(folder) / name for name in ("plain", "tensors", "copy"))
        make(plain, tensors, size)
        measures: dict[str, Callable[[], object]] = {
            "read": lambda: read(plain),
            "read_and_blake3": lambda: read(plain, lambda part: blake3(part).digest()),
            "read_and_sha256": lambda: read(plain, hashlib.sha256().update),
            "hash": lambda: hash_file(plain, "plain"),
            "hash_tensors": lambda: hash_file(tensors, "tensors"),
            "copy": lambda: copy_hashed(plain, copy, "plain"),
            "read_and_blake3_cold": lambda: read(plain, lambda part: blake3(part).digest()),
            "hash_cold": lambda: hash_file(plain, "plain"),
        }
        rates: dict[str, list[float]] = {name: [] for name in [*measures, "hash_without_sha_extensions"]}
        for number in range(ROUNDS):
            print(f"round {number + 1} of {ROUNDS}", file=sys.stderr)
            for name, measure in measures.items():
                copy.unlink(missing_ok=True)
                forget(plain) if name.endswith("_cold") else read(plain)
                rates[name].append(timed(measure, size))
            rates["hash_without_sha_extensions"].append(portable(plain))
        figures = {f"{name}_mb_s": round(statistics.median(found)) for name, found in rates.items()}
    for name, limit in (("hash", "read_and_blake3"), ("hash_cold", "read_and_blake3_cold")):
        figures[f"{name}_percent"] = round(100 * figures[f"{name}_mb_s"] / figures[f"{limit}_mb_s"])
    figures["hash_of_sha256_alone_percent"] = round(100 * figures["hash_mb_s"] / figures["read_and_sha256_mb_s"])
    return {"figures": figures, "peers": {}, "aims": AIMS}


def make(plain: Path, tensors: Path, size: int) -> None:
    """Writes both files, synced, so that the system can let go of them."""
    count = size // TENSOR_BYTES
    offsets = [(number * TENSOR_BYTES, (number + 1) * TENSOR_BYTES) for number in range(count)]
    header = {
        f"model.layers.{number}.weight": {"dtype": "U8", "shape": [TENSOR_BYTES], "data_offsets": place}
        for number, place in enumerate(offsets)
    }
    text = json.dumps(header).encode()
    with plain.open("wb") as one, tensors.open("wb") as other:
        other.write(struct.pack("<Q", len(text)) + text)
        for at in range(0, size, BLOCK):
            block = os.urandom(BLOCK)
            one.write(block)
            if at < count * TENSOR_BYTES:
                other.write(block)
        for file in (one, other):
            file.flush()
            os.fsync(file.fileno())


def read(path: Path, use: Callable[[memoryview], object] = len) -> None:
    """Reads a file in one thread and does something with each block."""
    buffer = memoryview(bytearray(BLOCK))
    with path.open("rb", buffering=0) as file:
        while size := file.readinto(buffer):
            use(buffer[:size])


def forget(path: Path) -> None:
    """Asks the system to let go of a file."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


def timed(measure: Callable[[], object], size: int) -> float:
    """Returns MB/s."""
    began = time.perf_counter()
    measure()
    return size / 1e6 / (time.perf_counter() - began)


def portable(path: Path) -> float:
    """Measures `hash_file` in a process whose OpenSSL uses no SHA extensions."""
    line = "import sys, hashing; from pathlib import Path; hashing.one(Path(sys.argv[1]))"
    folders = os.pathsep.join([str(Path(__file__).resolve().parent), *sys.path])
    environment = os.environ | {"OPENSSL_ia32cap": NO_SHA, "PYTHONPATH": folders}
    said = subprocess.run(
        [sys.executable, "-c", line, str(path)], env=environment, check=True, capture_output=True, text=True
    )
    return float(said.stdout)


def one(path: Path) -> None:
    """Prints the rate of one `hash_file`."""
    print(timed(lambda: hash_file(path, "plain"), path.stat().st_size))
