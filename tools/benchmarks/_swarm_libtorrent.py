"""libtorrent's ends for `swarm.py`; runs in an environment of its own.

    python _swarm_libtorrent.py make FILE TORRENT PIECE_BYTES
    python _swarm_libtorrent.py seed|get FOLDER TORRENT

The latter obey lines of JSON. `get` downloads into FOLDER, anew each time.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import libtorrent as lt
from _swarm_child import say
from _swarm_libtorrent_settings import SETTINGS


def make(file: Path, torrent: Path, piece_bytes: int) -> None:
    """Writes a version 1 torrent of a file."""
    storage = lt.file_storage()
    lt.add_files(storage, str(file))
    made = lt.create_torrent(storage, piece_bytes, lt.create_torrent.v1_only)
    lt.set_piece_hashes(made, str(file.parent))
    torrent.write_bytes(lt.bencode(made.generate()))


def _session() -> Any:
    return lt.session({**SETTINGS, "listen_interfaces": "127.0.0.1:0"})


def _add(session: Any, folder: Path, torrent: Path, *, seed: bool) -> Any:
    params = lt.add_torrent_params()
    params.ti = lt.torrent_info(str(torrent))
    params.save_path = str(folder)
    params.flags &= ~(lt.torrent_flags.auto_managed | lt.torrent_flags.paused)
    if seed:
        params.flags |= lt.torrent_flags.seed_mode
    return session.add_torrent(params)


def seed(folder: Path, torrent: Path) -> None:
    """Seeds until its standard input ends."""
    session = _session()
    handle = _add(session, folder, torrent, seed=True)
    while not session.listen_port() or not handle.status().is_seeding:
        time.sleep(0.05)
    say({"port": session.listen_port()})
    sys.stdin.read()


def get(folder: Path, torrent: Path) -> None:
    """Downloads from the ports of each line, and tells how long it took."""
    session = _session()
    while not session.listen_port():
        time.sleep(0.05)
    say({"ready": True})
    for line in sys.stdin:
        ports = json.loads(line)["ports"]
        began = time.perf_counter()
        handle = _add(session, folder, torrent, seed=False)
        for port in ports:
            handle.connect_peer(("127.0.0.1", port))
        asked = began
        while not handle.status().is_seeding and time.perf_counter() - began < 300:
            time.sleep(0.002)
            if time.perf_counter() - asked > 0.5 and not handle.status().total_payload_download:
                asked = time.perf_counter()  # a seed that still closed the last connection
                for port in ports:
                    handle.connect_peer(("127.0.0.1", port))
        taken = time.perf_counter() - began
        finished = handle.status().is_seeding
        session.remove_torrent(handle, lt.session.delete_files)
        while session.get_torrents() or any(folder.rglob("*.safetensors")):
            time.sleep(0.02)
        say({"chunks_s": taken} if finished else {"error": "it was not done within 300 s"})


if __name__ == "__main__":
    if sys.argv[1] == "make":
        make(Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]))
    else:
        {"seed": seed, "get": get}[sys.argv[1]](Path(sys.argv[2]), Path(sys.argv[3]))
