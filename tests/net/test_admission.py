"""Who may begin a handshake."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from aioquic.quic.packet import pull_quic_header
from hypothesis import given
from hypothesis import strategies as st

from atmo.net.admission import Admission, Admitted, Buffer  # type: ignore[attr-defined]
from atmo.net.certificate import make_credentials
from atmo.net.quic_config import EndpointStats, QuicConfig
from atmo.net.quic_core import QuicCore
from atmo.wire.address import Address, host_group
from tests.net.pair import ALICE, BOB

HERE = Address("192.0.2.1", 1_000)


def admission(**limits: int) -> Admission:
    return Admission(replace(QuicConfig(), **limits), EndpointStats())


def client() -> QuicCore:
    core = QuicCore(make_credentials(ALICE), QuicConfig(), datagram_bytes=1_200, expected=BOB.node_id)
    core.connect(("192.0.2.2", 2), 0.0)
    return core


def hello(core: QuicCore | None = None) -> bytes:
    return (core or client()).transmit(0.0)[0][0]


def test_a_first_packet_is_admitted() -> None:
    data = hello()
    assert admission().judge_untrusted(data, HERE, 0.0) == Admitted(data[6:14], None)


def test_a_first_packet_that_is_too_short_is_not() -> None:
    judge = admission()
    assert judge.judge_untrusted(hello()[:1_199], HERE, 0.0) is None
    assert judge._stats.dropped_unknown == 1


@pytest.mark.parametrize("kind", [0x10, 0x20, 0x30])
def test_other_long_packets_are_not(kind: int) -> None:
    data = bytearray(hello())
    data[0] |= kind
    assert admission().judge_untrusted(bytes(data), HERE, 0.0) is None


def test_many_at_once_must_come_back_with_a_token() -> None:
    judge = admission(retry_above_half_open=1)
    judge.begun(HERE.host)
    core = client()
    first = hello(core)
    retry = judge.judge_untrusted(first, HERE, 1.0)
    assert isinstance(retry, bytes)
    assert len(retry) < len(first)
    core.receive(retry, ("192.0.2.2", 2), 1.0)
    second = core.transmit(1.0)[0][0]
    retry_id = pull_quic_header(Buffer(data=retry)).source_cid
    assert judge.judge_untrusted(second, HERE, 1.1) == Admitted(first[6:14], retry_id)
    assert judge.judge_untrusted(second, Address("192.0.2.7", 1_000), 1.1) is None
    assert judge.judge_untrusted(second, HERE, 100.0) is None
    assert judge._stats.dropped_malformed == 2


def test_what_ended_makes_room() -> None:
    judge = admission(max_half_open_per_host=1)
    judge.begun(HERE.host)
    assert judge.judge_untrusted(hello(), HERE, 0.0) is None
    assert isinstance(judge.judge_untrusted(hello(), Address("192.0.2.9", 1), 0.0), Admitted)
    judge.ended(HERE.host)
    assert isinstance(judge.judge_untrusted(hello(), HERE, 0.0), Admitted)
    judge.gone(HERE.host)
    assert not judge._handshakes
    assert not judge._connections


def test_one_host_leaves_room_for_others() -> None:
    judge = admission(max_incoming_per_host=1)
    judge.begun(HERE.host)
    judge.ended(HERE.host)
    assert judge.judge_untrusted(hello(), HERE, 0.0) is None
    assert isinstance(judge.judge_untrusted(hello(), Address("192.0.2.9", 1), 0.0), Admitted)
    judge.gone(HERE.host)
    assert isinstance(judge.judge_untrusted(hello(), HERE, 0.0), Admitted)


def test_the_last_places_are_taken_by_nobody() -> None:
    judge = admission(max_half_open=2)
    judge.begun("192.0.2.8")
    judge.begun("192.0.2.9")
    assert judge.judge_untrusted(hello(), HERE, 0.0) is None


def test_hosts_of_one_ipv6_subnet_count_as_one() -> None:
    assert host_group("2001:db8::1") == host_group("2001:db8::ffff:1") != host_group("2001:db8:0:1::1")
    assert host_group("fe80::1%eth0") == host_group("fe80::2")
    assert host_group("192.0.2.1") == "192.0.2.1"


def test_one_node_at_a_relay_leaves_room_for_others_there() -> None:
    judge = admission(max_half_open_per_path=2)
    for _ in range(2):
        judge.begun("100::0:0:1")
    assert judge.judge_untrusted(hello(), Address("100::0:0:1", 1), 0.0) is None
    assert isinstance(judge.judge_untrusted(hello(), Address("100::0:0:2", 1), 0.0), Admitted)
    assert judge._stats.refused_full == 1
    for _ in range(2):
        judge.ended("100::0:0:1")
        judge.gone("100::0:0:1")
    assert not judge._handshakes


def test_a_datagram_size_that_cannot_work_is_refused() -> None:
    for size in (1_199, 65_000):
        with pytest.raises(ValueError, match="not within"):
            QuicConfig(loopback_datagram_bytes=size)


@given(st.binary(max_size=64), st.sampled_from([b"\0\0\0\0", b"\0\0\0\1", b"\1\2\3\4"]))
def test_nothing_that_arrives_raises(head: bytes, version: bytes) -> None:
    data = bytes([0xC0 | (head[0] if head else 0)]) + version + head
    for whole in (data + bytes(1_200), data + b"\xff" * 1_200, data + random.Random(1).randbytes(1_200)):
        verdict = admission(retry_above_half_open=0).judge_untrusted(whole, HERE, 0.0)
        assert verdict is None or (isinstance(verdict, bytes) and len(verdict) <= len(whole))
