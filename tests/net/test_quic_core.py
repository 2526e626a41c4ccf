"""The core over a pretended wire. Also fails loudly when aioquic's private members are not what they were."""

from __future__ import annotations

from datetime import datetime

import pytest
from aioquic import tls
from aioquic.quic import events
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.congestion.reno import RenoCongestionControl
from aioquic.quic.connection import QuicConnection
from aioquic.quic.recovery import QuicPacketPacer
from aioquic.quic.stream import QuicStream as RawStream
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from atmo.net.certificate import Credentials, make_credentials
from atmo.net.quic_config import QuicConfig
from atmo.net.quic_core import QuicCore
from tests.net.pair import ALICE, BOB, EVE, SERVER, Pair


def test_the_private_members_of_aioquic_are_where_we_touch_them() -> None:
    pair = Pair()
    pair.both()
    connection = pair.client._quic
    for name in (
        "_close_event",
        "_host_cids",
        "_initialize",
        "_is_client",
        "_local_max_data",
        "_local_max_streams_bidi",
        "_local_max_streams_uni",
        "_loss",
        "_network_paths",
        "_on_connection_limit_delivery",
        "_on_max_stream_data_delivery",
        "_ping_pending",
        "_remote_max_streams_bidi",
        "_spaces",
        "_state",
        "_streams",
        "_streams_queue",
    ):
        assert hasattr(connection, name), name
    for name in ("_peer_certificate", "_receive_buffer", "_request_client_certificate", "_signature_algorithms"):
        assert hasattr(connection.tls, name), name
    assert connection.tls._supported_groups == [tls.Group.X25519]
    assert {"value", "sent", "used", "frame_type"} <= vars(connection._local_max_data).keys()
    assert {"_rtt_smoothed", "_rtt_initialized", "_pacer", "_cc", "_pto_count"} <= vars(connection._loss).keys()
    assert {"_buffer_start", "_buffer_stop", "_reset_error_code"} <= vars(RawStream().sender).keys()
    assert {"max_stream_data_local", "max_stream_data_local_sent"} <= vars(RawStream()).keys()
    assert {"highest_offset", "is_finished"} <= vars(RawStream().receiver).keys()
    pacer = QuicPacketPacer(max_datagram_size=1_200)
    pacer.update_rate(12_000, 0.1)
    assert pacer.bucket_max > 0
    assert pacer._max_datagram_size == connection._max_datagram_size == 1_200
    assert RenoCongestionControl(max_datagram_size=1_200)._max_datagram_size == 1_200
    for method in (
        "_write_connection_limits",
        "_write_stream_limits",
        "_write_stop_sending_frame",
        "_write_reset_stream_frame",
    ):
        assert callable(getattr(QuicConnection, method)), method


# Who is there


def test_both_ends_learn_the_other_node_id() -> None:
    client, server = Pair().both()
    assert client.peer == BOB.node_id
    assert server.peer == ALICE.node_id


def test_a_server_that_is_not_the_expected_node_is_refused_by_the_client() -> None:
    pair = Pair(expected=EVE.node_id).run()
    assert pair.client.refused
    assert pair.client.peer is None
    assert "who was called" in pair.client.close_reason
    assert pair.server is not None
    assert pair.server.peer is None


def test_a_client_without_a_certificate_is_refused_and_its_data_never_delivered() -> None:
    pair = Pair(credentials=None)

    def write_at_once(data: bytes) -> bytes:
        if pair.client.peer is not None and not pair.client.closed and not pair.client.is_open(0):
            pair.client.write(pair.client.open_stream(), b"let me in")
        return data

    pair.wire = write_at_once
    pair.run()
    assert pair.server is not None
    assert pair.client.is_open(0)
    assert pair.server.refused
    assert pair.server.peer is None
    assert not pair.of("server", events.StreamDataReceived)
    assert pair.client.close_reason == "a node must show its certificate"


def test_a_certificate_of_another_kind_of_key_is_refused() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([])
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, datetime(2020, 1, 1), datetime(2090, 1, 1))
    ).sign(key, hashes.SHA256())
    pair = Pair(credentials=Credentials(certificate, key))  # type: ignore[arg-type]
    pair.run()
    assert pair.server is not None
    assert pair.server.peer is None
    assert pair.client.closed


def test_a_stolen_certificate_is_worth_nothing_without_its_key() -> None:
    stolen = Credentials(make_credentials(ALICE).certificate, make_credentials(EVE).private_key)
    pair = Pair(credentials=stolen).run()
    assert pair.server is not None
    assert pair.server.peer is None
    assert pair.server.closed


@pytest.mark.parametrize("protocols", [["h3"], None])
def test_another_application_protocol_is_refused(protocols: list[str] | None) -> None:
    credentials = make_credentials(EVE)
    client = QuicConnection(
        configuration=QuicConfiguration(
            is_client=True,
            verify_mode=0,
            alpn_protocols=protocols,
            certificate=credentials.certificate,
            private_key=credentials.private_key,
        )
    )
    server = QuicCore(
        make_credentials(BOB),
        QuicConfig(),
        datagram_bytes=1_200,
        original_id=client.original_destination_connection_id,
    )
    client.connect(SERVER, 0.0)
    for _ in range(8):
        for data, _address in client.datagrams_to_send(0.0):
            server.receive(data, ("192.0.2.9", 9), 0.0)
        list(server.poll())
        for data, _address in server.transmit(0.0):
            client.receive_datagram(data, SERVER, 0.0)
    assert server.peer is None
    assert server.closed


