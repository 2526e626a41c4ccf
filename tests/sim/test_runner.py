"""Making scenarios from what a person asks for, running them, and finding those of a user."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest

from atmo.sim import runner
from atmo.sim.replay import Comparison
from atmo.sim.report import CheckFailed, Report, percentile, share
from atmo.sim.runner import BadInput, make_scenario, memory_free, memory_needed, replay, replay_command, run_scenario
from atmo.sim.scenario import Promise, Scenario, Stage
from atmo.sim.scenarios import BUILT_IN, find_scenario

OWN = '''
from dataclasses import dataclass
from atmo.sim.scenario import Promise, Scenario

@dataclass(frozen=True, kw_only=True)
class Mine(Scenario):
    """Mine."""
    text: str = "x"
    name = "mine"
    summary = "does little"
    promise = Promise(liveness={"done": "it is done"})

    def play(self, stage):
        stage.build()
        stage.world.run(self.duration_s)
        stage.check("done", self.text == "x", "it is not done", "n0")
'''


def make(wanted: str = "broadcast", **given: object) -> Scenario:
    usual: dict[str, object] = {"nodes": None, "seed": None, "duration_s": None, "settings": {}}
    return make_scenario(wanted, **usual | given)  # type: ignore[arg-type]


def refused(wanted: str = "broadcast", **given: object) -> str:
    with pytest.raises(BadInput) as caught:
        make(wanted, **given)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_scenario_is_what_was_asked_for() -> None:
    usual = make()
    assert (usual.nodes, usual.seed) == (100, 1)
    other = make(nodes=7, seed=-3, duration_s=2.5, settings={"loss": "0.1", "encode": "true", "warm_ups": "3"})
    assert (other.nodes, other.seed, other.duration_s, other.loss, other.encode) == (7, -3, 2.5, 0.1, True)
    assert other.settings()["warm_ups"] == 3
    assert make(settings={"encode": "0"}).encode is False


def test_what_makes_no_sense_is_refused_in_one_sentence() -> None:
    assert "broadcast" in refused("brodcast")
    assert "loss" in refused(settings={"lost": "1"})
    assert "is no float" in refused(settings={"loss": "much"})
    assert "is no int" in refused(settings={"warm_ups": "0.5"})
    assert "is no bool" in refused(settings={"encode": "perhaps"})
    assert "at least 4" in refused(nodes=3)
    assert "no time" in refused(duration_s=0.0)
    assert "no time" in refused(duration_s=float("nan"))


def test_more_nodes_than_memory_allows_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    text = refused(nodes=10**9)
    assert "GiB" in text
    monkeypatch.setattr(runner, "memory_free", lambda: 2**30)
    text = refused(nodes=10**6)
    most = int(text.rpartition("at most ")[2].partition(" ")[0])
    assert memory_needed(make(nodes=4), most) <= 2**30 < memory_needed(make(nodes=4), most + 1)
    assert make(nodes=most).nodes == most


def test_free_memory_is_what_is_available_and_what_a_container_allows(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert 2**20 < memory_free() < 2**50
    numbers = {"/proc/meminfo": None, "/sys/fs/cgroup/memory.max": 1_000, "/sys/fs/cgroup/memory.current": 400}
    monkeypatch.setattr(runner, "_number", lambda path, *_: numbers[str(path)])
    assert memory_free() == 600
    numbers["/sys/fs/cgroup/memory.max"] = None
    assert memory_free() > 2**20
    monkeypatch.undo()
    assert runner._number(tmp_path / "missing") is None
    (tmp_path / "max").write_text("max\n")
    assert runner._number(tmp_path / "max") is None


def test_a_run_tells_what_came_out_and_the_same_seed_tells_the_same() -> None:
    seconds: list[float] = []
    scenario = make("join-storm", nodes=8, seed=5, duration_s=20)
    report, again = run_scenario(scenario, tick=seconds.append), run_scenario(scenario)
    assert report.ok
    assert len(seconds) > 10
    assert report.wall_s > 0
    found = report.as_json()
    assert list(found) == ["scenario", "nodes", "seed", "simulated_s", "wall_s", "digest", "checks", "figures"]
    assert found["checks"] == dict.fromkeys((*scenario.promise.safety, *scenario.promise.liveness), True)
    assert set(found["figures"]) == set(scenario.promise.figures)
    del found["wall_s"]
    other = again.as_json()
    del other["wall_s"]
    assert found == other
    assert run_scenario(make("join-storm", nodes=8, seed=6, duration_s=20)).digest != report.digest


def test_a_trace_is_played_again(tmp_path: Path) -> None:
    path = tmp_path / "run.trace"
    scenario = make("join-storm", nodes=6, seed=2, duration_s=5)
    report = run_scenario(scenario, trace=path)
    again, other, comparison = replay(path)
    assert again == scenario
    assert comparison.same
    assert other.digest == report.digest
    assert isinstance(comparison, Comparison)


def test_a_trace_of_nothing_that_can_be_played_is_refused(tmp_path: Path) -> None:
    own = tmp_path / "own.py"
    own.write_text(OWN)
    path = tmp_path / "run.trace"
    run_scenario(make(str(own), nodes=4, duration_s=1), str(own), trace=path)
    assert replay(path)[2].same
    own.write_text(OWN.replace("    text: str", "    words: str").replace("self.text", "self.words"))
    with pytest.raises(BadInput, match="text"):
        replay(path)
    own.unlink()
    with pytest.raises(BadInput, match=r"own\.py"):
        replay(path)


def test_scenarios_of_users_are_found_in_files(tmp_path: Path) -> None:
    own = tmp_path / "own.py"
    own.write_text(OWN)
    kind = find_scenario(str(own))
    assert kind.name == "mine"
    assert find_scenario(f"{own}:mine").name == "mine"
    own.write_text(OWN + OWN.replace("Mine", "Second").replace('"mine"', '"second"'))
    assert find_scenario(f"{own}:second").name == "second"
    assert f"{own}:mine" in refused(str(own))
    assert "holds mine, second" in refused(f"{own}:third")
    for without in ("x = 1\n", OWN.replace("def play", "def plays")):
        own.write_text(without)
        assert "holds no scenario" in refused(str(own))
    own.write_text("import nothing_of_this_name\n")
    assert "ModuleNotFoundError" in refused(str(own))
    own.write_text("def broken(:\n")
    assert "SyntaxError" in refused(str(own))
    assert "FileNotFoundError" in refused(str(tmp_path / "missing.py"))


def test_a_scenario_of_a_user_runs_and_its_failure_names_the_command(tmp_path: Path) -> None:
    own = tmp_path / "own.py"
    own.write_text(OWN)
    assert run_scenario(make(str(own), nodes=4, duration_s=1)).ok
    scenario = make(str(own), nodes=4, duration_s=1, settings={"text": "y"})
    report = run_scenario(scenario)
    assert not report.ok
    ((failure),) = report.failures
    assert (failure.check, failure.what, failure.nodes) == ("done", "it is not done", ("n0",))
    assert replay_command(scenario, str(own)) == (f"atmo sim run {own} --nodes 4 --seed 1 --duration 1 --set text=y")
    assert replay_command(make()) == "atmo sim run broadcast --nodes 100 --seed 1"


@dataclass(frozen=True, kw_only=True)
class Breaks(Scenario):
    """Breaks a safety check."""

    name: ClassVar = "breaks"
    summary: ClassVar = "breaks"
    promise: ClassVar = Promise(safety={"sound": "all is well"}, liveness={"later": "comes later"})

    def play(self, stage: Stage) -> None:
        def broken(world: object) -> None:
            raise CheckFailed("it broke", 1.0, "1", ("n1",))

        stage.sample("something", 1.0)
        stage.check("early", True, "")
        stage.check("early", False, "once is enough")
        stage.check("early", True, "")
        stage.world.checks.append(broken)
        stage.build(4)


def test_a_broken_safety_check_ends_the_run_and_nothing_after_it_holds() -> None:
    report = run_scenario(Breaks())
    assert report.checks == {"sound": False, "later": False, "early": False}
    assert [failure.check for failure in report.failures] == ["early", "safety"]
    assert report.unknown == ["later"]
    assert report.series == {"something": [(0.0, 1.0)]}


@dataclass(frozen=True, kw_only=True)
class Crashes(Breaks):
    """Runs into a bug."""

    def play(self, stage: Stage) -> None:
        stage.build(4)
        stage.world.later(stage.world.loop.now + 1.0, lambda: [][1])
        stage.world.run(2.0)


def test_a_bug_ends_the_run_and_nothing_is_known_of_any_check() -> None:
    report = run_scenario(Crashes())
    assert not any(report.checks.values())
    assert report.unknown == ["sound", "later"]
    ((failure),) = report.failures
    assert failure.check == "bug"
    line = Crashes.play.__code__.co_firstlineno + 2
    assert failure.what == f"IndexError: list index out of range, in {__file__}, line {line}, in <lambda>"
    assert failure.time_s == pytest.approx(1.08)
    assert report.traceback.startswith("Traceback")
    assert "IndexError" not in report.traceback


def test_shares_and_percentiles() -> None:
    assert (share(1, 2), share(0, 0)) == (0.5, 1.0)
    assert percentile([], 50) == 0.0
    values = [5.0, 1.0, 4.0, 2.0, 3.0]
    assert [percentile(values, percent) for percent in (0, 1, 20, 21, 50, 99, 100)] == [1, 1, 1, 2, 3, 5, 5]
    assert Report("x", 1, 1, figures={"a": 1, "b": 0.12345678}).as_json()["figures"] == {"a": 1, "b": 0.123457}


@pytest.mark.parametrize("name", BUILT_IN)
def test_every_scenario_says_what_it_promises(name: str) -> None:
    kind = BUILT_IN[name]
    assert kind.name == name
    assert kind.summary
    assert kind().length_s() > 0
    promise = kind.promise
    for said in (promise.safety, promise.liveness, promise.figures):
        assert said
        assert all(said.values()), "each says what it is"
