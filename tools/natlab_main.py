"""Real `atmo node` and `atmo relay` processes behind NATs of all kinds: who reaches whom, by which path, how soon.

tools/natlab                                all pairs of all kinds
tools/natlab --kinds port,symmetric         some of them
tools/natlab --pairs port:port --tries 20   one pair, many times
tools/natlab --pairs blocked:blocked --delay-ms 50
tools/natlab --scenario download --tries 12
tools/natlab --json
NATLAB_LOGS=DIR tools/natlab ...            keeps what the processes said; NATLAB_LOG_LEVEL=debug for more of it
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from natlab_lab.leftovers import remove_leftovers, why_not
from natlab_lab.matrix import FAULTS, SUMMARY_HEAD, Conditions, Result, play, summary, summary_line
from natlab_lab.rules import KINDS
from natlab_lab.scenarios import SCENARIOS

TOOLS = {"ip": "iproute2", "nft": "nftables", "sysctl": "procps", "conntrack": "conntrack"}


def missing() -> str:
    """Returns why the lab cannot be made here, nothing where it can."""
    if os.geteuid():
        return "it needs root, to make network namespaces"
    lacking = {name: package for name, package in TOOLS.items() if shutil.which(name) is None}
    if lacking:
        return f"{', '.join(lacking)} is missing: apt-get install {' '.join(lacking.values())}"
    return why_not()


def chosen(arguments: argparse.Namespace) -> list[tuple[str, str]]:
    """Returns the pairs to play.

    Raises:
        ValueError: A kind that there is not.
    """
    if arguments.pairs:
        pairs = [tuple(pair.split(":")) for pair in arguments.pairs.split(",")]
    else:
        pairs = list(itertools.combinations_with_replacement(arguments.kinds.split(","), 2))
    for pair in pairs:
        if len(pair) != 2 or not set(pair) <= set(KINDS):
            raise ValueError(f"{':'.join(pair)} is no pair of {', '.join(KINDS)}")
    return [(str(one), str(two)) for one, two in pairs]


def parse(arguments: Sequence[str] | None) -> tuple[argparse.Namespace, list[tuple[str, str]]]:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        prog="tools/natlab", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--kinds", default=",".join(KINDS), help=f"of {','.join(KINDS)}; all pairs of them are played")
    parser.add_argument("--pairs", help="such as port:symmetric,port:port, instead")
    parser.add_argument("--scenario", choices=sorted(SCENARIOS), help="something else than pairs")
    parser.add_argument("--tries", type=int, default=1, help="how often each pair or scenario is played")
    parser.add_argument("--fresh", action="store_true", help="start both nodes anew for each try of a pair")
    parser.add_argument("--both", action="store_true", help="both nodes of a pair dial in the same moment")
    parser.add_argument("--delay-ms", type=float, default=0.0, help="round trip between two public addresses")
    parser.add_argument("--loss", type=float, default=0.0, help="share of packets that the public wire loses")
    parser.add_argument("--size-mb", type=int, default=100, help="of the model that scenarios pull")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args(arguments)
    try:
        return options, chosen(options)
    except ValueError as error:
        parser.error(str(error))


def play_pairs(pairs: Sequence[tuple[str, str]], conditions: Conditions, as_json: bool) -> bool:
    """Plays the pairs and prints the matrix; says whether all connected."""

    def told(result: Result) -> None:
        print(line_of(result), file=sys.stderr if as_json else sys.stdout, flush=True)

    results: list[Result] = []
    by_pair: list[dict[str, Any]] = []
    for pair in pairs:
        try:
            own = play(pair, conditions, told)
        except FAULTS as error:
            own = [{"a": pair[0], "b": pair[1], "connected": False, "path": "", "first_byte_s": None, "direct_s": None}]
            own[0]["error"] = str(error)
            told(own[0])
        results += own
        by_pair.append({"a": pair[0], "b": pair[1], **summary(own)})
    whole = summary(results)
    if as_json:
        print(json.dumps({"pairs": results, "by_pair": by_pair, "summary": whole}, indent=2))
    else:
        print("\n" + SUMMARY_HEAD + "    median / 95th percentile")
        for row in by_pair:
            print(summary_line(f"{row['a']:>10} - {row['b']}", row))
        print(summary_line("all", whole))
    return bool(whole["connected"] == whole["tries"])


def line_of(result: Result) -> str:
    """Returns one try for people."""
    direct = f"direct after {result['direct_s']:.2f} s" if result["direct_s"] is not None else "not direct"
    first = f"first byte after {result['first_byte_s']:.3f} s, " if result["first_byte_s"] is not None else ""
    told = result.get("error") or f"{result['path'] or 'no path'}, {first}{direct}"
    return f"{result['a']:>9} - {result['b']:<9}  {told}"


def end(number: int, _frame: FrameType | None) -> None:
    """Turns SIGTERM into an exception, so that the lab is removed."""
    raise SystemExit(128 + number)


def main(arguments: Sequence[str] | None = None) -> int:
    """Plays what is asked for; returns 0 where all went well, 1 where not, 2 where the lab cannot be made here."""
    options, pairs = parse(arguments)
    if why := missing():
        print(f"tools/natlab: {why}", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, end)
    for name in remove_leftovers():
        print(f"removed {name}, left behind by a run that was killed", file=sys.stderr)
    if shutil.which("turnserver") is None:
        print("turnserver is missing, so the lab has no STUN server: apt-get install coturn", file=sys.stderr)
    conditions = Conditions(options.tries, options.fresh, options.both, options.delay_ms, options.loss, options.size_mb)
    try:
        if options.scenario:
            told = SCENARIOS[options.scenario](conditions, sys.stderr if options.json else sys.stdout)
            print(json.dumps(told, indent=2) if options.json else "\n" + told["told"])
            return 0 if told["good"] else 1
        return 0 if play_pairs(pairs, conditions, options.json) else 1
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


if __name__ == "__main__":
    sys.exit(main())
