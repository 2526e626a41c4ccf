"""Scenarios in the middle of a download: the path changes, a relay dies."""

from __future__ import annotations

import itertools
import json
import os
import signal
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

from natlab_lab.machine import Machine, Public, stop
from natlab_lab.matrix import FAULTS, INDIRECT, Conditions, Result, bring_up, figures, make_pair, open_world
from natlab_lab.net import Lab
from natlab_lab.shell import wait

CHANGES = ("opened", "rebound", "readdressed", "blocked")
"""`opened`: UDP is let through where it was not, so that the download goes from the relay to a direct path. `rebound`:
a NAT gives the socket another port. `readdressed`: a machine gets another address, and another port outside, as in
another network. `blocked`: UDP is let through no more, so that it goes back to the relay. Each begins where the one
before ends."""

AT = 0.25
"""Share of the download after which it happens."""
PULL_S = 300.0
PATH_S = 60.0
STALL_S = 2.0
"""Aim for the longest time without progress."""
MODEL = "ballast"


def write_model(path: Path, size: int) -> None:
    """Writes a safetensors file of random bytes."""
    shape = {"ballast": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}
    header = json.dumps(shape).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + os.urandom(size))


class Pull:
    """A download under way.

    Args:
        machine: Pulls.
    """

    def __init__(self, machine: Machine) -> None:
        self._marks: list[tuple[float, int]] = []
        self._total = 0
        self._changed = 0.0
        self._future: Future[dict[str, Any]] = machine.inside.start(
            machine.client.job, "pull", {"spec": MODEL, "trust": True}, self._on_progress
        )

    def _on_progress(self, progress: Any) -> None:
        if progress["phase"] == "downloading" and progress["bytes_total"]:
            self._total = progress["bytes_total"]
            if not self._marks or progress["bytes_done"] > self._marks[-1][1]:
                self._marks.append((time.monotonic(), progress["bytes_done"]))

    def wait_for_share(self, share: float) -> None:
        """Returns when so much has arrived.

        Raises:
            RuntimeError: It ends before, or takes too long.
        """
        wait(lambda: self._future.done() or self._share() >= share, PULL_S, f"{share:.0%} of the model", 0.02)
        self._changed = time.monotonic()

    def _share(self) -> float:
        return self._marks[-1][1] / self._total if self._marks else 0.0

    def finish(self, result: Result) -> None:
        """Waits for the end, and fills in what came of it."""
        began = self._marks[0][0] if self._marks else time.monotonic()
        try:
            self._future.result(PULL_S)
            result["failed"] = False
        except FutureTimeout:
            result["error"] = f"not done after {PULL_S:.0f} s, {self._share():.0%} are here"
        except FAULTS as error:
            result["error"] = str(error)
        now = time.monotonic()
        result["seconds"] = round(now - began, 2)
        longest, at_change = stalls(self._marks, self._changed, now if result["failed"] else None)
        result["stall_s"], result["stall_at_change_s"] = round(longest, 2), round(at_change, 2)


def stalls(marks: Sequence[tuple[float, int]], changed: float, until: float | None) -> tuple[float, float]:
    """Returns the longest time without progress, of all and of what ended after the change.

    Args:
        marks: When there were how many bytes.
        changed: When the change happened.
        until: When the download was given up, None where it was done.
    """
    times = [moment for moment, _ in marks] + ([] if until is None else [until])
    gaps = [(later - before, later) for before, later in itertools.pairwise(times)]
    after = [gap for gap, end in gaps if end > changed]
    return max((gap for gap, _ in gaps), default=0.0), max(after, default=0.0)


def share_model(folder: Path, holder: Machine, other: Machine, size_mb: int) -> None:
    """Has a machine import a model, and waits until the other one knows of it."""
    file = folder / f"{MODEL}.safetensors"
    if not file.exists():
        write_model(file, size_mb * 1_000_000)
    fields = {"path": str(file), "name": MODEL, "version": "1.0.0"}
    holder.inside.call(holder.client.import_model, fields, lambda progress: None)

    def known() -> bool:
        return any(row["name"] == MODEL for row in other.inside.call(other.client.models, "mesh"))

    wait(known, PATH_S, f"{other.host.name} knows the model")


# --- the path changes -------------------------------------------------------------------------------------------------


def download(conditions: Conditions, out: TextIO) -> dict[str, Any]:
    """Pulls a model again and again, and changes the path in the middle, in turn in each of the four ways."""
    results: list[Result] = []
    with open_world(conditions) as (lab, public, folder):
        pair = make_pair(lab, public, folder, ("port", "port"))
        try:
            change = _Changes(lab, public, folder, pair, conditions)
            for number in range(conditions.tries):
                results.append(change.play(CHANGES[number % len(CHANGES)]))
                print(_line(results[-1]), file=out, flush=True)
        finally:
            for machine in pair:
                machine.close()
    return _told(results)


