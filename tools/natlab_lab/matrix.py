"""Pairs of NAT kinds: who reaches whom, by which path, how soon.

Each pair has a lab of its own. Both nodes join the mesh of a public one and are held apart until they know each other
and are at their relay. Then they may meet, and one of them asks the other something over the connection that begins
with it. A further try ends that connection at both ends, and the NATs forget everything; or both nodes are started anew
with empty homes (`fresh`).
"""

from __future__ import annotations

import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from atmo.errors import AtmoError
from natlab_lab.leftovers import PREFIX
from natlab_lab.machine import Machine, Public, settle
from natlab_lab.net import Lab, open_lab
from natlab_lab.rules import possible

INDIRECT = ("", "relay", "forward")
DIRECT_S, HOPELESS_S = 20.0, 4.0
"""So long a direct path is waited for where there can be one, and where there cannot. Source: a node punches after 1,
4 and 14 s."""

SPOKEN_S, SPRAYED_S = 1.0, 9.0
"""Between two tries: until both have spoken to the hub again, so that NATs have mappings for it; and where ports are
guessed, until a node does so for the same other one again. Source: `atmo.net.spraying.REST_S`."""

Result = dict[str, Any]

FAULTS = (AtmoError, RuntimeError, OSError)
"""What goes wrong in a lab; told as the result."""


@dataclass(frozen=True, slots=True)
class Conditions:
    """How pairs are played.

    Attributes:
        tries: Of each pair.
        fresh: Both nodes are started anew for each try.
        both: Both may dial in the same moment.
        delay_ms, loss: See `natlab_lab.delay`.
        size_mb: Of the model that is pulled.
    """

    tries: int = 1
    fresh: bool = False
    both: bool = False
    delay_ms: float = 0.0
    loss: float = 0.0
    size_mb: int = 100


@contextmanager
def open_world(conditions: Conditions, relays: int = 1) -> Iterator[tuple[Lab, Public, Path]]:
    """Makes a lab with what is public, for a block; logs stay where `NATLAB_LOGS` says."""
    folder = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-"))
    try:
        with open_lab(conditions.delay_ms, conditions.loss) as lab:
            public = Public(lab, folder, relays)
            public.hub.start()
            try:
                yield lab, public, folder
            finally:
                public.close()
    finally:
        if keep := os.environ.get("NATLAB_LOGS"):
            Path(keep).mkdir(parents=True, exist_ok=True)
            for log in folder.glob("*.log"):
                shutil.copy(log, Path(keep) / f"{time.strftime('%H%M%S')}-{log.name}")
        shutil.rmtree(folder, ignore_errors=True)


def make_pair(
    lab: Lab, public: Public, folder: Path, kinds: tuple[str, str], models: bool = False
) -> tuple[Machine, Machine]:
    """Makes two machines behind NATs of two kinds, with a server of models beside each where asked for."""
    one = lab.host("anna", kinds[0])
    two = lab.beside("bert", one) if kinds == ("hairpin", "hairpin") else lab.host("bert", kinds[1])
    anna, bert = (
        Machine(host, folder, public.urls, public.stun, _models(host.name) if models else ()) for host in (one, two)
    )
    return anna, bert


def _models(name: str) -> tuple[str, str]:
    return f"chat-of-{name}", f"embed-of-{name}"


def bring_up(public: Public, pair: Sequence[Machine], *, held: bool = True, first: bool = True) -> None:
    """Starts two machines; returns when both are members, know each other and are at their relay."""
    for machine in pair:
        machine.start()
    if first:
        public.found()
    for machine in pair:
        machine.wait_until_ready()
    if held:
        pair[0].hold(pair[1])
        pair[1].hold(pair[0])
    for machine in pair:
        public.let_in(machine)
    settle(pair)


def play(kinds: tuple[str, str], conditions: Conditions, told: Callable[[Result], None]) -> list[Result]:
    """Plays a pair; tells each result as it comes, and returns all of them."""
    results: list[Result] = []
    with open_world(conditions) as (lab, public, folder):
        pair = make_pair(lab, public, folder, kinds)
        try:
            for number in range(conditions.tries):
                afresh = conditions.fresh or number == 0 or "error" in results[-1]
                result: Result = {"a": kinds[0], "b": kinds[1], "fresh": afresh}
                result |= {"connected": False, "path": "", "first_byte_s": None, "direct_s": None}
                try:
                    if afresh:
                        _begin_afresh(lab, public, pair, first=number == 0)
                    else:
                        _part(lab, pair, SPRAYED_S if "symmetric" in kinds else SPOKEN_S)
                    meet(pair, result, DIRECT_S if possible(*kinds) else HOPELESS_S, both=conditions.both)
                except FAULTS as error:
                    result["error"] = str(error)
                results.append(result)
                told(result)
        finally:
            for machine in pair:
                machine.close()
    return results


