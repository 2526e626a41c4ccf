"""How much the core takes of each stream, of all together, and how many streams there may be."""

from __future__ import annotations

from aioquic.quic import events

from atmo.net.quic_config import QuicConfig
from tests.net.pair import Pair, assert_open

SMALL = QuicConfig(stream_window_bytes=16_384, connection_window_bytes=65_536, max_streams=8)
KIB = 1024


def test_credit_grows_when_the_reader_takes_not_when_data_arrives() -> None:
    pair = Pair(SMALL)
    client, server = pair.both()
    stream = client.open_stream()
    client.write(stream, bytes(100 * KIB), end=True)
    pair.run(5)
    assert len(pair.data("server")) == SMALL.stream_window_bytes
    assert client.unsent(stream) == 100 * KIB - SMALL.stream_window_bytes

    taken = 0
    while taken < 100 * KIB:
        arrived = len(pair.data("server"))
        server.consume(stream, arrived - taken)
        taken = arrived
        pair.run()
    assert pair.of("server", events.StreamDataReceived)[-1].end_stream
    assert client.unsent(stream) == 0
    server.write(stream, b"", end=True)
    pair.run()
    assert not client.is_open(stream)
    assert not server.is_open(stream)


def test_a_stalled_stream_leaves_room_for_another() -> None:
    pair = Pair(SMALL)
    client, server = pair.both()
    stalled, other = client.open_stream(), client.open_stream()
    client.write(stalled, bytes(100 * KIB))
    client.write(other, b"quick", end=True)
    pair.run()
    assert pair.data("server", other) == b"quick"
    assert not server.closed


def test_all_streams_together_stay_within_the_connection_window() -> None:
    pair = Pair(SMALL)
    client, _ = pair.both()
    for _ in range(SMALL.max_streams):
        client.write(client.open_stream(), bytes(64 * KIB))
    pair.run(5)
    assert sum(len(each.data) for each in pair.of("server", events.StreamDataReceived)) == SMALL.connection_window_bytes


def test_a_reset_stream_gives_its_share_of_the_connection_window_back() -> None:
    pair = Pair(SMALL)
    client, server = pair.both()
    for _ in range(50):
        stream = client.open_stream()
        client.write(stream, bytes(8 * KIB))
        pair.run()
        client.reset(stream, 1)
        client.stop(stream, 1)
        pair.run()
        assert [each.stream_id for each in pair.of("server", events.StreamReset)][-1] == stream
        server.settle(stream)
        server.reset(stream, 1)
        pair.run()
        assert not client.is_open(stream)
        assert not server.is_open(stream)
    assert_open(pair)


def test_the_other_end_may_open_only_so_many_streams() -> None:
    pair = Pair(SMALL)
    client, server = pair.both()
    while client.can_open():
        client.write(client.open_stream(), b"x")
    pair.run()
    assert len({each.stream_id for each in pair.of("server", events.StreamDataReceived)}) == SMALL.max_streams
    for stream in range(0, 4 * SMALL.max_streams, 4):
        client.write(stream, b"", end=True)
        server.write(stream, b"", end=True)
    pair.run()
    assert client.can_open()


def test_streams_beyond_the_limit_close_the_connection_of_who_opens_them() -> None:
    pair = Pair(SMALL)
    client, server = pair.both()
    client._quic._remote_max_streams_bidi = 1_000
    client.write(4 * SMALL.max_streams, b"x")
    pair.run()
    assert server.closed
    assert "Too many streams" in client.close_reason


def test_one_way_streams_are_refused() -> None:
    pair = Pair(SMALL)
    client, server = pair.both()
    client._quic._remote_max_streams_uni = 1
    client._quic._remote_max_stream_data_uni = 100
    client._quic.send_stream_data(2, b"x")
    pair.run()
    assert server.closed


def test_our_own_limit_holds_even_if_the_other_end_sets_none() -> None:
    pair = Pair(SMALL)
    client, _ = pair.both()
    client._quic._remote_max_streams_bidi = 1_000
    opened = 0
    while client.can_open():
        client.open_stream()
        opened += 1
    assert opened == 2 * SMALL.max_streams


# Bad wires and bad ends


def test_the_other_end_may_move_to_another_address() -> None:
    pair = Pair()
    client, server = pair.both()
    pair.client_address = ("198.51.100.7", 7)
    stream = client.open_stream()
    client.write(stream, b"from elsewhere", end=True)
    pair.run()
    server.write(stream, b"seen", end=True)
    pair.run()
    assert pair.data("server") == b"from elsewhere"
    assert pair.data("client") == b"seen"
    assert server.peer_address == ("198.51.100.7", 7)
