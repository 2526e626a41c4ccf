"""Kills a process at random moments of what it does to a store, and looks each time what is left.

A child is forked for each round, does one thing (import, pull, garbage collection, verification with repair, removal,
eviction), and gets SIGKILL after a random time. Then the store must open, every model that was whole must be here and
verify, nothing half may be taken for whole, nothing may lie about, and the audit log must tell what is here.

The seed decides everything but the machine's own speed, on which depends what a kill meets.

`http` attacks a node of its own instead (`torture_http`), while others ask it something.
"""

from __future__ import annotations

import argparse
import logging
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from contextlib import suppress
from pathlib import Path
from random import Random, SystemRandom

import torture_attack
import torture_node
from torture_store import ACTIONS, Broken, Torture, Trial

ROUNDS = 200
WARM_UP = 3
"""Rounds of each action that are not killed: they tell how long one takes."""

BEYOND = 1.5
"""Kills come within this many times the usual time, so that some come too late."""


def main(arguments: list[str]) -> int:
    options = parse(arguments)
    seed = options.seed if options.seed is not None else SystemRandom().randrange(1_000_000)
    folder = Path(tempfile.mkdtemp(prefix="torture-", dir=options.folder))
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    logging.disable(logging.WARNING)  # that something was damaged is what this is about
    kept = False
    try:
        if options.what == "http":
            torture_node.run(folder, options.rounds or 1)
            return 0
        rounds = options.rounds or ROUNDS
        print(f"tools/torture store --rounds {rounds} --seed {seed}, in {folder}", flush=True)
        run(folder, rounds, seed, options.quiet)
    except (Broken, torture_attack.Broken) as error:
        kept = True
        print(f"BROKEN: {error}\nWhat is left of it is kept: {folder}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        return 130
    finally:
        if not kept:
            shutil.rmtree(folder, ignore_errors=True)
    return 0


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tools/torture", description=(__doc__ or "").split("\n\n", maxsplit=1)[0])
    parser.add_argument("what", choices=["store", "http"], help="what is put to the test")
    help_rounds = f"kills, or attacks of each kind [default: {ROUNDS}; 1 for http]"
    parser.add_argument("--rounds", type=positive, metavar="N", help=help_rounds)
    parser.add_argument("--seed", type=int, metavar="S", help="of everything that is drawn [default: a new one]")
    parser.add_argument("--folder", type=Path, metavar="DIR", help="where, such as on another file system")
    parser.add_argument("--quiet", action="store_true", help="print no progress")
    return parser.parse_args(arguments)


def positive(text: str) -> int:
    if not text.isdigit() or not 0 < int(text) <= 1_000_000:
        raise argparse.ArgumentTypeError(f"{text} is not a number of rounds")
    return int(text)


def run(folder: Path, rounds: int, seed: int, quiet: bool) -> None:
    random = Random(seed)
    torture = Torture(folder, random)
    usual = {kind: warm_up(torture, kind) for kind in ACTIONS}
    counts: Counter[tuple[str, str]] = Counter()
    started = time.monotonic()
    for number in range(1, rounds + 1):
        trial = torture.prepare(random.choice(ACTIONS))
        killed = kill(trial, random.uniform(0, BEYOND * usual[trial.kind]))
        done = torture.check(trial)
        counts[trial.kind, "rounds"] += 1
        counts[trial.kind, "killed"] += killed
        counts[trial.kind, "done"] += done
        if not quiet and number % 10 == 0:
            print(f"{number:>6} of {rounds} kills, {time.monotonic() - started:.0f} s", flush=True)
    print(f"\n{'ACTION':<8}{'ROUNDS':>8}{'KILLED':>8}{'DONE':>8}{'USUAL':>10}")
    for kind in ACTIONS:
        figures = [counts[kind, what] for what in ("rounds", "killed", "done")]
        print(f"{kind:<8}" + "".join(f"{figure:>8}" for figure in figures) + f"{usual[kind] * 1e3:>7.0f} ms")
    print(f"\nNothing was lost in {rounds} rounds; seed {seed}, {time.monotonic() - started:.0f} s.")


def warm_up(torture: Torture, kind: str) -> float:
    """Returns how many seconds an action takes that nobody kills."""
    took: list[float] = []
    while len(took) < WARM_UP:
        trial = torture.prepare(kind if len(torture.held) > 1 else "pull")
        before = time.monotonic()
        kill(trial, None)
        if trial.kind == kind:
            took.append(time.monotonic() - before)
        torture.check(trial)
    return min(took)


def kill(trial: Trial, after_s: float | None) -> bool:
    """Runs an action in a child and kills it after a time, or never; says whether that came in time.

    Raises:
        Broken: The child failed by itself.
    """
    child = os.fork()
    if child == 0:
        act(trial)
    try:
        if after_s is not None:
            time.sleep(after_s)
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
    except BaseException:
        with suppress(ProcessLookupError, ChildProcessError):  # it has ended and was waited for
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        raise
    if os.WIFEXITED(status) and os.WEXITSTATUS(status):
        raise Broken(f"{trial.kind} failed by itself, see above")
    return os.WIFSIGNALED(status)


def act(trial: Trial) -> None:
    """Does the action and ends the process, whatever happens."""
    code = 1
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent is told, too, and kills
        trial.run()
        code = 0
    except KeyboardInterrupt:
        pass
    except BaseException:  # noqa: BLE001 - a child must never return into its parent's code
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
