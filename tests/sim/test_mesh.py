"""The mesh scenario: joining, an advert, a partition, a revocation and a crash, with checks at every second."""

from __future__ import annotations

from pathlib import Path

import pytest

from atmo.sim.runner import run_scenario
from atmo.sim.scenarios import find_scenario
from simulations import mesh
from simulations.mesh import MeshLife


@pytest.mark.parametrize(("nodes", "seed"), [(16, 1), (6, 2), (8, 3)])
def test_nodes_through_their_life(nodes: int, seed: int) -> None:
    report = run_scenario(MeshLife(nodes=nodes, seed=seed))
    assert report.ok, report.failures
    assert list(report.figures) == ["join_s", "advert_s", "split_s", "revoke_s", "crash_s"]


def test_a_partition_longer_than_any_record_lives_heals() -> None:
    report = run_scenario(MeshLife(nodes=6, duration_s=600.0, encode=True))
    assert report.ok, report.failures
    assert report.simulated_s > 600


def test_a_limit_that_is_not_met_is_reported() -> None:
    report = run_scenario(MeshLife(nodes=6, linked_s=0.0, join_gap_s=0.001))
    assert not report.checks["join"]


def test_the_file_is_one_that_a_user_could_have_written() -> None:
    assert find_scenario(str(Path(mesh.__file__))).name == "mesh"
