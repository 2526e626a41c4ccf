"""Every scenario that comes with the program, in small: its checks hold and its figures are what it promised."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from atmo.sim.report import Report
from atmo.sim.runner import run_scenario
from atmo.sim.scenario import Scenario
from atmo.sim.scenarios import BUILT_IN

SMALL: dict[str, dict[str, Any]] = {
    "join-storm": {"nodes": 12, "duration_s": 10.0},
    "broadcast": {"nodes": 10, "duration_s": 5.0, "settle_s": 10.0, "grace_s": 5.0, "redundant_most": 1.0},
    "churn": {"nodes": 10, "duration_s": 20.0, "session_s": 60.0, "settle_s": 10.0},
    "partition-heal": {"nodes": 8, "duration_s": 60.0, "settle_s": 10.0, "changes": 2},
    "mass-failure": {"nodes": 12, "duration_s": 5.0, "settle_s": 10.0, "warm_ups": 3},
    "index-lookup": {"nodes": 20, "census": 5, "duration_s": 5.0, "settle_s": 40.0, "models": 5, "holders": 3},
    "eclipse": {"nodes": 20, "census": 5, "duration_s": 5.0, "settle_s": 40.0, "models": 5, "malicious": 0.1},
    "model-rollout": {"nodes": 12, "model_mib": 2, "settle_s": 10.0, "restarts": 1, "duration_s": 200.0},
    "flash-crowd": {"nodes": 8, "model_mib": 4, "settle_s": 10.0, "duration_s": 100.0},
    "model-swarm": {"nodes": 21, "model_mib": 32, "settle_s": 10.0, "duration_s": 100.0, "most": 3.0},
    "routing-load": {"nodes": 12, "duration_s": 20.0, "settle_s": 10.0, "gateways": 0.2, "crash": 1},
}


def small(name: str, **given: Any) -> Scenario:
    return BUILT_IN[name](**SMALL[name] | given)


def test_each_one_is_here() -> None:
    assert list(SMALL) == list(BUILT_IN)


@pytest.mark.parametrize("name", SMALL)
def test_a_small_run_holds(name: str) -> None:
    report = run_scenario(small(name, seed=3))
    assert report.ok, report.failures
    promise = BUILT_IN[name].promise
    assert list(report.checks) == [*promise.safety, *promise.liveness]
    assert sorted(report.figures) == sorted(promise.figures)
    assert report.series, "there is something to plot"
    assert all(name.replace("_", "").isalnum() and name == name.lower() for name in report.figures)


@pytest.mark.parametrize("name", SMALL)
def test_another_hash_seed_gives_the_same_digest(name: str) -> None:
    words = f"from tests.sim.test_scenarios import *; print(run_scenario(small({name!r})).digest)"
    digests = [
        subprocess.run(
            [sys.executable, "-c", words], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        ).stdout
        for seed in ("0", "4711")
    ]
    assert digests[0] == digests[1] != ""


# --- checks that do not hold are told -----------------------------------------------------------------------------


def failed(name: str, **given: Any) -> Report:
    report = run_scenario(small(name, **given))
    assert not report.ok
    return report


def test_a_mesh_that_takes_too_long_is_told() -> None:
    report = failed("join-storm", one_piece_s=0.0, known_s=0.0)
    assert not report.checks["everyone_is_known"]


def test_a_slow_broadcast_is_told() -> None:
    assert not failed("broadcast", reach_s=0.001).checks["in_time"]


def test_a_heal_that_takes_too_long_is_told() -> None:
    assert not failed("partition-heal", heal_s=0.1).checks["state_is_equal"]


def test_a_crowd_that_does_not_help_is_told() -> None:
    assert not failed("flash-crowd", duration_s=0.5).checks["all_have_it"]


def test_requests_that_fail_are_told() -> None:
    assert not failed("routing-load", timeout_s=0.01, crash=2).checks["requests_are_answered"]
