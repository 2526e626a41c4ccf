"""The mesh scenario: joining, an advert, a partition, a revocation and a crash, with checks at every second."""

from __future__ import annotations

import pytest

from atmo.sim.world import CheckFailed
from simulations import mesh
from simulations.mesh import MeshRun, MeshScenario


@pytest.mark.parametrize(("nodes", "seed"), [(20, "1"), (8, "2"), (8, "3")])
def test_nodes_through_their_life(nodes: int, seed: str) -> None:
    report = MeshRun(MeshScenario(nodes=nodes, seed=seed)).run()
    assert all(report.checks.values())
    assert list(report.checks) == ["join", "advert", "split", "revoke", "crash"]


def test_a_partition_longer_than_any_record_lives_heals() -> None:
    report = MeshRun(MeshScenario(nodes=8, partition_s=600.0, encode=True)).run()
    assert report.figures["simulated_s"] > 600


def test_the_same_seed_gives_the_same_digest() -> None:
    digests = [MeshRun(MeshScenario(nodes=6, seed="5")).run().digest for _ in range(2)]
    assert digests[0] == digests[1]


def test_a_limit_that_is_not_met_is_reported_with_the_seed() -> None:
    with pytest.raises(CheckFailed, match="seed '1'"):
        MeshRun(MeshScenario(nodes=6, linked_s=0.0)).run()


def test_the_command_prints_figures(capsys: pytest.CaptureFixture[str]) -> None:
    assert mesh.main(["--nodes", "5", "--seed", "3", "--partition", "20"]) == 0
    printed = capsys.readouterr().out
    assert "split_s" in printed
    assert "digest " in printed


def test_the_command_says_how_to_replay_a_failure(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: MeshRun) -> float:
        self.world.fail("broken on purpose")
        return 0.0

    monkeypatch.setattr(MeshRun, "join", fail)
    assert mesh.main(["--nodes", "5", "--seed", "9"]) == 1
    assert "python -m simulations.mesh --nodes 5 --seed 9" in capsys.readouterr().out


def test_the_command_refuses_what_the_scenario_is_not_for() -> None:
    with pytest.raises(SystemExit) as caught:
        mesh.main(["--nodes", "5000"])
    assert caught.value.code == 2