def _begin_afresh(lab: Lab, public: Public, pair: Sequence[Machine], *, first: bool) -> None:
    for machine in pair:
        machine.stop()
    for machine in pair:
        lab.forget_mappings(machine.host)
    bring_up(public, pair, first=first)


def _part(lab: Lab, pair: Sequence[Machine], rest_s: float) -> None:
    one, two = pair
    one.watch("part", two)
    two.watch("part", one)
    for machine in pair:
        lab.forget_mappings(machine.host)
    time.sleep(rest_s)
    settle(pair)


def meet(pair: Sequence[Machine], result: Result, direct_s: float, *, both: bool = False) -> None:
    """Lets a pair meet, and fills in what came of it.

    Args:
        pair: Whoever asks comes first.
        result: Gets path and times.
        direct_s: For a direct path.
        both: The other one may dial in the same moment; else it is let off the leash when it has answered.
    """
    one, two = pair
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(two.watch, "meet", one) if both else None
        asked = one.watch("ask", two)
    met = other.result() if other else two.watch("meet", one)
    began = min(asked["t"], met["t"])
    if "error" in asked:
        raise RuntimeError(asked["error"])
    result["connected"] = True
    result["first_byte_s"] = round(asked["t"] + asked["first_byte_s"] - began, 3)
    until = time.monotonic() + direct_s
    while (direct := _direct_since(one, two, began)) is None and time.monotonic() < until:
        time.sleep(0.05)
    if direct is not None:
        time.sleep(1.0)  # a punched path may become a better one
    result["path"], result["path_back"] = one.path_to(two), two.path_to(one)
    if direct is not None and result["path"] not in INDIRECT:
        result["direct_s"] = round(direct - began, 3)


def _direct_since(one: Machine, two: Machine, began: float) -> float | None:
    """Returns when what one sends to the other first took a direct path."""
    for event in one.watch("events"):
        new = event["event"] in ("ready", "moved") and event["node"] == two.id and event["t"] >= began
        if new and event["kind"] not in INDIRECT:
            return float(event["t"])
    return None


# --- figures ----------------------------------------------------------------------------------------------------------


def figures(values: Sequence[float | None]) -> dict[str, float | None]:
    """Returns median and 95th percentile of those that are there (nearest rank), None where none is."""
    known = sorted(value for value in values if value is not None)
    if not known:
        return {"median": None, "p95": None}
    rank = max(0, -(-95 * len(known) // 100) - 1)
    return {"median": round(statistics.median(known), 3), "p95": round(known[rank], 3)}


def summary(results: Sequence[Result]) -> dict[str, Any]:
    """Returns counts and times of results, of one pair or of all."""
    can = [result for result in results if possible(result["a"], result["b"])]
    return {
        "tries": len(results),
        "connected": sum(result["connected"] for result in results),
        "direct_possible": len(can),
        "direct": sum(result["path"] not in INDIRECT for result in can),
        "first_byte_s": figures([result["first_byte_s"] for result in results]),
        "direct_s": figures([result["direct_s"] for result in results]),
        "punched_s": figures([result["direct_s"] for result in results if result["path"] == "punched"]),
    }


def summary_line(name: str, of: dict[str, Any]) -> str:
    """Returns a summary for people."""

    def both(values: dict[str, float | None]) -> str:
        return "-" if values["median"] is None else f"{values['median']:.2f} / {values['p95']:.2f} s"

    direct = f"{of['direct']}/{of['direct_possible']}" if of["direct_possible"] else "-"
    connected = f"{of['connected']}/{of['tries']}"
    times = f"{both(of['first_byte_s']):>15}  {both(of['direct_s']):>15}  {both(of['punched_s']):>15}"
    return f"{name:<22} {connected:>9}  {direct:>7}  {times}"


SUMMARY_HEAD = (
    f"{'':<22} {'connected':>9}  {'direct':>7}  {'first byte':>15}  {'direct after':>15}  {'punched after':>15}"
)
