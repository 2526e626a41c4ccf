"""The size of a mesh decides how long records live and how far they go."""

from __future__ import annotations

from atmo.clock import Now
from atmo.peer.scale import MeshSize, ScaleConfig, is_large, lifetime_s

CONFIG = ScaleConfig(census=100)


def at(seconds: float) -> Now:
    return Now(seconds, 0.0)


def test_lifetimes_grow_with_what_is_renewed_within_bounds() -> None:
    assert lifetime_s(CONFIG, 0) == CONFIG.lifetime_least_s
    assert lifetime_s(CONFIG, 1_000_000) == int(3 * 1_000_000 / CONFIG.renewal_bytes_s)
    assert lifetime_s(CONFIG, 10**12) == CONFIG.lifetime_most_s


def test_a_mesh_near_the_limit_does_not_flap() -> None:
    assert not is_large(CONFIG, 100, False)
    assert is_large(CONFIG, 101, False)
    assert is_large(CONFIG, 90, True)
    assert not is_large(CONFIG, 80, True)


def test_a_newcomer_believes_the_median_of_its_neighbours_until_it_can_count() -> None:
    size = MeshSize(CONFIG, lambda: 3, lambda: 0)
    assert size.members() == 3
    assert not size.claim(at(0), 0)
    for claim in (10_000, 9_000, 5):
        assert size.claim(at(1), claim)
    assert size.members() == 9_000
    assert size.look(at(1))
    assert size.large
    assert not size.claim(at(500), 7)
    assert (size.look(at(500)), size.large) == (True, False)
    assert not size.look(at(501))
    assert size.members() == 3


def test_no_more_claims_than_are_needed_are_kept() -> None:
    size = MeshSize(CONFIG, lambda: 1, lambda: 0)
    assert [size.claim(at(0), 50) for _ in range(10)] == [True] * 9 + [False]


def test_a_large_mesh_is_counted_by_the_index() -> None:
    size = MeshSize(CONFIG, lambda: 40, lambda: 5_000)
    assert not size.look(at(0)), "small until somebody says otherwise"
    size.claim(at(0), 5_000)
    assert size.look(at(0))
    assert not size.look(at(1_000))
    assert size.members() == 5_000