# Credit


def test_the_reason_for_closing_arrives() -> None:
    pair = Pair()
    client, server = pair.both()
    server.close("going home")
    assert server.closed
    pair.run()
    assert client.close_reason == "going home"
    assert client.gone


def test_a_long_reason_is_cut_and_an_unprintable_one_made_printable() -> None:
    pair = Pair()
    client, server = pair.both()
    server.close("\x1b[31m" + "ä" * 1_000)
    pair.run()
    assert client.close_reason.startswith("?[31mä")
    assert len(client.close_reason) < 256


def test_a_lost_close_is_said_again_when_the_other_end_goes_on_talking() -> None:
    pair = Pair()
    client, server = pair.both()
    pair.wire = lambda data: None
    server.close("going home")
    pair.run(0.001)
    pair.wire = lambda data: data
    client.ping()
    pair.run(0.05)
    assert client.close_reason == "going home"


def test_a_silent_other_end_is_given_up() -> None:
    pair = Pair()
    client, _ = pair.both()
    pair.wire = lambda data: None
    pair.run(100)
    assert client.gone
    assert client.close_reason == "nothing was heard for 30 s"


@pytest.mark.parametrize(
    ("code", "text"), [(0x0, "closed"), (0xC, "closed by application error"), (0x77777, "closed with code 0x77777")]
)
def test_a_close_without_a_reason_is_told_by_its_code(code: int, text: str) -> None:
    pair = Pair()
    client, server = pair.both()
    server._quic.close(error_code=code, frame_type=0)
    pair.run()
    assert client.close_reason == text


def test_commands_on_streams_that_are_over_do_nothing() -> None:
    client, server = Pair().both()
    assert client.unsent(400) == 0
    client.reset(400, 1)
    client.stop(400, 1)
    assert not client.settle(400)
    server.close("done")
    server.close("done twice")
    assert server.close_reason == "done"


def test_rtt_is_measured() -> None:
    client, _ = Pair().both()
    assert client.rtt_s == pytest.approx(0.011, abs=0.005)


def test_what_does_not_fit_into_a_packet_does_not_end_the_flight() -> None:
    pair = Pair()
    client, server = pair.both()
    streams = [client.open_stream() for _ in range(3)]
    for stream in streams:
        client.write(stream, b"x")
    pair.run()
    for stream in streams:
        server.write(stream, bytes(8_000))
        server.stop(stream, 0)
    server.reset(streams[-1], 0)
    sent = len(server.transmit(pair.now))
    assert sent > 2, "a flight, not a packet"
    pair.run()
    assert all(len(pair.data("client", stream)) == 8_000 for stream in streams[:2])
    assert len(pair.of("client", events.StopSendingReceived)) == 3
    assert len(pair.of("client", events.StreamReset)) == 1


def test_the_size_of_datagrams_may_change_at_any_time() -> None:
    sent: list[int] = []

    def wire(data: bytes) -> bytes:
        sent.append(len(data))
        return data

    pair = Pair(wire=wire)
    client, server = pair.both()
    stream = client.open_stream()
    largest = []
    for size in (1_200, 1_452, 8_192, 1_200):
        client.resize(size)
        assert client.datagram_bytes == size
        sent.clear()
        client.write(stream, bytes(100_000))
        pair.run()
        server.consume(stream, 100_000)
        pair.run()
        largest.append(max(sent))
    assert largest == [1_200, 1_452, 8_192, 1_200]
    assert len(pair.data("server", stream)) == 400_000


def test_windows_follow_the_size_of_datagrams() -> None:
    client, _ = Pair().both()
    loss = client._quic._loss
    loss._cc.congestion_window = 12_000
    client.resize(1_452)
    assert loss.congestion_window == 14_520, "ten datagrams: nothing was lost so far"
    client.resize(8_192)
    assert loss.congestion_window == 16_384, "two, which is more than 14,720 bytes"
    assert loss._pacer.packet_time == pytest.approx(8_192 / 16_384 * loss._rtt_smoothed)
    client.resize(1_200)
    assert loss.congestion_window == 16_384
    loss._cc.congestion_window = loss._cc.ssthresh = 2_400
    client.resize(1_452)
    assert loss.congestion_window == 2_904, "after a loss it grows by what arrives, and is two datagrams at least"


@pytest.mark.parametrize("talks", [False, True], ids=["nothing arrives", "small ones arrive"])
def test_it_notices_when_large_datagrams_alone_vanish(talks: bool) -> None:
    most = [9_000]
    pair = Pair(wire=lambda data: data if len(data) <= most[0] else None)
    client, _ = pair.both()
    stream, other = client.open_stream(), client.open_stream()
    client.resize(1_452)
    client.write(stream, bytes(50_000))
    pair.run()
    before = client.loses_large
    assert not before
    most[0] = 1_300
    client.write(stream, bytes(50_000))
    for _ in range(40 if talks else 1):
        pair.run(0.05)
        if talks:
            client.write(other, b"x")
    pair.run(0.5)
    assert client.loses_large
    client.resize(1_200)
    pair.run(5.0)
    assert len(pair.data("server", stream)) == 100_000
    assert client._quic._loss._pto_count == 0
