"""The NAT lab's command line and parts; what it plays needs root and takes minutes: `tools/natlab` itself."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))

from natlab_lab import delay, leftovers, matrix, rules
from natlab_lab.downloads import stalls, write_model
from natlab_lab.models import DIMENSIONS, Models

from atmo.shell.client import NodeClient
from atmo.storage.formats import detect

TOOLS = Path(__file__).resolve().parents[2] / "tools"


def natlab(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(TOOLS / "natlab_main.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.parametrize("arguments", [("--kinds", "moon"), ("--pairs", "port"), ("--pairs", "port:port:port")])
def test_what_is_no_pair_of_kinds_is_said(arguments: tuple[str, str]) -> None:
    done = natlab(*arguments)
    assert done.returncode == 2
    assert "is no pair of none, full, address, port, symmetric, double, hairpin, blocked" in done.stderr


def test_the_help_says_how_to_use_it() -> None:
    done = natlab("--help")
    assert done.returncode == 0
    for word in ("--tries", "--delay-ms", "download,relay-dies,requests,wifi"):
        assert word in done.stdout


# --- figures ----------------------------------------------------------------------------------------------------------


def result(a: str, b: str, path: str, direct_s: float | None) -> matrix.Result:
    return {"a": a, "b": b, "connected": bool(path), "path": path, "first_byte_s": 0.1, "direct_s": direct_s}


def test_only_pairs_that_can_be_direct_count_for_the_share_of_direct_paths() -> None:
    results = [result("port", "port", "punched", 0.5), result("port", "symmetric", "relay", None)]
    results += [result("blocked", "none", "relay", None), result("symmetric", "symmetric", "", None)]
    told = matrix.summary(results)
    assert (told["tries"], told["connected"], told["direct_possible"], told["direct"]) == (4, 3, 2, 1)
    assert told["punched_s"] == {"median": 0.5, "p95": 0.5}
    assert "3/4" in matrix.summary_line("all", told)


def test_percentiles_are_values_that_were_measured() -> None:
    assert matrix.figures([None, *range(1, 21)]) == {"median": 10.5, "p95": 19}
    assert matrix.figures([None]) == {"median": None, "p95": None}


def test_the_longest_time_without_progress_is_found_as_a_whole_and_around_the_change() -> None:
    marks = [(0.0, 1), (3.0, 2), (3.5, 3), (4.75, 4)]
    assert stalls(marks, changed=4.0, until=None) == (3.0, 1.25)
    assert stalls(marks, changed=4.0, until=10.0) == (5.25, 5.25)
    assert stalls([], changed=0.0, until=None) == (0.0, 0.0)


# --- parts ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [kind for kind in rules.KINDS if kind != "none"])
def test_rules_differ_in_what_they_let_in_and_map(kind: str) -> None:
    text = rules.nat_rules(kind, "5.5.5.9", "192.168.9.2")
    assert ("dnat to 192.168.9.2" in text) is (kind in ("full", "address"))
    assert ("masquerade fully-random" in text) is (kind == "symmetric")
    assert ("meta l4proto udp drop" in text) is (kind == "blocked")


def test_the_model_is_one_that_nodes_import(tmp_path: Path) -> None:
    write_model(tmp_path / "ballast.safetensors", 10_000)
    assert detect(tmp_path / "ballast.safetensors").format == "safetensors"


def packet(source: str, target: str, word: bytes) -> bytes:
    return bytes([0x45]) + bytes(11) + socket.inet_aton(source) + socket.inet_aton(target) + word


@contextlib.contextmanager
def wire(loss: float) -> Iterator[list[socket.socket]]:
    """A forwarder between three machines, whose ends are sockets instead of devices."""
    control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(3)]
    forwarder = delay.Forwarder(theirs, 0.001, loss)
    thread = threading.Thread(target=forwarder.run)
    thread.start()
    for own, far in pairs:
        far.setblocking(False)
        own.settimeout(10)
        socket.send_fds(control, [b"+"], [far.fileno()])
    try:
        yield [own for own, _ in pairs]
    finally:
        control.close()
        thread.join()
        forwarder.close()
        theirs.close()
        for pair in pairs:
            for end in pair:
                end.close()


def test_the_slow_wire_passes_packets_to_whom_they_are_for() -> None:
    with wire(0.0) as (one, two, three):
        two.send(packet("5.5.5.2", "5.5.5.9", b"here I am"))
        assert one.recv(100).endswith(b"here I am")
        for number in range(50):
            one.send(packet("5.5.5.1", "5.5.5.2", b"%d" % number))
        assert two.recv(100).endswith(b"here I am")  # nobody is known by 5.5.5.9: it goes to all
        assert [two.recv(100)[20:] for _ in range(50)] == [b"%d" % number for number in range(50)]
        assert three.recv(100).endswith(b"here I am")
        three.setblocking(False)
        with pytest.raises(BlockingIOError):
            three.recv(100)


def test_the_slow_wire_loses_its_share() -> None:
    with wire(0.5) as (one, two, _):
        two.send(packet("5.5.5.2", "5.5.5.2", b""))
        for _ in range(200):
            one.send(packet("5.5.5.1", "5.5.5.2", b"x"))
        two.settimeout(0.5)
        arrived = 0
        with contextlib.suppress(TimeoutError):
            while two.recv(100):
                arrived += 1
        assert 50 < arrived < 150


@pytest.fixture
def models_url() -> Iterator[str]:
    Models.names = ["chat-of-anna", "embed-of-anna"]
    server = ThreadingHTTPServer(("127.0.0.1", 0), Models)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    thread.join()
    server.server_close()


def test_the_server_of_models_speaks_openai(models_url: str) -> None:
    with httpx.Client(trust_env=False) as client:
        rows = client.get(f"{models_url}/models").json()["data"]
        assert [row["id"] for row in rows] == Models.names
        body: dict[str, Any] = {"model": "chat-of-anna", "messages": [{"role": "user", "content": "hello"}]}
        whole = client.post(f"{models_url}/chat/completions", json=body).json()
        assert whole["choices"][0]["message"]["content"] == "chat-of-anna answers: hello"
        lines = client.post(f"{models_url}/chat/completions", json=body | {"stream": True}).text.splitlines()
        deltas = [json.loads(line[6:])["choices"][0]["delta"] for line in lines if line.startswith("data: {")]
        assert "".join(delta.get("content", "") for delta in deltas) == "chat-of-anna answers: hello"
        rows = client.post(f"{models_url}/embeddings", json={"model": "embed-of-anna", "input": "hi"}).json()["data"]
        assert len(rows[0]["embedding"]) == DIMENSIONS


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("ip"), reason="needs root and iproute2")
def test_what_a_killed_run_left_behind_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dead = f"natlab{2**22 + 1}-"  # above what Linux gives
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    (tmp_path / f"{dead}folder").mkdir()
    (tmp_path / f"natlab{os.getpid()}-mine").mkdir()
    expected = [f"{dead}folder"]
    if subprocess.run(["ip", "netns", "add", f"{dead}hub"], capture_output=True, check=False).returncode == 0:
        command = ["ip", "netns", "exec", f"{dead}hub", "sleep", "600"]
        sleeper = subprocess.Popen(command)
        while b"sleep" not in Path(f"/proc/{sleeper.pid}/cmdline").read_bytes()[:6]:
            time.sleep(0.01)
        expected.append(f"{dead}hub")
        assert sorted(leftovers.remove_leftovers()) == sorted(expected)
        assert sleeper.wait(10) < 0
    else:
        assert leftovers.remove_leftovers() == expected
    assert [path.name for path in tmp_path.iterdir()] == [f"natlab{os.getpid()}-mine"]


# --- the watcher ------------------------------------------------------------------------------------------------------


def ask(path: Path, command: dict[str, str]) -> Any:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(30)
        connection.connect(str(path))
        connection.sendall(json.dumps(command).encode() + b"\n")
        return json.loads(connection.recv(1 << 20))


@pytest.mark.e2e
def test_a_watched_node_is_an_ordinary_one_that_tells_its_times(tmp_path: Path) -> None:
    command = [sys.executable, str(TOOLS / "natlab_lab" / "watched.py"), str(tmp_path), "node", "--home", str(tmp_path)]
    process = subprocess.Popen([*command, "--http", "127.0.0.1:0", "--listen", "127.0.0.1:0"])
    try:
        file = tmp_path / "run" / "node.json"
        until = time.monotonic() + 60
        while not file.exists():
            assert process.poll() is None
            assert time.monotonic() < until
            time.sleep(0.05)
        info = json.loads(file.read_text())
        with NodeClient(info) as client:
            client.create("lab")
        assert ask(tmp_path / "sock", {"do": "events"}) == []
        nobody = {"do": "part", "node": info["node_id"]}
        assert ask(tmp_path / "sock", nobody)["t"] <= time.monotonic()
        assert ask(tmp_path / "sock", nobody | {"do": "meet"})["t"] <= time.monotonic()
        assert [event["event"] for event in ask(tmp_path / "sock", {"do": "events"})] == ["parted", "meet"]
    finally:
        process.terminate()
        assert process.wait(30) in (0, -15, 143, 130)
