from __future__ import annotations

import pytest

from atmo.gateway.askers import BY_ROLE, Askers, NodeLimits
from atmo.identity import NodeId
from tests.gateway.world import node_id

A, B = node_id(1), node_id(2)


def askers(most: int = 8, everybody: NodeLimits = NodeLimits(2, 1.0, 4), **roles: tuple[str, ...]) -> Askers:
    """Returns askers among whom node A has the roles `a`, and node B the roles `b`."""

    def standing(node: NodeId) -> tuple[str, ...]:
        return roles.get("a" if node == A else "b", ())

    by_role = {"gateway": NodeLimits(6, 10.0, 20), "free": NodeLimits(1, 0.0)}
    return Askers(most, 1_000, everybody, by_role, standing)


def test_the_more_generous_of_several_roles_counts() -> None:
    some = askers(a=("edge", "gateway"), b=("gateway", "free"))
    assert some.limits(A) == NodeLimits(6, 10.0, 20)
    assert some.limits(B) == NodeLimits(6, 0.0, 2_000.0)
    assert askers(a=("free",)).limits(A) == NodeLimits(1, 0.0), "a role may ask less than those without one"
    assert askers().limits(A) == NodeLimits(2, 1.0, 4)
    assert set(BY_ROLE) == {"admin", "gateway"}


def test_a_node_runs_so_many_at_once() -> None:
    some = askers()
    with some.served(A), some.served(A):
        refusal = some.refusal(0.0, A)
        assert refusal is not None
        assert (refusal.status, refusal.code, refusal.retry_s) == (429, "busy", 1.0)
        assert some.refusal(0.0, B) is None
    assert some.refusal(0.0, A) is None


def test_all_together_run_so_many_at_once() -> None:
    some = askers(most=1)
    with some.served(A):
        refusal = some.refusal(0.0, B)
        assert refusal is not None
        assert refusal.code == "busy"


def test_a_node_sends_so_many_in_a_time() -> None:
    some = askers(b=("gateway",))
    assert [some.refusal(0.0, A) is None for _ in range(5)] == [True] * 4 + [False]
    refusal = some.refusal(0.0, A)
    assert refusal is not None
    assert (refusal.status, refusal.code) == (429, "rate_limit_exceeded")
    assert refusal.retry_s == pytest.approx(1.0)
    assert [some.refusal(0.0, B) is None for _ in range(21)] == [True] * 20 + [False]
    assert some.refusal(1.5, A) is None


def test_what_is_refused_for_too_many_at_once_is_not_counted_in_the_rate() -> None:
    some = askers()
    with some.served(A), some.served(A):
        for _ in range(10):
            assert some.refusal(0.0, A) is not None
    assert [some.refusal(0.0, A) is None for _ in range(5)] == [True] * 4 + [False]


def test_a_role_counts_from_the_moment_it_is_given() -> None:
    roles: list[str] = []
    some = Askers(8, 1_000, NodeLimits(1), {"gateway": NodeLimits(2)}, lambda node: roles)
    with some.served(A):
        assert some.refusal(0.0, A) is not None
        roles.append("gateway")
        assert some.refusal(0.0, A) is None
