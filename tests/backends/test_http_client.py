from __future__ import annotations

import ssl
from pathlib import Path

import pytest
import trio

from atmo.backends.http_client import Broken, HttpClient, HttpConfig, HttpError, Late, Unreachable
from tests.backends.fake_server import Reply, serve


async def get(client: HttpClient, path: str = "/", first_byte_s: float = 5) -> tuple[int, bytes]:
    async with await client.request("GET", path, {}, None, first_byte_s) as response:
        return response.status, await response.read(1_000)


async def test_connections_are_used_again() -> None:
    async with serve() as server:
        server.raw("/base/a", 200, "text/plain", b"one")
        server.sse("/base/b", b"two", b" three")
        client = HttpClient(server.url + "/base/")
        assert await get(client, "/a") == (200, b"one")
        assert await get(client, "/b") == (200, b"two three")
        assert await get(client, "/c") == (404, b"404 page not found")
        assert server.connections == 1
        assert server.received[0].headers["host"] == f"127.0.0.1:{server.port}"
        await client.aclose()


async def test_a_kept_connection_that_the_server_closed_is_replaced() -> None:
    async with serve() as server:

        async def once(reply: Reply) -> None:
            await reply.whole(200, "text/plain", b"x")
            await reply.cut()

        server.on("/", once)
        client = HttpClient(server.url)
        for _ in range(3):
            assert await get(client) == (200, b"x")
        assert server.connections == 3
        await client.aclose()


async def test_kept_connections_are_few_and_age(autojump_clock: trio.testing.MockClock) -> None:
    async with serve() as server:
        server.raw("/", 200, "text/plain", b"x")
        client = HttpClient(server.url, HttpConfig(keep_s=5, keep_most=1))
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(get, client)
        before = server.connections
        await get(client)
        assert server.connections == before
        await trio.sleep(6)
        await get(client)
        assert server.connections == before + 1
        await client.aclose()


async def test_leaving_early_closes_the_connection() -> None:
    async with serve() as server:
        closed = trio.Event()

        async def endless(reply: Reply) -> None:
            await reply.start(200, "text/plain")
            try:
                while True:
                    await reply.piece(b"x" * 1_000)
                    await trio.lowlevel.checkpoint()
            finally:
                closed.set()

        server.on("/", endless)
        client = HttpClient(server.url)
        async with await client.request("GET", "/", {}, None, 5) as response:
            assert await response.receive()
        with trio.fail_after(5):
            await closed.wait()
        with pytest.raises(Broken, match="more than 1000 bytes"):
            await get(client)


async def test_what_breaks() -> None:
    async with serve() as server:

        async def half(reply: Reply) -> None:
            await reply.start(200, "text/plain")
            await reply.piece(b"x")
            await reply.cut()

        async def nonsense(reply: Reply) -> None:
            await reply.stream.send_all(b"SSH-2.0-OpenSSH\r\n\r\n")

        async def silent(reply: Reply) -> None:
            await reply.cut()

        async def huge_header(reply: Reply) -> None:
            await reply.stream.send_all(b"HTTP/1.1 200 OK\r\nx: " + b"a" * 100_000)

        async def hints(reply: Reply) -> None:
            await reply.stream.send_all(b"HTTP/1.1 103 Early Hints\r\n\r\n")
            await reply.whole(200, "text/plain", b"after hints")

        for name, handler in (("half", half), ("ssh", nonsense), ("silent", silent), ("huge", huge_header)):
            server.on(f"/{name}", handler)
        server.on("/hints", hints)
        client = HttpClient(server.url)
        for path, says in (
            ("/half", "broke off in the middle"),
            ("/ssh", "does not speak HTTP"),
            ("/silent", "closed the connection"),
            ("/huge", "does not speak HTTP"),
        ):
            with pytest.raises(Broken, match=says):
                await get(client, path)
        assert await get(client, "/hints") == (200, b"after hints")
        await client.aclose()


async def test_lateness(autojump_clock: trio.testing.MockClock) -> None:
    autojump_clock.autojump_threshold = 0.05
    async with serve() as server:

        async def slow_start(reply: Reply) -> None:
            await trio.sleep(100)

        async def slow_middle(reply: Reply) -> None:
            await reply.start(200, "text/plain")
            await reply.piece(b"x")
            await trio.sleep(100)

        server.on("/start", slow_start)
        server.on("/middle", slow_middle)
        client = HttpClient(server.url, HttpConfig(idle_s=3))
        with pytest.raises(Late, match="nothing for 5 s"):
            await get(client, "/start")
        with pytest.raises(Late, match="nothing for 3 s"):
            await get(client, "/middle")


async def test_nobody_there() -> None:
    listener = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]
    port = listener.socket.getsockname()[1]
    await listener.aclose()
    with pytest.raises(Unreachable, match="cannot be reached: Connection refused"):
        await get(HttpClient(f"http://127.0.0.1:{port}"))


async def test_plain_http_behind_an_https_url() -> None:
    async with serve() as server:
        client = HttpClient(server.url.replace("http:", "https:"))
        with pytest.raises(HttpError):
            await get(client)


async def test_an_untrusted_certificate(tmp_path: Path, nursery: trio.Nursery) -> None:
    context, own = certificate(tmp_path)

    async def hello(stream: trio.SSLStream[trio.SocketStream]) -> None:
        try:
            await stream.receive_some(10_000)
            await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")
        except trio.BrokenResourceError:
            return

    listeners = await nursery.start(trio.serve_ssl_over_tcp, hello, 0, context)
    port = listeners[0].transport_listener.socket.getsockname()[1]
    with pytest.raises(Unreachable, match="certificate that is not trusted"):
        await get(HttpClient(f"https://localhost:{port}"))
    trusting = HttpClient(f"https://localhost:{port}", tls=own)
    assert await get(trusting) == (200, b"hi")
    await trusting.aclose()
    nursery.cancel_scope.cancel()


def certificate(folder: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    from datetime import UTC, datetime, timedelta

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(datetime.now(UTC) - timedelta(days=1))
        .not_valid_after(datetime.now(UTC) + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    path = folder / "server.pem"
    plain = serialization.NoEncryption()
    path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
        + made.public_bytes(serialization.Encoding.PEM)
    )
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(path)
    return server, ssl.create_default_context(cafile=str(path))


@pytest.mark.parametrize("url", ["", "ftp://x", "localhost:11434", "http://", "http://h/?q=1", "http://h:99999"])
def test_bad_urls(url: str) -> None:
    with pytest.raises(ValueError):
        HttpClient(url)


async def test_a_server_that_never_comes_to_its_answer() -> None:
    async with serve() as server:

        async def still_at_it(reply: Reply) -> None:
            await reply.stream.send_all(b"HTTP/1.1 102 Processing\r\n\r\n" * 10_000)

        async def twice(reply: Reply) -> None:
            await reply.stream.send_all(b"HTTP/1.1 102 Processing\r\n\r\n" * 2)
            await reply.whole(200, "text/plain", b"x")

        server.on("/", still_at_it)
        server.on("/twice", twice)
        client = HttpClient(server.url)
        with pytest.raises(Broken, match="does not come to its answer"):
            await get(client)
        assert await get(client, "/twice") == (200, b"x")
        await client.aclose()
