"""The relay with TLS over loopback sockets, and a whole relay that is told to end."""

from __future__ import annotations

import socket
import ssl
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path

import pytest
import trio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from atmo.identity import Signer
from atmo.relay.address import RelayAddress
from atmo.relay.client import RelayClient
from atmo.relay.server import Relay, RelayConfig
from tests.relay.kit import ALICE, BOB, CAROL, DEADLINE_S, on_loopback


def certificate_files(folder: Path) -> tuple[Path, Path]:
    """Writes a self-signed certificate for 127.0.0.1 and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "relay")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    cert_path, key_path = folder / "cert.pem", folder / "key.pem"
    cert_path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    key_path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return cert_path, key_path


@pytest.fixture
def contexts(tmp_path: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Those of a relay and of a client that trusts it."""
    cert, key = certificate_files(tmp_path)
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(cert, key)
    return server, ssl.create_default_context(cafile=str(cert))


async def test_datagrams_over_tls(contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    server, trusting = contexts
    relay = Relay(CAROL, tls=server)
    got = trio.Event()
    async with on_loopback(relay) as port, trio.open_nursery() as nursery:
        address = RelayAddress.parse_untrusted(f"wss://127.0.0.1:{port}/#{CAROL.node_id}")
        up = [trio.Event(), trio.Event()]

        def client_of(signer: Signer, event: trio.Event) -> RelayClient:
            return RelayClient(signer, [address], lambda *_: got.set(), changed=lambda state: event.set(), tls=trusting)

        alice, bob = client_of(ALICE, up[0]), client_of(BOB, up[1])
        with trio.fail_after(DEADLINE_S):
            for client in (alice, bob):
                nursery.start_soon(client.run)
            for event in up:
                await event.wait()
            assert alice.send(BOB.node_id, bytes(60_000))
            await got.wait()
        assert bob.stats.received == 1
        nursery.cancel_scope.cancel()


async def test_a_certificate_that_is_not_trusted(contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    relay = Relay(CAROL, tls=contexts[0])
    told = trio.Event()
    async with on_loopback(relay) as port, trio.open_nursery() as nursery:
        address = RelayAddress.parse_untrusted(f"wss://127.0.0.1:{port}/")
        client = RelayClient(ALICE, [address], lambda *_: None, changed=lambda state: told.set())
        nursery.start_soon(client.run)
        with trio.fail_after(DEADLINE_S):
            await told.wait()
        assert "certificate that is not trusted" in client.state.reason
        nursery.cancel_scope.cancel()
    assert relay.stats.faults == 0


async def test_a_relay_that_is_told_to_end_drains_and_lets_go_of_the_port() -> None:
    relay, stop = Relay(CAROL, RelayConfig(drain_s=0.2)), trio.Event()
    states = []
    with trio.fail_after(2 * DEADLINE_S):
        async with trio.open_nursery() as nursery, on_loopback(relay, stop) as port:
            address = RelayAddress.parse_untrusted(f"ws://127.0.0.1:{port}/")
            spare = RelayAddress.parse_untrusted("ws://127.0.0.1:1/")
            up, down = trio.Event(), trio.Event()

            def changed(state: object) -> None:
                states.append(state)
                event = down if up.is_set() else up
                event.set()

            client = RelayClient(ALICE, [address, spare], lambda *_: None, changed=changed)
            nursery.start_soon(client.run)
            await up.wait()
            stop.set()
            await down.wait()
            nursery.cancel_scope.cancel()
    assert relay.stats.ended == {"drained": 1}
    with socket.create_server(("127.0.0.1", port)):
        pass  # it can be bound again
