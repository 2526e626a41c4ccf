"""Models over HTTP: the bridge's port and the node's endpoint, for every kind of client that resumes."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

from atmo.api import downloads
from atmo.api.bridge import entry, path_of
from atmo.services.bridge import BridgeService
from atmo.storage.bridge_read import VerifiedFile
from atmo.storage.registry import LocalModel
from atmo.transfer.manifest import ModelFile
from atmo.transfer.names import check_path
from tests.api.bridge_world import ETAG, GGUF, MIB, SIZE, TINY, World, make_world
from tests.api.face import in_process, make_app, served
from tests.gateway.world import loop_net
from tests.storage import samples
from tests.storage.bridge_kit import NOW, sha256


@pytest.fixture
def world(tmp_path: Path) -> World:
    return make_world(tmp_path)


async def test_the_list_has_the_shape_of_the_seed(world: World) -> None:
    async with world.client() as client:
        catalog = (await client.get("/v1/models")).json()
        (model,) = catalog.pop("models")
        assert catalog == {
            "type": "model_catalog",
            "node_id": "n" * 52,
            "node_name": "kitchen",
            "timestamp": int(NOW * 1_000),
            "transfer_endpoints": {"http": "http://127.0.0.1", "websocket": False},
        }
        assert model == {
            "model_id": "org/tiny:tiny.gguf",
            "name": "org/tiny:tiny.gguf",
            "type": "llm",
            "format": "gguf",
            "size_bytes": len(GGUF),
            "sha256": sha256(GGUF),
            "version": "0+g01234567",
            "capabilities": ["chat"],
            "source": "huggingface",
            "source_ref": "org/tiny/tiny.gguf",
            "files": ["tiny.gguf"],
            "download": f"{TINY}@0+g01234567",
        }
        for name in ("org/tiny:tiny.gguf", "org%2Ftiny:tiny.gguf", "org/tiny:tiny.gguf@0+g01234567"):
            assert (await client.get(f"/v1/models/{name}")).json() == model
        assert (await client.get(model["download"])).content == GGUF
        health = (await client.get("/health")).json()
        assert (health["status"], health["models"], health["size_bytes"], health["waiting"]) == ("ok", 1, len(GGUF), 0)


async def test_a_whole_file_and_what_is_told_of_it(world: World) -> None:
    async with world.client() as client:
        got = await client.get(TINY)
        assert (got.status_code, got.content) == (200, GGUF)
        head = await client.head(TINY)
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers.pop("x-request-id") != got.headers.pop("x-request-id")
        assert head.headers == got.headers
        told = {name: head.headers[name] for name in ("etag", "accept-ranges", "content-length", "content-type")}
        assert told == {
            "etag": ETAG,
            "accept-ranges": "bytes",
            "content-length": str(len(GGUF)),
            "content-type": "application/octet-stream",
        }
        assert head.headers["content-disposition"] == "attachment; filename=\"tiny.gguf\"; filename*=UTF-8''tiny.gguf"


@pytest.mark.parametrize(
    ("headers", "status", "start", "end"),
    [
        ({"range": "bytes=0-99"}, 206, 0, 100),
        ({"range": f"bytes={MIB - 1}-{3 * MIB}"}, 206, MIB - 1, 3 * MIB + 1),
        ({"range": "bytes=5000000-"}, 206, 5_000_000, SIZE),
        ({"range": "bytes=-7"}, 206, SIZE - 7, SIZE),
        ({"range": "bytes=0-"}, 206, 0, SIZE),
        ({"range": "bytes=0-99", "if-range": ETAG}, 206, 0, 100),
        ({"range": "bytes=0-99", "if-range": '"other"'}, 200, 0, SIZE),
        ({"range": "bytes=0-99", "if-range": f"W/{ETAG}"}, 200, 0, SIZE),
        ({"range": "bytes=0-99", "if-range": "Tue, 15 Nov 1994 12:45:26 GMT"}, 200, 0, SIZE),
        ({"range": "pages=1-2"}, 200, 0, SIZE),
        ({"range": "bytes=9-1"}, 200, 0, SIZE),
        ({"if-none-match": '"other"'}, 200, 0, SIZE),
        ({"if-match": ETAG, "range": "bytes=1-1"}, 206, 1, 2),
        ({"if-range": '"other"', "range": f"bytes={SIZE}-"}, 200, 0, SIZE),
    ],
)
async def test_ranges_and_conditions(world: World, headers: dict[str, str], status: int, start: int, end: int) -> None:
    async with world.client() as client:
        got = await client.get(TINY, headers=headers)
        assert (got.status_code, got.headers["content-length"]) == (status, str(end - start))
        assert got.content == GGUF[start:end]
        assert got.headers.get("content-range") == (f"bytes {start}-{end - 1}/{SIZE}" if status == 206 else None)
        assert got.headers["etag"] == ETAG


@pytest.mark.parametrize("spec", [f"bytes={SIZE}-", "bytes=-0", "bytes=0-1,5-6", "bytes=99999999999999999999-"])
async def test_ranges_that_are_refused(world: World, spec: str) -> None:
    async with world.client() as client:
        got = await client.get(TINY, headers={"range": spec})
        assert (got.status_code, got.headers["content-range"]) == (416, f"bytes */{SIZE}")
        assert got.json()["error"]["code"] == "range_not_satisfiable"
        assert (await client.head(TINY, headers={"range": spec})).status_code == 200, "a HEAD has no ranges"


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_what_a_client_has_already(world: World, method: str) -> None:
    async with world.client() as client:
        for tag in (ETAG, f"W/{ETAG}", "*", f'"x", {ETAG}'):
            got = await client.request(method, TINY, headers={"if-none-match": tag})
            assert (got.status_code, got.content, got.headers["etag"]) == (304, b"", ETAG)
        refused = await client.request(method, TINY, headers={"if-match": '"x"'})
        assert refused.status_code == 412


@pytest.mark.parametrize(
    ("path", "status", "words"),
    [
        ("/v1/models/nothing/like:it", 404, "There are 1 here: org/tiny:tiny.gguf"),
        ("/v1/models/download/bad.pt", 404, "is not on this machine"),
        (f"{TINY}@9.9", 404, "is not on this machine"),
        (f"{TINY}?file=other.gguf", 404, "Its files are: tiny.gguf"),
        ("/v1/models/download/../../etc/passwd", 404, ""),
        ("/v1/models/download/%2e%2e%2f%2e%2e%2fetc%2fpasswd", 404, "is not on this machine"),
        ("/elsewhere", 404, "GET /v1/models/download/{model}"),
    ],
)
async def test_errors_have_the_shape_of_the_project(world: World, path: str, status: int, words: str) -> None:
    async with world.client() as client:
        got = await client.get(path)
        assert got.status_code == status
        assert words in got.json()["error"]["message"]


async def test_foreign_hosts_and_origins_are_refused(world: World) -> None:
    async with world.client() as client:
        assert (await client.get(TINY, headers={"host": "evil.example"})).status_code == 403
        assert (await client.get(TINY, headers={"origin": "https://evil.example"})).status_code == 403
        assert (await client.post(TINY)).status_code == 405


async def test_models_of_the_store_and_the_node_s_endpoint(world: World) -> None:
    source = world.folder / "iris.onnx"
    source.write_bytes(samples.onnx_plain())
    await world.models.import_model(source, name="iris", version="1.0.0")
    await world.models.import_model(source, name="iris", version="2.0.0", description="newer")
    async with loop_net() as net:
        node = await net.add("alpha", stored=lambda: world.models.rows("local"))
        async with in_process(make_app(node, bridge=world.service)) as client:
            listed = {row["id"]: row for row in (await client.get("/v1/models")).json()["data"]}
            assert listed["iris"]["object"] == "model", "OpenAI's shape stays"
            assert listed["iris"]["download"] == "/v1/models/download/iris@2.0.0"
            assert (listed["iris"]["source"], listed["iris"]["sha256"]) == ("store", sha256(samples.onnx_plain()))
            assert listed["org/tiny:tiny.gguf"]["source"] == "huggingface"
            assert "download" not in listed["auto"]
            assert (await client.get("/v1/models/iris")).json() == listed["iris"]
            got = await client.get("/v1/models/download/iris")
            assert got.content == samples.onnx_plain()
            assert 'filename="iris.onnx"' in got.headers["content-disposition"]
            assert (await client.get("/v1/models/download/iris@1.0.0?file=model.onnx")).content == got.content
            assert (await client.get(TINY)).content == GGUF
            assert (await client.get("/openapi.json")).status_code == 200


async def test_the_models_service_lists_what_the_bridge_has(world: World) -> None:
    (row,) = world.models.rows("local")
    assert (row.name, row.source, row.local) == ("org/tiny:tiny.gguf", "huggingface", True)
    assert world.models.info(row.name)["path"] == str(world.blob)
    assert world.models.local_models() == [], "backends run what is in the store"
    with pytest.raises(Exception, match="belongs to huggingface"):
        await world.models.remove(row.name)
    view = world.service.view()
    assert (view["offered"], view["waiting"], len(view["not_offered"])) == (1, 0, 1)
    off = BridgeService(world.models, None, 300)
    assert off.view()["enabled"] is False
    await off.run()
    await off.rescan()


async def test_a_change_while_it_is_sent_ends_the_answer_before_a_wrong_byte(world: World) -> None:
    got = bytearray()
    ended = False

    async def send(message: dict[str, Any]) -> None:
        nonlocal ended
        await trio.lowlevel.checkpoint()
        got.extend(message.get("body", b""))
        ended = ended or (message["type"] == "http.response.body" and not message.get("more_body", False))
        if len(got) >= 2 * downloads.PIECE_BYTES and world.blob.stat().st_size == SIZE:
            with world.blob.open("r+b") as file:
                file.truncate(SIZE - 1)

    (model,) = world.bridge.models()
    served = downloads.Downloads(world.service)
    await served.response(model, None)({"type": "http", "method": "GET", "headers": []}, _patient, send)  # type: ignore[arg-type]
    assert 2 * downloads.PIECE_BYTES <= len(got) < SIZE
    assert GGUF.startswith(got)
    assert not ended
    assert (served.running, world.bridge.models()) == (0, ())


async def _patient() -> dict[str, Any]:
    await trio.sleep_forever()
    raise AssertionError


async def test_an_answer_that_ends_before_cuts_the_connection(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = world.service.open

    def changed_at_once(model: LocalModel, file: ModelFile) -> VerifiedFile:
        opened = honest(model, file)
        world.blob.write_bytes(bytes(SIZE))
        return opened

    monkeypatch.setattr(world.service, "open", changed_at_once)
    async with served(world.app()) as url, httpx.AsyncClient(base_url=url) as client:
        with pytest.raises(httpx.RemoteProtocolError):
            await client.get(TINY)
        assert (await client.get(TINY)).status_code == 404, "the offer has ended"


async def test_a_file_that_is_gone(world: World) -> None:
    world.blob.unlink()
    async with world.client() as client:
        for method in ("HEAD", "GET"):
            got = await client.request(method, TINY)
            assert got.status_code == (503 if method == "HEAD" else 404)
        assert world.models.rows("local") == []


async def test_only_so_many_at_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloads, "RUNNING_MOST", 2)
    async with served(world.app()) as url, httpx.AsyncClient(base_url=url) as client:
        port = httpx.URL(url).port or 0
        slow = [await _stalled(port) for _ in range(2)]
        refused = await client.get(TINY)
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "2")
        assert refused.json()["error"]["code"] == "busy"
        for connection in slow:
            await connection.aclose()
        with trio.fail_after(5):
            while (await client.get(TINY, headers={"range": "bytes=0-0"})).status_code != 206:
                await trio.sleep(0.02)


async def _stalled(port: int) -> trio.SocketStream:
    """Returns a connection whose client asks for a file and does not read on."""
    connection = await trio.open_tcp_stream("127.0.0.1", port)
    connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    await connection.send_all(f"GET {TINY} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
    assert (await connection.receive_some(16)).startswith(b"HTTP/1.1 200")
    return connection


async def test_a_client_that_is_too_slow_is_given_up(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloads, "PIECE_S", 0.2)
    monkeypatch.setattr(downloads, "PIECE_BYTES", 4_096)
    sent = 0

    async def send(message: dict[str, object]) -> None:
        nonlocal sent
        sent += 1
        if sent == 3:
            await trio.sleep_forever()

    (model,) = world.bridge.models()
    served = downloads.Downloads(world.service)
    scope = {"type": "http", "method": "GET", "headers": []}
    with trio.fail_after(5):
        await served.response(model, None)(scope, _patient, send)  # type: ignore[arg-type]
    assert (sent, served.running) == (3, 0)


async def test_other_machines_get_what_everyone_may_read(world: World) -> None:
    model = world.bridge.models()[0]
    async with world.client("192.0.2.1") as client:
        assert (await client.get("/v1/models")).json()["models"] == [entry(model)]
    object.__setattr__(model.manifest.access, "read", ("admin",))
    async with world.client("192.0.2.1") as client:
        assert (await client.get("/v1/models")).json()["models"] == []
        assert (await client.get(TINY)).status_code == 404
    async with world.client() as client:
        assert (await client.get(TINY)).status_code == 200, "the person at this machine has it anyway"


def test_names_of_files_in_headers(world: World) -> None:
    (model,) = world.bridge.models()
    for name in ("ünï 50%.gguf", "model.gguf"):
        check_path(name)
        file = type(model.manifest.main)(name, 0, bytes(32), MIB, b"")
        headers = dict(downloads._describing(model, file))
        value = headers[b"content-disposition"].decode("ascii")
        assert value.count('"') == 2
        assert ("%C3%BCn%C3%AF%2050%25.gguf" in value) == (name != "model.gguf")
        assert ("org-tiny-tiny.gguf.gguf" in value) == (name == "model.gguf")
    assert path_of(model) == f"{TINY}@0+g01234567"
