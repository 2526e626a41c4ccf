"""The tools that `swarm.py` measures beside this project: libtorrent, and aria2 and curl from nginx."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from contextlib import ExitStack
from pathlib import Path

from _peer_environment import call, python_with
from _swarm_child import Child

VERSION = "2.1.1"
LIBTORRENT = f"libtorrent {VERSION}"
HTTP = "aria2, curl from nginx"
PIECE_BYTES = 2**20
_SCRIPT = Path(__file__).with_name("_swarm_libtorrent.py")
_GET_S, _START_S = 600.0, 10.0

_NGINX = """
daemon off;
worker_processes 2;
pid {folder}/nginx.pid;
error_log {folder}/nginx.log;
events {{ worker_connections 64; }}
http {{
    access_log off;
    sendfile on;
    tcp_nopush on;
    client_body_temp_path {folder}/t1; proxy_temp_path {folder}/t2; fastcgi_temp_path {folder}/t3;
    uwsgi_temp_path {folder}/t4; scgi_temp_path {folder}/t5;
    server {{ listen 127.0.0.1:{port}; root {root}; }}
}}
"""


class Libtorrent:
    """Four seeds and one downloader, each in a process of its own.

    Args:
        stack: Ends the processes.
        folder: For the downloader.
        files: The source files by model.
        seeds: How many seed each.
    """

    def __init__(self, stack: ExitStack, folder: Path, files: dict[str, Path], seeds: dict[str, int]) -> None:
        python = str(python_with("libtorrent", VERSION))
        self._ports: dict[str, list[int]] = {}
        self._getters: dict[str, Child] = {}
        for name, file in files.items():
            torrent, target = folder / f"{name}.torrent", folder / f"got-{name}"
            target.mkdir()
            call(python, str(_SCRIPT), "make", str(file), str(torrent), str(PIECE_BYTES))
            self._ports[name] = []
            for _ in range(seeds[name]):
                seed = _child(stack, [python, str(_SCRIPT), "seed", str(file.parent), str(torrent)])
                self._ports[name].append(seed.hear()["port"])
            self._getters[name] = _child(stack, [python, str(_SCRIPT), "get", str(target), str(torrent)])
            self._getters[name].hear()

    def get(self, name: str) -> float:
        """Downloads a model from its seeds; returns seconds."""
        seconds: float = self._getters[name].ask("get", ports=self._ports[name])["chunks_s"]
        return seconds


class Http:
    """nginx, and the clients of it that are installed.

    Args:
        stack: Ends nginx.
        folder: For its files, and for what is downloaded.
        file: What is served.
    """

    def __init__(self, stack: ExitStack, folder: Path, file: Path) -> None:
        self._folder = folder
        self._url = ""
        nginx = _find("nginx")
        if nginx is None:
            return
        port = _free_port()
        conf = folder / "nginx.conf"
        conf.write_text(_NGINX.format(folder=folder, root=file.parent, port=port))
        self._url = f"http://127.0.0.1:{port}/{file.name}"
        folder.chmod(0o755)  # nginx reads as another user where it was started by root
        server = subprocess.Popen(
            [nginx, "-p", str(folder), "-c", str(conf)], stderr=subprocess.DEVNULL, process_group=0
        )
        stack.callback(server.wait)
        stack.callback(server.terminate)
        until = time.monotonic() + _START_S
        while not _answers(port) and time.monotonic() < until:
            time.sleep(0.05)

    def get(self, client: str, connections: int = 1) -> float | None:
        """Downloads the file; returns seconds, None where a program is missing."""
        program = _find(client)
        if program is None or not self._url:
            return None
        target = self._folder / "got"
        if client == "curl":
            command = [program, "-s", "-f", "-o", str(target), self._url]
        else:
            command = [program, "-q", f"-x{connections}", f"-s{connections}", "-k1M", "--file-allocation=falloc"]
            command += ["--allow-overwrite=true", "-d", str(self._folder), "-o", target.name, self._url]
        began = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True, timeout=_GET_S)
        taken = time.perf_counter() - began
        target.unlink()
        return taken


def _child(stack: ExitStack, command: list[str]) -> Child:
    child = Child(command)
    stack.callback(child.kill)
    return child


def _find(program: str) -> str | None:
    return shutil.which(program, path=os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/sbin")))


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