class _Changes:
    """The two machines, anna who holds the model and bert who pulls it, and what happens to them."""

    def __init__(
        self, lab: Lab, public: Public, folder: Path, pair: tuple[Machine, Machine], conditions: Conditions
    ) -> None:
        self._lab, self._public, self._folder = lab, public, folder
        self._pair = pair
        self._size_mb = conditions.size_mb
        self._number = 0
        self._cut = False
        self._up = self._founded = False

    def play(self, change: str) -> Result:
        """Plays one download."""
        _, bert = self._pair
        self._number += 1
        result: Result = {"change": change, "failed": True}
        try:
            self._prepare(direct=change != "opened")
            result["path_before"] = self._path()
            pull = Pull(bert)
            pull.wait_for_share(AT)
            getattr(self, f"_{change}")(self._pair[self._number // len(CHANGES) % 2])
            pull.finish(result)
            result["path_after"] = self._path()
            bert.inside.call(bert.client.remove, MODEL)
        except FAULTS as error:
            result["failed"], result["error"] = True, str(error)
            self._up = False
        return result

    def _path(self) -> str:
        anna, bert = self._pair
        return bert.path_to(anna)

    def _prepare(self, *, direct: bool) -> None:
        """Brings both up where they are not, or where they do not get to the path that is to be changed."""
        self._set_cut(not direct)
        if self._up:
            with suppress(RuntimeError):
                self._wait_for_path(direct=direct)
                return
        for machine in self._pair:
            machine.stop()
        bring_up(self._public, self._pair, held=False, first=not self._founded)
        self._up = self._founded = True
        share_model(self._folder, *self._pair, self._size_mb)
        self._wait_for_path(direct=direct)

    def _wait_for_path(self, *, direct: bool) -> None:
        anna, bert = self._pair

        def good() -> bool:
            path = self._path()
            if not path:
                bert.watch("ask", anna)
            return bool(path) and (path not in INDIRECT) is direct

        wait(good, PATH_S, "a direct path" if direct else "a path by the relay")

    def _set_cut(self, cut: bool) -> None:
        if cut != self._cut:
            (self._lab.cut_udp if cut else self._lab.allow_udp)(self._pair[1].host)
            self._cut = cut

    def _opened(self, _machine: Machine) -> None:
        self._set_cut(False)

    def _blocked(self, _machine: Machine) -> None:
        self._set_cut(True)

    def _rebound(self, machine: Machine) -> None:
        self._lab.rebind(machine.host)

    def _readdressed(self, machine: Machine) -> None:
        machine.host = self._lab.readdress(machine.host, 10 + self._number % 200)
        self._lab.rebind(machine.host)  # another network has another NAT


def _line(result: Result) -> str:
    way = f"{result.get('path_before') or '-'} -> {result.get('path_after') or '-'}"
    if result["failed"]:
        return f"{result['change']:>12}  {way:<20}  FAILED: {result.get('error', '')}"
    stalls = f"longest without progress {result['stall_s']:.2f} s"
    return f"{result['change']:>12}  {way:<20}  {result['seconds']:.1f} s, {stalls}"


def _told(results: list[Result]) -> dict[str, Any]:
    failed = sum(result["failed"] for result in results)
    stalls = [result.get("stall_s") for result in results if not result["failed"]]
    worst = max((stall for stall in stalls if stall is not None), default=None)
    spread = figures(stalls)
    text = f"{failed} of {len(results)} downloads failed; longest time without progress: "
    text += "-" if worst is None else f"median {spread['median']} s, worst {worst} s (aim: under {STALL_S:.0f} s)"
    good = failed == 0 and worst is not None and worst < STALL_S
    return {"good": good, "told": text, "tries": results, "failed": failed, "stall_s": spread | {"worst": worst}}


# --- a relay dies -----------------------------------------------------------------------------------------------------


def relay_dies(conditions: Conditions, out: TextIO) -> dict[str, Any]:
    """Two machines without UDP and two relays: the relay that carries a download is killed in the middle."""
    results: list[Result] = []
    for _ in range(conditions.tries):
        result: Result = {"change": "relay dies", "failed": True}
        with open_world(conditions, relays=2) as (lab, public, folder):
            pair = make_pair(lab, public, folder, ("blocked", "blocked"))
            try:
                _kill_relay(public, folder, pair, conditions.size_mb, result)
            except FAULTS as error:
                result["failed"], result["error"] = True, str(error)
            finally:
                for machine in pair:
                    machine.close()
        results.append(result)
        print(_line(result), file=out, flush=True)
    told = _told(results)
    return told | {"good": told["failed"] == 0}


def _kill_relay(public: Public, folder: Path, pair: tuple[Machine, Machine], size_mb: int, result: Result) -> None:
    anna, bert = pair
    bring_up(public, pair, held=False)
    share_model(folder, anna, bert, size_mb)
    wait(lambda: bert.path_to(anna), PATH_S, "a path")
    result["path_before"] = bert.path_to(anna)
    home = anna.relay()
    number = next(number for number, url in enumerate(public.urls) if home.startswith(url))
    pull = Pull(bert)
    pull.wait_for_share(AT)
    stop(public.relays[number], signal.SIGKILL)
    pull.finish(result)
    result["path_after"] = bert.path_to(anna)
    result["relays"] = [machine.relay() for machine in pair]


Scenario = Callable[[Conditions, TextIO], dict[str, Any]]
