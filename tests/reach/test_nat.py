"""What is concluded of a NAT from what servers say that they see."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atmo.clock import Now
from atmo.reach.nat import Nat, NatConfig, NatReport, alike
from atmo.reach.prediction import ADDRESS, ENDPOINT, MAPPINGS, NONE, PORT, UNKNOWN
from atmo.wire.address import Address

OWN = Address("192.168.1.2", 7)
OWN6 = Address("2600::2", 7)
A, A_TOO = Address("11.0.0.1", 3478), Address("11.0.0.1", 3479)
B, B_TOO = Address("12.0.0.1", 3478), Address("12.0.0.1", 3479)
C, D = Address("13.0.0.1", 3478), Address("14.0.0.1", 3478)
LAN, LAN_TOO = Address("192.168.1.1", 3478), Address("192.168.1.9", 3478)
SIX, SIX_TOO = Address("2601::1", 3478), Address("2602::1", 3478)
X, Y, Z, W = (Address("9.9.9.9", port) for port in (101, 102, 103, 104))
PERIOD_S, CONFIG = 600.0, NatConfig()


def now(mono: float) -> Now:
    return Now(mono, 1e9 + mono)


def told(*answers: tuple[Address, Address], nat: Nat | None = None, at: float = 10.0) -> NatReport:
    nat = nat or Nat(CONFIG, (OWN, OWN6))
    for number, (server, mapped) in enumerate(answers):
        assert nat.saw(now(at + number), server, mapped)
    return nat.report(now(at + len(answers)))


@pytest.mark.parametrize(
    ("answers", "mapping", "public"),
    [
        ([], UNKNOWN, ()),
        ([(A, X)], UNKNOWN, (X,)),
        ([(A, OWN)], NONE, (OWN,)),
        ([(A, X), (A_TOO, X)], UNKNOWN, (X,)),
        ([(A, X), (A_TOO, Y)], PORT, (Y, X)),
        ([(A, X), (B, X)], ENDPOINT, (X,)),
        ([(A, X), (B, Y)], PORT, (Y, X)),
        ([(A, X), (B, Y), (B_TOO, Y)], ADDRESS, (Y, X)),
        ([(A, X), (B, Y), (B_TOO, Z)], PORT, (Z, Y, X)),
        ([(A, X), (A_TOO, X), (B, Y), (B_TOO, Z)], PORT, (Z, Y, X)),  # two that contradict each other: the worse one
        ([(A, X), (A_TOO, X), (B, X), (B_TOO, X)], ENDPOINT, (X,)),
        ([(A, OWN), (B, OWN)], NONE, (OWN,)),
        # liars
        ([(A, X), (B, X), (C, W)], ENDPOINT, (X,)),
        ([(A, OWN), (B, X), (C, OWN)], NONE, (OWN,)),
        ([(A, X), (B, X), (C, W), (D, OWN)], PORT, (OWN, W, X)),
        ([(A, X), (B, Y), (C, Z), (D, W)], PORT, (W, Z, Y, X)),
        # a host has one vote, whatever number of ports it has
        ([(A, X), (Address(A.host, 1), X), (Address(A.host, 2), X), (B, Y), (C, Y)], ENDPOINT, (Y,)),
        # servers of the own network count where there are no others
        ([(LAN, OWN), (A, X)], UNKNOWN, (X,)),
        ([(LAN, OWN), (LAN_TOO, OWN), (A, X), (B, X)], ENDPOINT, (X,)),
        ([(LAN, OWN), (LAN_TOO, OWN)], NONE, (OWN,)),
        # IPv6
        ([(SIX, OWN6), (SIX_TOO, OWN6)], NONE, (OWN6,)),
        ([(SIX, OWN6), (A, X), (B, X)], ENDPOINT, (X, OWN6)),
    ],
)
def test_mapping(answers: list[tuple[Address, Address]], mapping: str, public: tuple[Address, ...]) -> None:
    report = told(*answers)
    assert (report.mapping, report.public) == (mapping, public)
    assert report.filtering == UNKNOWN
    assert report.measured_at == (9.0 + len(answers) if answers else None)


def test_answers_of_another_time_are_not_compared() -> None:
    nat = Nat(CONFIG, (OWN,))
    told((A, X), (B, X), nat=nat)
    assert told((A, Y), (B, Y), nat=nat, at=700.0).mapping == ENDPOINT, "the router was restarted"
    assert told((A, Z), nat=nat, at=1_300.0) == NatReport(UNKNOWN, UNKNOWN, (Z,), 1_300.0), "only one has answered"
    assert told((C, Z), nat=nat, at=1_301.0).mapping == ENDPOINT


def test_one_answer_confirms_older_ones() -> None:
    nat = Nat(CONFIG, (OWN,))
    told((A, X), (B, X), (C, Y), nat=nat)
    assert told((A, X), nat=nat, at=700.0).mapping == ENDPOINT


def test_answers_are_forgotten() -> None:
    nat = Nat(CONFIG, (OWN,))
    told((A, X), (B, X), nat=nat)
    nat.filters(now(10.0), A, PORT)
    assert nat.report(now(10.0 + CONFIG.lifetime_s)).filtering == PORT
    assert nat.report(now(12.0 + CONFIG.lifetime_s)) == NatReport()


@pytest.mark.parametrize(
    ("server", "mapped"),
    [
        (A, Address("2600::1", 1)),
        (SIX, X),
        (A, Address("224.0.0.1", 1)),
        (A, Address("0.0.0.0", 1)),
        (A, Address("255.255.255.255", 1)),
        (A, Address("127.0.0.1", 1)),
        (A, Address("169.254.1.1", 1)),
        (SIX, Address("fe80::1", 1)),
        (SIX, Address("::1", 1)),
    ],
)
def test_what_no_server_can_see(server: Address, mapped: Address) -> None:
    nat = Nat(CONFIG, (OWN,))
    assert not nat.saw(now(0.0), server, mapped)
    assert nat.report(now(0.0)) == NatReport()


def test_this_machine_and_its_link_may_see_more() -> None:
    nat = Nat(CONFIG)
    assert nat.saw(now(0.0), Address("127.0.0.2", 1), Address("127.0.0.1", 1))
    assert nat.saw(now(0.0), Address("fe80::1%eth0", 1), Address("fe80::2", 1))


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        (A, B, True),
        (A, LAN, False),
        (LAN, LAN_TOO, True),
        (LAN, Address("127.0.0.1", 1), False),
        (Address("127.0.0.1", 1), Address("127.0.0.2", 1), True),
        (A, SIX, False),
        (A, Address("224.0.0.251", 5353), False),
        (LAN, Address("255.255.255.255", 1), False),
        (LAN, Address("169.254.0.1", 1), False),
    ],
)
def test_no_server_sends_a_node_where_it_would_not_go(one: Address, other: Address, expected: bool) -> None:
    assert alike(one, other) is expected


def test_filtering_by_most_votes_and_the_newest_of_equals() -> None:
    nat = Nat(CONFIG)
    nat.filters(now(0.0), A, PORT)
    assert nat.report(now(0.0)).filtering == PORT
    nat.filters(now(1.0), B, ENDPOINT)
    assert nat.report(now(1.0)).filtering == ENDPOINT, "the newest"
    nat.filters(now(2.0), C, PORT)
    assert nat.report(now(2.0)).filtering == PORT, "the most"
    nat.filters(now(3.0), A, ADDRESS)
    nat.filters(now(3.0), C, ADDRESS)
    assert nat.report(now(3.0)).filtering == ADDRESS, "each has changed its mind"
    nat.filters(now(4.0), SIX, ENDPOINT)
    assert nat.report(now(4.0)).filtering == ADDRESS
    assert told((SIX, OWN6), nat=nat).filtering == ENDPOINT
    assert told((A, X), nat=nat).filtering == ADDRESS


def test_when_to_measure() -> None:
    nat = Nat(CONFIG, (OWN,))
    assert nat.next_timer() == -math.inf
    waits = []
    at = 0.0
    for _ in range(9):
        nat.begin()
        assert nat.next_timer() == math.inf
        nat.end(now(at))
        waits.append(nat.next_timer() - at)
        at = nat.next_timer()
    assert waits == [5, 10, 20, 40, 80, 160, 320, 600, 600], "nobody answers"
    nat.begin()
    told((A, X), nat=nat, at=at)
    nat.end(now(at))
    assert nat.next_timer() == at + PERIOD_S
    nat.begin()
    nat.end(now(at))
    assert nat.next_timer() == at + CONFIG.retry_s
    nat.hurry(now(at))
    assert nat.next_timer() == at


def test_another_network() -> None:
    nat = Nat(CONFIG, (OWN,))
    nat.begin()
    told((A, X), (B, X), nat=nat)
    nat.filters(now(12.0), A, PORT)
    nat.end(now(12.0))
    assert not nat.network_changed(now(20.0), (OWN,))
    assert nat.report(now(20.0)).mapping == ENDPOINT
    assert nat.network_changed(now(20.0), (OWN6, OWN))
    assert nat.report(now(20.0)) == NatReport()
    assert nat.next_timer() == 20.0 + CONFIG.soon_s
    assert not nat.network_changed(now(20.0), (OWN, OWN6)), "their order does not count"


def test_a_change_during_a_measurement_is_not_lost() -> None:
    nat = Nat(CONFIG, (OWN,))
    nat.begin()
    nat.saw(now(1.0), A, X)
    assert nat.network_changed(now(2.0), (OWN6,))
    nat.end(now(3.0))
    assert nat.next_timer() == 2.0 + CONFIG.soon_s


HOSTS = st.sampled_from(["11.0.0.1", "11.0.0.2", "192.168.1.2", "127.0.0.1", "2600::1", "2600:0:0:1::1", "fe80::1%3"])
ADDRESSES = st.builds(Address, HOSTS, st.integers(1, 3))
INPUTS = st.one_of(
    st.tuples(st.just("saw"), ADDRESSES, ADDRESSES),
    st.tuples(st.just("filters"), ADDRESSES, st.sampled_from([ENDPOINT, ADDRESS, PORT])),
    st.tuples(st.just("changed"), st.lists(ADDRESSES, max_size=2)),
    st.tuples(st.just("begin")),
    st.tuples(st.just("end")),
    st.tuples(st.just("hurry")),
)


@given(st.lists(st.tuples(st.floats(0, 700), INPUTS), max_size=60))
def test_whatever_is_said_there_is_a_report(inputs: list[tuple[float, tuple[object, ...]]]) -> None:
    nat = Nat(NatConfig(observations=8, filterings=4))
    mono = 0.0
    for wait, (what, *args) in inputs:
        mono += wait
        match what:
            case "saw":
                nat.saw(now(mono), *args)  # type: ignore[arg-type]
            case "filters":
                nat.filters(now(mono), *args)  # type: ignore[arg-type]
            case "changed":
                nat.network_changed(now(mono), *args)  # type: ignore[arg-type]
            case "begin":
                nat.begin()
            case "end":
                nat.end(now(mono))
            case _:
                nat.hurry(now(mono))
        report = nat.report(now(mono))
        assert report.mapping in MAPPINGS
        assert report.filtering in (ENDPOINT, ADDRESS, PORT, UNKNOWN)
        assert len(report.public) <= 2 * CONFIG.public
        assert len(set(report.public)) == len(report.public)
        assert (report.measured_at is None) == (not report.public)
        assert report.mapping == UNKNOWN or report.public
        assert nat.report(now(mono)) == report


@given(st.lists(ADDRESSES.filter(lambda each: ":" not in each.host), min_size=3, max_size=3), st.permutations(range(3)))
def test_one_liar_of_three_changes_nothing(lies: list[Address], order: list[int]) -> None:
    honest = [(A, X), (B, X), (C, X)]
    for liar, lie in enumerate(lies):
        nat = Nat(CONFIG, (OWN,))
        for number in order:
            server, mapped = honest[number]
            nat.saw(now(1.0), server, lie if number == liar else mapped)
        report = nat.report(now(1.0))
        assert (report.mapping, report.public) == (ENDPOINT, (X,))


def test_bounds() -> None:
    nat = Nat(NatConfig(observations=2, filterings=2))
    told((A, X), (B, X), (C, X), nat=nat)
    nat.saw(now(200.0), D, Y)
    assert nat.report(now(200.0)).public == (Y,), "A's and B's have made room, C's is older"
    for server, behaviour in ((A, PORT), (B, ENDPOINT), (C, ADDRESS), (B, ADDRESS)):
        nat.filters(now(200.0), server, behaviour)
    assert nat.report(now(200.0)).filtering == ADDRESS
