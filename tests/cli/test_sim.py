"""`atmo sim`: what it prints, how it ends, and what it refuses."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest

from atmo.sim import plot
from atmo.sim.scenarios import BUILT_IN, OF_PACKETS
from atmo.sim.world import World
from atmo.version import __version__
from tests.cli.conftest import Atmo

SMALL = ("--nodes", "6", "--duration", "5")

BROKEN = """
from dataclasses import dataclass
from atmo.sim.scenario import Promise, Scenario

@dataclass(frozen=True, kw_only=True)
class Broken(Scenario):
    name = "broken"
    summary = "fails"
    promise = Promise(liveness={"never": "cannot be", "after": "is not reached"})

    def play(self, stage):
        stage.build()
        stage.check("never", False, "it is not so", "n1", "n2")
        stage.world.fail("the end", "n3")
"""


class Terminal(io.StringIO):
    """A stream that is a terminal."""

    def isatty(self) -> bool:
        return True


def test_scenarios_are_listed(atmo: Atmo) -> None:
    listed = atmo("sim", "list")
    assert listed.code == 0
    assert [line.split()[0] for line in listed.out.splitlines()[1:]] == [*BUILT_IN, *OF_PACKETS]
    found = json.loads(atmo("sim", "list", "--json").out)
    assert list(found) == [*BUILT_IN, *OF_PACKETS]
    assert set(found["churn"]) == {"summary", "safety", "liveness", "figures", "settings"}


def test_a_narrow_terminal_shows_the_whole_list(atmo: Atmo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", terminal := Terminal())
    monkeypatch.setenv("COLUMNS", "40")
    assert atmo("sim", "list").code == 0
    lines = terminal.getvalue().splitlines()
    assert all(len(line) <= 40 for line in lines[1:])
    words = " ".join(terminal.getvalue().split())
    assert all(kind.summary in words for kind in (*BUILT_IN.values(), *OF_PACKETS.values()))


def test_a_run_prints_a_table_or_one_object(atmo: Atmo) -> None:
    shown = atmo("sim", "run", "join-storm", *SMALL)
    assert shown.code == 0
    assert "everyone_is_linked" in shown.out
    assert "digest " in shown.out
    assert shown.err == ""
    found = json.loads(atmo("sim", "run", "join-storm", *SMALL, "--seed", "1", "--json").out)
    assert list(found) == ["scenario", "nodes", "seed", "simulated_s", "wall_s", "digest", "checks", "figures"]
    assert f"digest {found['digest']}" in shown.out
    assert all(found["checks"].values())
    other = json.loads(atmo("sim", "run", "join-storm", *SMALL, "--seed", "2", "--json").out)
    assert other["digest"] != found["digest"]


def test_a_failed_check_prints_all_that_is_needed_to_see_it_again(atmo: Atmo, tmp_path: Path) -> None:
    path = tmp_path / "broken.py"
    path.write_text(BROKEN)
    ended = atmo("sim", "run", path, "--nodes", "4", "--seed", "9", "--json")
    assert ended.code == 1
    assert json.loads(ended.out)["checks"] == {"never": False, "after": False}
    lines = ended.err.splitlines()
    assert lines[0] == "error: never: it is not so (at 0.080 s, seed 9, nodes n1, n2)"
    assert lines[1] == "error: safety: the end (at 0.080 s, seed 9, nodes n3)"
    assert lines[2] == "error: after: unknown, the run ended before (seed 9)"
    assert lines[3] == f"replay: atmo sim run {path} --nodes 4 --seed 9"


def test_a_trace_is_replayed_and_shown(atmo: Atmo, tmp_path: Path) -> None:
    path = tmp_path / "run.trace"
    ran = atmo("sim", "run", "join-storm", *SMALL, "--trace", path)
    again = atmo("sim", "replay", path)
    assert again.code == 0
    assert again.out.splitlines()[-1] == ran.out.splitlines()[-1]
    assert "The same as the recorded run" in again.err
    shown = atmo("sim", "replay", path, "--show", "--node", "n3", "--since", "1", "--until", "3")
    assert shown.code == 0
    assert shown.out
    assert all("n3" in line and 1 <= float(line.split()[0]) <= 3 for line in shown.out.splitlines())


def test_a_trace_is_shown_as_json_and_an_unknown_node_is_an_error(atmo: Atmo, tmp_path: Path) -> None:
    path = tmp_path / "run.trace"
    atmo("sim", "run", "join-storm", *SMALL, "--trace", path)
    shown = atmo("sim", "replay", path, "--show", "--node", "n3", "--until", "1", "--json")
    found = [json.loads(line) for line in shown.out.splitlines()]
    assert list(found[0]) == ["time_s", "kind", "node", "other", "detail", "size"]
    assert all("n3" in (entry["node"], entry["other"]) for entry in found)
    missing = atmo("sim", "replay", path, "--show", "--node", "n77")
    assert (missing.code, missing.out) == (2, "")
    assert missing.err == "error: Nothing in this trace happened to n77.\n"
    quiet = atmo("sim", "replay", path, "--show", "--node", "n3", "--since", "1000")
    assert (quiet.code, quiet.out, quiet.err) == (0, "", "")


def test_a_replay_that_differs_says_where(atmo: Atmo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "run.trace"
    atmo("sim", "run", "join-storm", *SMALL, "--trace", path)
    usual = World.crash
    monkeypatch.setattr(World, "now", lambda self, node: World_now(self, node))
    assert usual is World.crash
    ended = atmo("sim", "replay", path)
    assert ended.code == 1
    assert "differs from the recorded one, which says:" in ended.err
    assert f"Both are of Atmosphere {__version__}, but if the program or the scenario has changed" in ended.err


def World_now(world: World, node: object) -> object:  # noqa: N802
    from atmo.clock import Now

    return Now(world.loop.now, 1_750_000_000 + world.loop.now + 3_000.0)


def test_a_replay_of_a_failed_run_fails_again(atmo: Atmo, tmp_path: Path) -> None:
    own, path = tmp_path / "broken.py", tmp_path / "run.trace"
    own.write_text(BROKEN)
    assert atmo("sim", "run", own, "--nodes", "4", "--trace", path).code == 1
    ended = atmo("sim", "replay", path)
    assert ended.code == 1
    assert "it is not so" in ended.err
    assert "differs" not in ended.err
    assert ended.err.splitlines()[-1] == f"replay: atmo sim run {own} --nodes 4 --seed 1"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("run", "brodcast"), "broadcast"),
        (("run", "missing.py"), "missing.py"),
        (("run", "broadcast", "--seed", "x"), "--seed x is no whole number"),
        (("run", "broadcast", "--nodes", "many"), "--nodes many is no whole number"),
        (("run", "broadcast", "--nodes", "100000000"), "GiB"),
        (("run", "broadcast", "--nodes", "1"), "at least"),
        (("run", "broadcast", "--duration", "long"), "--duration long is no number"),
        (("run", "broadcast", "--duration", "-1"), "no time"),
        (("run", "broadcast", "--set", "loss"), "NAME=VALUE"),
        (("run", "broadcast", "--set", "lost=1"), "no setting 'lost'"),
        (("run", "broadcast", "--set", "loss=x"), "loss=x is no float"),
        (("run", "broadcast", "--set", "loss=2"), "loss is a share, from 0 to 1"),
        (("run", "broadcast", "--set", "nat=-0.1"), "nat is a share, from 0 to 1"),
        (("run", "broadcast", "--set", "skew_s=nan"), "skew_s is a number of seconds"),
        (("run", "broadcast", "--plot", "x.txt"), "x.txt"),
        (("replay", "missing.trace"), "missing.trace"),
        (("replay", "missing.trace", "--show"), "missing.trace"),
        (("replay", "run.trace", "--node", "n3"), "--node, --since and --until go with --show"),
        (("replay", "run.trace", "--show", "--since", "3", "--until", "1"), "--since 3 is not before --until 1"),
        (("replay", "run.trace", "--show", "--since", "nan"), "--since nan is not before"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(atmo: Atmo, words: tuple[str, ...], says: str) -> None:
    ended = atmo("sim", *words)
    assert ended.code == 2
    assert ended.out == ""
    (line,) = ended.err.splitlines()
    assert line.startswith("error: ")
    assert says in line


def test_a_trace_that_cannot_be_written_ends_the_run_before_it_begins(atmo: Atmo, tmp_path: Path) -> None:
    ended = atmo("sim", "run", "join-storm", *SMALL, "--trace", tmp_path / "missing" / "run.trace")
    assert ended.code == 2
    assert "cannot be written" in ended.err


def test_an_interrupted_run_ends_quietly_and_its_trace_can_be_read(
    atmo: Atmo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run.trace"
    usual = World.run

    def interrupted(world: World, seconds: float) -> None:
        if world.loop.now > 2.0:
            raise KeyboardInterrupt
        usual(world, seconds)

    monkeypatch.setattr(World, "run", interrupted)
    ended = atmo("sim", "run", "churn", *SMALL, "--trace", path)
    assert ended.code == 130
    assert ended.err == ""
    monkeypatch.undo()
    shown = atmo("sim", "replay", path, "--show")
    assert shown.code == 0
    assert shown.out
    again = atmo("sim", "replay", path)
    assert "it was stopped early" in again.err


def test_a_terminal_shows_how_far_a_run_is(atmo: Atmo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, terminal = tmp_path / "run.trace", Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    assert atmo("sim", "run", "join-storm", *SMALL, "--trace", path).code == 0
    assert "join-storm, 6 nodes" in terminal.getvalue()
    assert "s simulated" in terminal.getvalue()
    assert atmo("sim", "replay", path).code == 0
    assert "replay" in terminal.getvalue()


def test_a_plot_is_drawn_after_the_run(atmo: Atmo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[tuple[str, Path]] = []
    monkeypatch.setattr(plot, "check_plot", lambda path: None)
    monkeypatch.setattr(plot, "draw", lambda report, path: drawn.append((report.scenario, path)))
    assert atmo("sim", "run", "join-storm", *SMALL, "--plot", tmp_path / "x.png").code == 0
    assert drawn == [("join-storm", tmp_path / "x.png")]


def test_a_bug_shows_where_it_is_and_how_to_meet_it_again(atmo: Atmo, tmp_path: Path) -> None:
    path = tmp_path / "broken.py"
    more = BROKEN.replace('"is not reached"', '"is not reached", "later": "nor this"')
    path.write_text(more.replace('stage.world.fail("the end", "n3")', "[][1]"))
    ended = atmo("sim", "run", path, "--nodes", "4")
    assert ended.code == 1
    first, *stack, bug, unknown, again = ended.err.splitlines()
    assert first.startswith("Traceback")
    assert any(f'File "{path}", line 14, in play' in line for line in stack)
    where = f"in {path}, line 14, in play (at 0.080 s, seed 1, 4 nodes)"
    assert bug == f"error: bug: IndexError: list index out of range, {where}"
    assert unknown == "error: after, later: unknown, the run ended before (seed 1)"
    assert again == f"replay: atmo sim run {path} --nodes 4 --seed 1"
    assert ended.err.count("IndexError") == 1
    shown = dict(line.split() for line in ended.out.splitlines()[1:4])
    assert shown == {"never": "FAILED", "after": "unknown", "later": "unknown"}
