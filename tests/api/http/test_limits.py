from __future__ import annotations

import pytest

from atmo.api.http.limits import Connections, HttpLimits, group_of


@pytest.mark.parametrize(
    ("address", "group"),
    [
        ("127.0.0.1", ""),
        ("127.8.8.8", ""),
        ("::1", ""),
        ("::ffff:127.0.0.1", ""),
        ("", ""),
        ("/run/atmo.sock", ""),
        ("192.168.1.5", "192.168.1.5"),
        ("::ffff:192.168.1.5", "192.168.1.5"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
    ],
)
def test_who_is_one(address: str, group: str) -> None:
    assert group_of(address) == group


def full(connections: Connections, address: str, count: int, *, busy: bool = False) -> list[int]:
    """Lets so many in that all of them find room."""
    numbers = []
    for _ in range(count):
        number, victim = connections.admit(address)
        assert number is not None
        assert victim is None
        numbers.append(number)
        if busy:
            connections.busy(number)
    return numbers


LIMITS = HttpLimits(connections=10, own_connections=4, connections_per_address=3)


def test_an_address_has_its_share_and_loses_its_own_idle_ones() -> None:
    connections = Connections(LIMITS)
    first, second, third = full(connections, "10.0.0.1", 3)
    connections.busy(first)
    assert connections.admit("10.0.0.1")[1] == second
    connections.busy(third)
    fourth, victim = connections.admit("10.0.0.1")
    assert fourth is not None
    assert victim is not None
    connections.busy(fourth)
    assert connections.admit("10.0.0.1") == (None, None)
    connections.idle(first)
    assert connections.admit("10.0.0.1")[1] == first
    assert len(connections) == 3


def test_others_leave_room_for_this_machine() -> None:
    connections = Connections(LIMITS)
    idle = full(connections, "10.0.0.1", 3)
    full(connections, "10.0.0.2", 3, busy=True)
    assert connections.admit("10.0.0.3")[1] == idle[0]
    full(connections, "127.0.0.1", 4)
    assert len(connections) == 10


def test_where_all_is_full_the_longest_idle_one_goes() -> None:
    connections = Connections(LIMITS)
    own = full(connections, "127.0.0.1", 10)
    connections.busy(own[0])
    connections.idle(own[0])
    assert connections.admit("127.0.0.1")[1] == own[1]
    assert connections.admit("10.0.0.1")[1] == own[2]
    for number in own:
        connections.busy(number)
    newest, victim = connections.admit("::1")
    assert newest is not None
    assert victim is not None
    assert victim not in own


def test_where_all_are_busy_the_next_one_is_refused() -> None:
    connections = Connections(LIMITS)
    own = full(connections, "127.0.0.1", 10, busy=True)
    assert connections.admit("127.0.0.1") == (None, None)
    assert connections.admit("10.0.0.1") == (None, None)
    connections.close(own[3])
    connections.close(own[3])
    full(connections, "10.0.0.1", 1)


def test_this_machine_does_not_lose_what_is_its_own_to_others() -> None:
    connections = Connections(LIMITS)
    for host in (1, 2):
        full(connections, f"10.0.0.{host}", 3, busy=True)
    full(connections, "127.0.0.1", 4)
    assert connections.admit("10.0.0.9") == (None, None)


def test_a_closed_connection_is_told_nothing_more() -> None:
    connections = Connections(LIMITS, most=2)
    first, _ = full(connections, "10.0.0.1", 1)[0], None
    connections.close(first)
    connections.idle(first)
    connections.busy(first)
    assert len(connections) == 0


def test_a_body_has_to_go_on() -> None:
    limits = HttpLimits(body_grace_s=10.0, body_bytes_s=1_000.0)
    assert limits.body_deadline_s(0) == 10.0
    assert limits.body_deadline_s(5_000) == 15.0
