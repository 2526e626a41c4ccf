"""Models from four holders and from one, to the disk, beside libtorrent, aria2 and curl.

Every node, seed and client is a process of its own on loopback. Nodes are real: their store is on the disk, a pull is
the user's. `..._chunks` is the time until every chunk is verified and written, as libtorrent's is; `..._pull` until the
file's SHA-256 is checked, everything synced, renamed and registered. Each round lets every tool have its turn; before a
turn the disk is synced and as much memory is touched as the turn will use, since a virtual machine takes back what is
free, and getting it costs more than a transfer. Figures are medians.

    tools/bench swarm [--rounds=5] [--size-mib=1024] [--memory-mib=1024]

`--memory-mib=4096` measures the downloader's memory on 4 GiB, as the aim says. It takes six times the size on the
disk, and about five minutes.
"""

from __future__ import annotations

import json
import mmap
import os
import signal
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import trio
from _quic_ends import bulk, client, dial, grow, server
from _swarm_child import ChildFailed
from _swarm_libtorrent_settings import SETTINGS
from _swarm_mesh import HOLDERS, Mesh
from _swarm_peers import HTTP, LIBTORRENT, PIECE_BYTES, Http, Libtorrent

from atmo.identity import NodeId
from atmo.wire.address import Address

ROUNDS, SIZE_MIB = 5, 1024
QUIC_MIB, QUIC_DATAGRAM_BYTES, QUIC_BYTES = 128, 8_192, 24_000_000
SIMULATION_S = 900.0
HELD = {"four": HOLDERS, "one": 1}
MODES = ("sealed", "clear")

AIMS = {
    "sealed_four_to_libtorrent_ratio": "2, never under 1.5",
    "sealed_one_to_libtorrent_ratio": "2, never under 1.5",
    "clear_four_to_libtorrent_ratio": "3",
    "clear_one_to_libtorrent_ratio": "3",
    "clear_one_chunks_mb_s": "beyond aria2c -x4",
    "quic_path_percent": "90 of one stream",
    "downloader_peak_mb": "under 150",
    "holder_peak_mb": "under 60",
    "holder_cores_ratio": "at most 1",
    "fetched_again_per_source": "at most 2",
    "eight_downloaders_to_one_copy_ratio": "at most 1.5 (simulated links)",
}


