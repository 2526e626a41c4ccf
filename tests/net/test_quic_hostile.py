"""The core against wires that lose and change datagrams, members that send nonsense, and faults inside aioquic."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from typing import Any

import pytest
from aioquic import tls
from aioquic.quic.packet import QuicFrameType, QuicPacketType
from aioquic.quic.packet_builder import QuicPacketBuilder

from atmo.net.quic_config import QuicConfig
from atmo.net.quic_core import QuicCore
from tests.net.pair import Pair

SMALL = QuicConfig(stream_window_bytes=16_384, connection_window_bytes=65_536, max_streams=8)
KIB = 1024


def lossy(seed: int, share: float) -> Callable[[bytes], bytes | None]:
    rng = random.Random(seed)
    return lambda data: None if rng.random() < share else data


@pytest.mark.parametrize("seed", range(4))
def test_everything_arrives_over_a_lossy_wire(seed: int) -> None:
    pair = Pair(SMALL)
    client, server = pair.both()
    pair.wire = lossy(seed, 0.2)
    text = random.Random(seed).randbytes(100 * KIB)
    stream = client.open_stream()
    client.write(stream, text, end=True)
    taken = 0
    for _ in range(200):
        pair.run(0.5)
        arrived = len(pair.data("server"))
        server.consume(stream, arrived - taken)
        taken = arrived
        if taken == len(text):
            break
    assert pair.data("server") == text


@pytest.mark.parametrize("seed", range(8))
def test_flipped_bits_on_the_wire_harm_nothing(seed: int) -> None:
    rng = random.Random(seed)

    def flip(data: bytes) -> bytes:
        if rng.random() < 0.6:
            return data
        mutated = bytearray(data)
        mutated[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        return bytes(mutated[: rng.randrange(1, len(data) + 1)] if rng.random() < 0.1 else mutated)

    pair = Pair()
    client, server = pair.both()
    pair.wire = flip
    stream = client.open_stream()
    client.write(stream, bytes(20 * KIB), end=True)
    pair.run(20)
    assert len(pair.data("server")) == 20 * KIB
    assert client.internal_errors == server.internal_errors == 0


@pytest.mark.parametrize("seed", range(8))
def test_flipped_bits_in_the_handshake_harm_nothing(seed: int) -> None:
    rng = random.Random(seed)

    def flip(data: bytes) -> bytes:
        mutated = bytearray(data)
        if rng.random() < 0.5:
            mutated[rng.randrange(20, len(data))] ^= 1 << rng.randrange(8)
        return bytes(mutated)

    pair = Pair(wire=flip).run(20)
    assert pair.client.internal_errors == 0


def send_frames(core: QuicCore, frames: bytes, now: float) -> bytes:
    """Returns a genuine packet of `core` that carries `frames` as its payload."""
    quic = core._quic
    builder = QuicPacketBuilder(
        host_cid=quic.host_cid,
        is_client=True,
        max_datagram_size=1_200,
        packet_number=quic._packet_number,
        peer_cid=quic._peer_cid.cid,
        version=1,
    )
    builder.start_packet(QuicPacketType.ONE_RTT, quic._cryptos[tls.Epoch.ONE_RTT])
    builder.start_frame(QuicFrameType.PING, capacity=len(frames)).push_bytes(frames)
    datagrams, _ = builder.flush()
    quic._packet_number = builder.packet_number
    return datagrams[0]


@pytest.mark.parametrize("seed", range(40))
def test_a_member_that_sends_random_frames_costs_only_its_own_connection(
    seed: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    rng = random.Random(seed)
    pair = Pair(SMALL)
    client, server = pair.both()
    for _ in range(20):
        kind = rng.randrange(0x20)
        frames = bytes([kind]) + bytes(
            rng.choice((0, 1, 4, 8, 63, rng.randrange(256))) for _ in range(rng.randrange(40))
        )
        server.receive(send_frames(client, frames, pair.now), ("192.0.2.1", 1), pair.now)
        list(server.poll())
        server.transmit(pair.now)
        server.next_timer()
    assert server._quic._local_max_data.used <= SMALL.connection_window_bytes


def test_an_endless_handshake_message_is_cut_off() -> None:
    pair = Pair()
    stream = pair.client._quic._crypto_streams[tls.Epoch.INITIAL]
    stream.sender._buffer[0:4] = b"\x01\x0f\xff\xff"
    stream.sender.write(bytes(40 * KIB))
    pair.run(5)
    assert pair.server is not None
    assert pair.server.closed
    assert len(pair.server._tls_waiting) < 40 * KIB


def test_an_exception_inside_aioquic_costs_one_connection(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: Any) -> None:
        raise AssertionError("boom")

    pair = Pair()
    client, server = pair.both()
    monkeypatch.setattr(server._quic, "receive_datagram", broken)
    client.ping()
    pair.run()
    assert server.closed
    assert server.gone
    assert server.internal_errors == 1
    assert server.close_reason == "an internal error"
    assert "boom" in caplog.text


@pytest.mark.parametrize("method", ["handle_timer", "datagrams_to_send"])
def test_an_exception_in_a_timer_or_while_sending_costs_one_connection(
    method: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise AssertionError("boom")

    pair = Pair()
    client, _ = pair.both()
    monkeypatch.setattr(client._quic, method, broken)
    pair.run(100)
    assert client.gone
    assert "boom" in caplog.text


# The end


@pytest.mark.parametrize("frame", ["stream", "crypto"])
def test_a_stream_of_gaps_closes_the_connection_before_it_costs_time(frame: str) -> None:
    pair = Pair()
    client, server = pair.both()
    offset = 1
    for _ in range(200):
        frames = b""
        while len(frames) < 900 and offset < 16_000:
            where = (offset | 0x4000).to_bytes(2, "big")
            if frame == "stream":
                frames += b"\x0e\x00" + where + b"\x01x"
            else:
                frames += b"\x06" + (0x80000000 | (offset + 100_000)).to_bytes(4, "big") + b"\x01x"
            offset += 2
        server.receive(send_frames(client, frames, pair.now), pair.client_address, pair.now)
        if server.closed:
            break
    assert server.closed
    assert offset < 3_000
