"""Plays scenarios as CI does: a fixed set of seeds of each, then fresh seeds for a while, some of them twice.

`python -m simulations.ci --nodes 300 --seeds 1,2 --fresh 120` runs `atmo sim run ... --json` in processes of their own,
one for each core. A part of all runs is played again under another PYTHONHASHSEED and must give the same digest. Every
run that fails prints the command that plays it again; the exit code is 1 then.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from random import Random, SystemRandom
from typing import Any

from atmo.sim.scenarios import BUILT_IN

OTHER_HASH_SEED = "4711"

SHORTER_S = {"broadcast": 20, "churn": 40, "index-lookup": 30, "eclipse": 15, "routing-load": 10}
"""Virtual seconds of the main act here, where the scenario's own length would make CI wait for minutes."""

SMALLER = {"model-swarm": ("--nodes", "81", "--set", "model_mib=128", "--set", "most=1.7")}
"""Settings of scenarios that take minutes at the size of the others, in place of theirs. The shorter a download, the
more of it are its beginning and its end."""


@dataclass(frozen=True, slots=True)
class Run:
    """One run in a process of its own.

    Attributes:
        scenario: Its name.
        nodes: How many.
        seed: Of everything random.
        twice: Whether it is played again under another hash seed.
    """

    scenario: str
    nodes: int
    seed: int
    twice: bool

    @property
    def words(self) -> list[str]:
        """The command without the program."""
        size = SMALLER.get(self.scenario, ("--nodes", str(self.nodes)))
        words = ["sim", "run", self.scenario, *size, "--seed", str(self.seed), "--json"]
        shorter_s = SHORTER_S.get(self.scenario)
        return words if shorter_s is None else [*words, "--duration", str(shorter_s)]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a run.

    Attributes:
        run: Which.
        problem: Why it failed, empty where it did not.
        wall_s: Seconds that it took.
        late: It was still under way when time was up, and does not count.
    """

    run: Run
    problem: str
    wall_s: float
    late: bool = False


def play(run: Run, give_up_at: float) -> Outcome:
    """Plays a run, twice where it is to be."""
    began = time.monotonic()
    digests = []
    for hash_seed in ("0", OTHER_HASH_SEED)[: 1 + run.twice]:
        try:
            ended = subprocess.run(
                [sys.executable, "-m", "atmo", *run.words],
                env={**os.environ, "PYTHONHASHSEED": hash_seed},
                capture_output=True,
                text=True,
                check=False,
                timeout=max(0.1, give_up_at - time.monotonic()),
            )
        except subprocess.TimeoutExpired:
            return Outcome(run, "", time.monotonic() - began, late=True)
        if ended.returncode != 0:
            return Outcome(run, ended.stderr.strip() or f"exit code {ended.returncode}", time.monotonic() - began)
        found: dict[str, Any] = json.loads(ended.stdout)
        digests.append(found["digest"])
    if len(set(digests)) != 1:
        problem = f"another PYTHONHASHSEED gives another digest: {' and '.join(digests)}"
        return Outcome(run, f"{problem}\nreplay: atmo {' '.join(run.words)}", time.monotonic() - began)
    return Outcome(run, "", time.monotonic() - began)


def fixed(scenarios: Sequence[str], nodes: int, seeds: Sequence[int], again: float) -> list[Run]:
    """Returns the runs that are the same each time; at least one of them is played twice."""
    draw = Random("fixed")
    runs = [Run(name, nodes, seed, draw.random() < again) for seed in seeds for name in scenarios]
    if runs and not any(run.twice for run in runs):
        runs[0] = Run(runs[0].scenario, nodes, runs[0].seed, True)
    return runs


def fresh(scenarios: Sequence[str], nodes: int, again: float, until: float) -> Iterator[Run]:
    """Yields runs with new seeds until time is up."""
    draw = SystemRandom()
    while True:
        for name in draw.sample(list(scenarios), len(scenarios)):
            if time.monotonic() >= until:
                return
            yield Run(name, nodes, draw.randrange(1, 10**9), draw.random() < again)


def tell(outcome: Outcome) -> None:
    """Prints one line for a run, and why it failed."""
    run = outcome.run
    state = "late" if outcome.late else "FAILED" if outcome.problem else "ok"
    twice = " twice" if run.twice else ""
    print(f"{run.scenario:<16} seed {run.seed:<10} {outcome.wall_s:6.1f} s  {state}{twice}", flush=True)
    if outcome.problem:
        print(outcome.problem, flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Plays all runs; returns the exit code."""
    parser = argparse.ArgumentParser(prog="simulations.ci", description="Plays scenarios as CI does.")
    parser.add_argument("--nodes", type=int, default=300)
    parser.add_argument("--seeds", default="1,2", help="the fixed ones, such as 1,2,3")
    parser.add_argument("--fresh", type=float, default=120.0, metavar="SECONDS", help="how long to play fresh seeds")
    parser.add_argument("--again", type=float, default=0.05, metavar="SHARE", help="runs that are played twice")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--scenarios", default=",".join(BUILT_IN))
    chosen = parser.parse_args(arguments)
    names = [name for name in chosen.scenarios.split(",") if name]
    seeds = [int(seed) for seed in chosen.seeds.split(",") if seed]
    failed = late = 0
    never = time.monotonic() + 10**6
    with ThreadPoolExecutor(chosen.jobs) as pool:
        for future in as_completed(
            [pool.submit(play, run, never) for run in fixed(names, chosen.nodes, seeds, chosen.again)]
        ):
            tell(future.result())
            failed += bool(future.result().problem)
        until = time.monotonic() + chosen.fresh
        waiting = fresh(names, chosen.nodes, chosen.again, until)
        under_way = [pool.submit(play, run, until) for run, _ in zip(waiting, range(chosen.jobs), strict=False)]
        while under_way:
            outcome = under_way.pop(0).result()
            tell(outcome)
            failed += bool(outcome.problem)
            late += outcome.late
            if (run := next(waiting, None)) is not None:
                under_way.append(pool.submit(play, run, until))
    print(f"{failed} failed" + (f", {late} were cut short by the end of time" if late else ""))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