def run(*, rounds: int = ROUNDS, size_mib: int = SIZE_MIB, memory_mib: int = SIZE_MIB) -> dict[str, Any]:
    """Returns medians of all rounds."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends like Ctrl-C: nothing is left behind
    with tempfile.TemporaryDirectory(prefix="atmo-swarm-") as folder, ExitStack() as stack:
        Path(folder).chmod(0o755)
        try:
            return _Swarm(stack, Path(folder), max(1, rounds), max(8, size_mib), memory_mib).run()
        except KeyboardInterrupt:
            say("stopped; everything is cleaned up")
            raise SystemExit(130) from None


def say(text: str) -> None:
    """Tells a person who waits."""
    sys.stderr.write(f"swarm: {text}\n")
    sys.stderr.flush()


class _Swarm:
    """One run."""

    def __init__(self, stack: ExitStack, folder: Path, rounds: int, size_mib: int, memory_mib: int) -> None:
        self._stack = stack
        self._folder = folder
        self._rounds = rounds
        self._size = size_mib * 2**20
        self._memory_mib = memory_mib
        self._seen: defaultdict[str, list[float]] = defaultdict(list)
        self._notes: dict[str, Any] = {}
        for name in ("source", "mesh", "torrent", "http"):
            (folder / name).mkdir()
        say("models are made and given to four holders")
        self._files = {name: self._model(name, size_mib) for name in HELD}
        self._mesh = Mesh(stack, folder / "mesh")
        for name, count in HELD.items():
            self._mesh.hold(self._files[name], name, count)
        self._askers = {mode: self._mesh.asker(f"asker-{mode}", mode) for mode in MODES}
        self._torrent = self._libtorrent()
        self._http = Http(stack, folder / "http", self._files["one"])

    def run(self) -> dict[str, Any]:
        for number in range(self._rounds):
            say(f"round {number + 1} of {self._rounds}")
            self._round()
        figures = {name: statistics.median(values) for name, values in self._seen.items()}
        peers = self._peers(figures)
        self._ratios(figures, peers.get(LIBTORRENT, {}))
        figures |= self._quic() | self._downloader(figures) | self._resumed() | self._simulated()
        rounded = {
            name: round(value, 2 if "ratio" in name or "source" in name else 1) for name, value in figures.items()
        }
        return {"figures": rounded, "peers": {**peers, **self._notes}, "aims": AIMS}

    # --- the turns ------------------------------------------------------------------------------------------------

    def _round(self) -> None:
        for name, count in HELD.items():
            for mode in MODES:
                self._ready()
                told = self._mesh.pull(self._askers[mode], name, count)
                assert told["tcp_chunks"], "the pull went over QUIC"
                self._note(f"{mode}_{name}_chunks_mb_s", told["chunks_s"])
                self._note(f"{mode}_{name}_pull_mb_s", told["pull_s"])
                if (mode, name) == ("sealed", "four"):
                    self._seen["downloader_peak_mb"].append(told["peak_mb"])
                if (mode, name) == ("sealed", "one"):
                    self._seen["holder_peak_mb"].append(told["holder_peak_mb"])
                    self._seen["holder_cores_ratio"].append(told["holder_cpu"])
            if self._torrent is not None:
                self._ready()
                self._note(f"libtorrent_{name}", self._torrent.get(name))
        for client_name, connections in (("aria2c", 1), ("aria2c", 4), ("curl", 1)):
            self._ready()
            taken = self._http.get(client_name, connections)
            if taken is not None:
                self._note(f"{client_name}_{connections}", taken)

    def _note(self, name: str, seconds: float) -> None:
        self._seen[name].append(self._size / seconds / 1e6)

    def _ready(self) -> None:
        """Waits for the disk, and has the memory that a download needs given to this machine."""
        os.sync()
        with mmap.mmap(-1, self._size + self._size // 2) as room:
            block = bytes(2**20)
            for at in range(0, len(room) - len(block) + 1, len(block)):
                room[at : at + len(block)] = block

    def _peers(self, figures: dict[str, float]) -> dict[str, dict[str, float]]:
        """Takes the peers' figures out and returns them by peer, each beside ours."""
        torrent: dict[str, float] = {}
        http: dict[str, float] = {}
        for name in HELD:
            if f"libtorrent_{name}" in figures:
                value = round(figures.pop(f"libtorrent_{name}"), 1)
                torrent |= {f"{mode}_{name}_chunks_mb_s": value for mode in MODES}
        for key in ("aria2c_1", "aria2c_4", "curl_1"):
            if key in figures:
                http[f"{key}_connections_mb_s"] = round(figures.pop(key), 1)
        found = {LIBTORRENT: torrent, HTTP: http}
        return {name: values for name, values in found.items() if values}

    def _ratios(self, figures: dict[str, float], torrent: dict[str, float]) -> None:
        for mode in MODES:
            for name in HELD:
                if theirs := torrent.get(f"{mode}_{name}_chunks_mb_s"):
                    figures[f"{mode}_{name}_to_libtorrent_ratio"] = figures[f"{mode}_{name}_chunks_mb_s"] / theirs

    # --- once each ------------------------------------------------------------------------------------------------

    def _quic(self) -> dict[str, float]:
        """A pull without TCP, beside one stream of the transport alone."""
        say("QUIC")
        self._mesh.hold(self._model("little", QUIC_MIB), "little", 1)
        asker, pulls, streams = self._askers["sealed"], [], []
        asker.ask("tcp", on=False)
        with server(QUIC_DATAGRAM_BYTES) as (address, node):
            for _ in range(self._rounds):
                told = self._mesh.pull(asker, "little", 1)
                assert not told["tcp_chunks"]
                pulls.append(told["size"] / told["chunks_s"] / 1e6)
                streams.append(trio.run(_stream, address, node))
        asker.ask("tcp", on=True)
        path, stream = statistics.median(pulls), statistics.median(streams)
        return {"quic_chunks_mb_s": path, "quic_stream_mb_s": stream, "quic_path_percent": path / stream * 100}

    def _downloader(self, figures: dict[str, float]) -> dict[str, float]:
        """The memory of a downloader on another size, where one was asked for."""
        if self._memory_mib * 2**20 == self._size:
            return {"downloader_mib": self._memory_mib, "downloader_peak_mb": figures.pop("downloader_peak_mb")}
        say(f"memory of a downloader of {self._memory_mib} MiB")
        self._mesh.hold(self._model("large", self._memory_mib), "large", HOLDERS)
        told = self._mesh.pull(self._askers["sealed"], "large", HOLDERS)
        return {"downloader_mib": self._memory_mib, "downloader_peak_mb": told["peak_mb"]}

    def _resumed(self) -> dict[str, float]:
        """How many chunks of each source are sent twice because the downloader was killed between."""
        say("a downloader is killed in the middle, and goes on")
        again = []
        for number in range(self._rounds):
            name = f"killed{number}"
            asker = self._mesh.asker(name, "sealed")
            asker.ask("await_holders", name="four", count=HOLDERS)
            before = self._mesh.served()
            asker.ask("start", name="four", until=self._size // 4)
            asker.kill()
            asker = self._mesh.restart(name, "sealed")
            asker.ask("await_holders", name="four", count=HOLDERS)
            told = asker.ask("pull", name="four")
            chunks = -(-told["size"] // 2**20)
            again.append((self._mesh.served() - before - chunks) / HOLDERS)
            asker.kill()
            self._mesh.forget(name)
        return {"fetched_again_per_source": max(again)}

    def _simulated(self) -> dict[str, float]:
        """Eight downloaders of one seed over links of 100 Mbit/s, in the simulator."""
        say("eight downloaders of one seed, simulated")
        command = [sys.executable, "-m", "atmo", "sim", "run", "model-swarm", "--nodes", "9", "--json"]
        command += [part for setting in ("bad=0", "leavers=0", "restarts=0") for part in ("--set", setting)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=SIMULATION_S, check=False)
            value = json.loads(done.stdout)["figures"]["times_one_copy"]
        except (subprocess.TimeoutExpired, ValueError, KeyError) as error:
            self._notes["model-swarm"] = f"not simulated: {error!r}"
            return {}
        return {"eight_downloaders_to_one_copy_ratio": value}

    def _libtorrent(self) -> Libtorrent | None:
        settings = ", ".join(f"{name} {value}" for name, value in SETTINGS.items())
        try:
            found = Libtorrent(self._stack, self._folder / "torrent", self._files, HELD)
        except (OSError, subprocess.SubprocessError, ChildFailed) as error:
            self._notes["libtorrent"] = f"not measured: {error}"
            return None
        self._notes["libtorrent's settings"] = f"v1 torrent, pieces of {PIECE_BYTES} bytes, {settings}"
        return found

    def _model(self, name: str, size_mib: int) -> Path:
        """Writes a file that is no model of anything, and has a safetensors head."""
        path, size = self._folder / "source" / f"{name}.safetensors", size_mib * 2**20
        head = json.dumps({"w": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
        with path.open("wb") as file:
            file.write(len(head).to_bytes(8, "little") + head)
            for _ in range(size_mib):
                file.write(os.urandom(2**20))
        return path


async def _stream(address: Address, node: NodeId) -> float:
    async with client(QUIC_DATAGRAM_BYTES) as endpoint:
        connection = await dial(endpoint, address, node)
        await grow(connection, QUIC_DATAGRAM_BYTES)
        return await bulk(connection, QUIC_BYTES)
