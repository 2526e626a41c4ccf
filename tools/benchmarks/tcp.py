"""Chunks over TCP from one holder, between two real nodes in two processes on loopback, beside what sockets alone do.

Every chunk is read and verified at the holder, sealed, sent, opened, verified and written to a file. The peers are two
plain processes that do nothing but send and receive: over TCP, and over TLS by Python's `ssl`. Each round measures
all of them, so that they meet the same machine; figures are medians. Progress goes to stderr.
"""

from __future__ import annotations

import functools
import json
import shutil
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import trio
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from atmo.config.settings import Settings
from atmo.config.values import HostPort
from atmo.identity import NodeId, Signer
from atmo.net.certificate import make_credentials
from atmo.net.driver import PeerDriver
from atmo.net.quic import open_endpoint
from atmo.net.tcp import open_tcp
from atmo.node.offline import OpenHome, Services, build_host, open_home, open_services
from atmo.services.fetch import Fetcher
from atmo.services.host import MeshHost
from atmo.storage.decisions import TrustPolicy
from atmo.storage.partial import PartialDownload
from atmo.transfer.config import TransferConfig
from atmo.transfer.manifest import open_manifest_untrusted

ROUNDS = 7
MODEL_BYTES = 512 * 2**20
QUIC_CHUNKS = 48
BLOCK = 2**20
AT_ONCE = TransferConfig().window_most


@dataclass(frozen=True)
class Node:
    """A node of this process."""

    host: MeshHost
    services: Services
    opened: OpenHome

    @property
    def driver(self) -> PeerDriver:
        assert isinstance(self.host.port, PeerDriver)
        return self.host.port


def run() -> dict[str, Any]:
    """Returns medians over all rounds."""
    with tempfile.TemporaryDirectory() as folder:
        rounds = trio.run(_measure, Path(folder))
    medians = {name: round(statistics.median(each[name] for each in rounds), 1) for name in rounds[0]}
    peers = {name: medians.pop(name) for name in ("tcp_mb_s", "tls_mb_s")}
    return {"figures": medians, "peers": {"sockets alone": peers}, "aims": {"one_holder_mb_s": "400"}}


def say(text: str) -> None:
    """Tells a person who waits."""
    sys.stderr.write(f"tcp: {text}\n")
    sys.stderr.flush()


# --- two nodes --------------------------------------------------------------------------------------------------------


async def _measure(folder: Path) -> list[dict[str, float]]:
    say("the holder imports a model")
    with _child("hold", str(folder)) as told:
        async with _node(folder / "asker", "asker") as node:
            await node.services.mesh.join(told["code"])
            while not node.services.models.rows("available"):  # noqa: ASYNC110 - no event tells of it
                await trio.sleep(0.05)
            rounds = []
            for number in range(ROUNDS):
                say(f"round {number + 1} of {ROUNDS}")
                rounds.append(await _round(folder, node, NodeId.parse(told["node"])))
            return rounds


