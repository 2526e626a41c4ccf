"""`atmo relay`: what it says, what it refuses, and how it ends."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.request import urlopen

import pytest

from atmo.cli.relay import parse_rate
from atmo.errors import UserError
from atmo.identity import NodeId
from tests.cli.conftest import Atmo
from tests.relay.test_tls import certificate_files


@contextmanager
def running(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], dict[str, object]]]:
    command = [sys.executable, "-m", "atmo", "relay", "--listen", "127.0.0.1:0", "--json", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            lines = ""
            while not lines.endswith("}\n"):
                line = process.stdout.readline()
                assert line, process.stderr and process.stderr.read()
                lines += line
            yield process, json.loads(lines)
        finally:
            process.kill()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_serves_and_ends_when_told(number: signal.Signals) -> None:
    with running() as (process, told):
        assert told["tls"] is False
        NodeId.parse(str(told["id"]))
        with urlopen(f"http://{told['listen']}/metrics") as answer:
            assert b"atmo_relay_clients 0.0" in answer.read()
        process.send_signal(number)
        assert process.wait(10) == 0


def test_its_id_stays_with_its_home(tmp_path: Path) -> None:
    cert, key = certificate_files(tmp_path)
    ids = set()
    for _ in range(2):
        arguments = ["--home", str(tmp_path / "home"), "--tls-cert", str(cert), "--tls-key", str(key)]
        with running(*arguments) as (process, told):
            ids.add(told["id"])
            assert str(told["url"]).startswith("wss://127.0.0.1:")
            process.terminate()
            process.wait(10)
    assert len(ids) == 1


def test_a_port_that_is_taken(atmo: Atmo) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        result = atmo("relay", "--listen", f"127.0.0.1:{other.getsockname()[1]}")
    assert result.code == 2
    assert "in use" in result.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--listen", "nowhere"), "has no port"),
        (("--rate", "fast"), "--rate"),
        (("--rate", "1k"), "at least 64k"),
        (("--drain", "soon"), "not a duration"),
        (("--log-level", "loud"), "--log-level"),
        (("--max-clients", "0"), "max-clients"),
        (("--tls-cert", "cert.pem"), "belong together"),
        (("--tls-cert", "/nothing/here", "--tls-key", "/nothing/here"), "cannot be read"),
    ],
)
def test_what_it_refuses(atmo: Atmo, arguments: tuple[str, ...], words: str) -> None:
    result = atmo("relay", "--listen", "127.0.0.1:0", *arguments)
    assert result.code == 2
    assert words in result.err
    assert not result.out


def test_a_key_of_another_certificate(atmo: Atmo, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    cert, _ = certificate_files(tmp_path)
    _, key = certificate_files(tmp_path / "other")
    result = atmo("relay", "--listen", "127.0.0.1:0", "--tls-cert", cert, "--tls-key", key)
    assert result.code == 2
    assert "not a certificate and its key" in result.err


def test_rates() -> None:
    assert [parse_rate(text) for text in ("65536", "500k", "4M", "1g")] == [65_536, 512_000, 4 << 20, 1 << 30]
    with pytest.raises(UserError):
        parse_rate("-1M")