async def _round(folder: Path, node: Node, holder: NodeId) -> dict[str, float]:
    """Pulls the model as a user does; then fetches its chunks over TCP, and some of them over QUIC."""
    models, mesh = node.services.models, node.driver
    began = time.perf_counter()
    row = await models.pull("bench")
    figures = {"whole_pull_mb_s": row.size_bytes / (time.perf_counter() - began) / 1e6}
    assert models.fetching.quic_chunks == 0, "a pull went over QUIC"
    sealed = node.opened.storage.registry.sealed(models.local_models()[0].manifest_id)
    assert sealed is not None
    await models.remove("bench")
    figures["one_holder_mb_s"] = await _fetch(folder, node, holder, sealed, MODEL_BYTES // BLOCK)
    bulk, mesh.bulk = mesh.bulk, None
    figures["one_holder_quic_mb_s"] = await _fetch(folder, node, holder, sealed, QUIC_CHUNKS)
    mesh.bulk = bulk
    for kind in ("tcp", "tls"):
        figures[f"{kind}_mb_s"] = await trio.to_thread.run_sync(_sockets, kind)
    return figures


async def _fetch(folder: Path, node: Node, holder: NodeId, sealed: bytes, count: int) -> float:
    """Fetches the first chunks, as many at once as a transfer does; returns MB/s."""
    target = folder / "partial"
    partial = PartialDownload(target, sealed, open_manifest_untrusted(sealed)[0])
    fetcher = Fetcher(trio.CapacityLimiter(4))
    left = iter(range(count))

    async def some() -> None:
        for index in left:
            right = await fetcher.fetch(
                node.driver, holder, partial.places[index], functools.partial(partial.write, index)
            )
            assert right, "a chunk is wrong"

    began = time.perf_counter()
    async with trio.open_nursery() as nursery:
        for _ in range(AT_ONCE):
            nursery.start_soon(some)
    taken = time.perf_counter() - began
    size = partial.bytes_done
    partial.close()
    shutil.rmtree(target)
    return size / taken / 1e6


@asynccontextmanager
async def _node(home: Path, name: str) -> AsyncIterator[Node]:
    settings = Settings(name, listen=HostPort("127.0.0.1", 0), lan=False, trust=TrustPolicy(first_time="allow"))
    with ExitStack() as stack:
        opened = open_home(stack, home, 1.0)
        async with (
            open_endpoint(opened.signer, "127.0.0.1", 0) as endpoint,
            open_tcp(endpoint.local_address) as tcp,
            trio.open_nursery() as nursery,
        ):
            host = build_host(opened, settings, endpoint, nursery, tcp=tcp)
            async with open_services(opened, settings, host) as services:
                yield Node(host, services, opened)
            nursery.cancel_scope.cancel()


async def _hold(folder: Path) -> None:
    """Holds the model until killed."""
    model = folder / "bench.safetensors"
    head = json.dumps({"w": {"dtype": "U8", "shape": [MODEL_BYTES], "data_offsets": [0, MODEL_BYTES]}}).encode()
    with model.open("wb") as file:
        file.write(len(head).to_bytes(8, "little") + head)
        for number in range(MODEL_BYTES // BLOCK):
            file.write(Random(number).randbytes(BLOCK))
    async with _node(folder / "holder", "holder") as node:
        await node.services.mesh.create("bench")
        await node.services.models.import_model(model, name="bench", version="1.0")
        _tell({"code": (await node.services.mesh.invite())["code"], "node": str(node.opened.signer.node_id)})
        await trio.sleep_forever()


# --- sockets alone ----------------------------------------------------------------------------------------------------


def _sockets(kind: str) -> float:
    """Receives as many bytes as the model has from a process that does nothing but send them."""
    with _child("send", kind) as told, socket.create_connection(("127.0.0.1", told["port"])) as plain:
        taken = plain
        if kind == "tls":
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            taken = context.wrap_socket(plain)
        buffer = memoryview(bytearray(BLOCK))
        left = MODEL_BYTES
        began = time.perf_counter()
        while left:
            count = taken.recv_into(buffer)
            if not count:
                raise AssertionError("the sender ended early")
            left -= count
        return MODEL_BYTES / (time.perf_counter() - began) / 1e6


def _send(kind: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        _tell({"port": listener.getsockname()[1]})
        taken, _ = listener.accept()
        if kind == "tls":
            taken = _tls_context().wrap_socket(taken, server_side=True)
        block = Random(1).randbytes(BLOCK)
        for _ in range(MODEL_BYTES // BLOCK):
            taken.sendall(block)
        taken.close()


def _tls_context() -> ssl.SSLContext:
    credentials = make_credentials(Signer(b"t" * 32))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.NamedTemporaryFile() as file:
        file.write(credentials.certificate.public_bytes(Encoding.PEM))
        file.write(credentials.private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        file.flush()
        context.load_cert_chain(file.name)
    return context


# --- processes --------------------------------------------------------------------------------------------------------


@contextmanager
def _child(*arguments: str) -> Iterator[dict[str, Any]]:
    """Runs a part of this file in a process; yields what it tells when it is ready."""
    command = [sys.executable, __file__, *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        try:
            assert child.stdout is not None
            yield json.loads(child.stdout.readline())
        finally:
            child.kill()


def _tell(what: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    if sys.argv[1:2] == ["hold"]:
        trio.run(_hold, Path(sys.argv[2]))
    elif sys.argv[1:2] == ["send"]:
        _send(sys.argv[2])
    else:
        _tell(run())
