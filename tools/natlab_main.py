"""Real `atmo node` and `atmo relay` processes behind NATs of all kinds: who reaches whom, by which path, how soon.

tools/natlab                                all pairs of all kinds
tools/natlab --kinds port,symmetric         some of them
tools/natlab --pairs port:port --tries 20   one pair, many times
tools/natlab --json
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from natlab_net import KINDS, Host, Lab, open_lab

RELAY_PORT = 11_452
START_S, JOIN_S, REACH_S, PUNCH_S = 60.0, 30.0, 25.0, 12.0
INDIRECT = ("", "relay", "forward")


class Machine:
    """A node in a host of the lab."""

    def __init__(self, host: Host, folder: Path, relay: str) -> None:
        self.host, self._home = host, folder / host.name
        self._log = (folder / f"{host.name}.log").open("w")
        flags = ["--name", host.name, "--log-level", "info", *(["--relay", relay] if relay else [])]
        self._process = subprocess.Popen(self._command("node", *flags), stdout=self._log, stderr=self._log)

    def _command(self, *arguments: str) -> list[str]:
        return self.host.command(sys.executable, "-m", "atmo", "--home", str(self._home), *arguments)

    def ask(self, *arguments: str) -> Any:
        """Runs a command of `atmo` with `--json` against this node; returns what it printed."""
        done = subprocess.run(
            self._command(*arguments, "--json"), capture_output=True, text=True, check=False, timeout=60
        )
        if done.returncode:
            raise RuntimeError(f"{self.host.name}: atmo {' '.join(arguments)}: {done.stderr.strip()}")
        return json.loads(done.stdout)

    def wait_until_ready(self) -> None:
        wait(lambda: (self._home / "run" / "node.json").exists(), START_S, f"{self.host.name} is ready")

    def path_to(self, name: str) -> str:
        """Returns the kind of path to another node, empty for none."""
        rows = self.ask("mesh", "nodes")
        return next((row["path"] for row in rows if row["name"] == name), "") or ""

    def stop(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()


def wait(condition: Callable[[], object], seconds: float, what: str) -> float:
    """Waits for something; returns how long it took.

    Raises:
        RuntimeError: It did not come.
    """
    began = time.monotonic()
    while not condition():
        if time.monotonic() - began > seconds:
            raise RuntimeError(f"not within {seconds:.0f} s: {what}")
        time.sleep(0.1)
    return time.monotonic() - began


def start_hub(lab: Lab, folder: Path) -> tuple[Machine, str, subprocess.Popen[bytes]]:
    """Starts a public node that founds the mesh, and a relay beside it."""
    host = lab.host("hub", "none")
    log = (folder / "relay.log").open("w")
    command = host.command(sys.executable, "-m", "atmo", "relay", "--listen", f"{host.address}:{RELAY_PORT}")
    relay = subprocess.Popen(command, stdout=log, stderr=log)
    url = f"ws://{host.address}:{RELAY_PORT}/"
    hub = Machine(host, folder, url)
    hub.wait_until_ready()
    hub.ask("mesh", "create", "lab")
    wait(lambda: str(hub.ask("status").get("relay")).startswith(url), START_S, "the hub is at the relay")
    return hub, url, relay


def play(kinds: tuple[str, str]) -> dict[str, Any]:
    """Plays one pair in a lab of its own."""
    result: dict[str, Any] = dict(zip("ab", kinds, strict=True)) | {"connected": False, "path": "", "direct_s": None}
    with tempfile.TemporaryDirectory(prefix="natlab-") as name, open_lab() as lab:
        folder = Path(name)
        hub, url, relay = start_hub(lab, folder)
        ends = [Machine(lab.host(who, kind), folder, url) for who, kind in zip(("anna", "bert"), kinds, strict=True)]
        try:
            for end in ends:
                end.wait_until_ready()
                code = hub.ask("mesh", "invite")["code"]
                end.ask("mesh", "join", code)
            one = ends[0]
            wait(lambda: any(row["name"] == "bert" for row in one.ask("mesh", "nodes")), JOIN_S, "anna knows bert")
            began = time.monotonic()
            one.ask("mesh", "topology")  # asks everyone, and so opens a connection to bert
            result["first_byte_s"] = round(time.monotonic() - began, 2)
            wait(lambda: one.path_to("bert"), REACH_S, "anna reaches bert")
            result["connected"] = True
            try:
                wait(lambda: one.path_to("bert") not in INDIRECT, PUNCH_S, "a direct path")
                result["direct_s"] = round(time.monotonic() - began, 2)
            except RuntimeError:
                pass  # by relay then
            result["path"] = one.path_to("bert")
        except RuntimeError as error:
            result["error"] = str(error)
            if keep := os.environ.get("NATLAB_LOGS"):
                shutil.copytree(folder, keep, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.sock", "store"))
        finally:
            for machine in (*ends, hub):
                machine.stop()
            relay.terminate()
            relay.wait()
    return result


def missing() -> str:
    """Returns why the lab cannot be made here, nothing where it can."""
    if os.geteuid():
        return "it needs root, to make network namespaces"
    lacking = [name for name in ("ip", "nft", "sysctl") if shutil.which(name) is None]
    return f"{', '.join(lacking)} is missing: apt-get install iproute2 nftables procps" if lacking else ""


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


def main(arguments: Sequence[str] | None = None) -> int:
    """Plays the pairs and prints the matrix."""
    parser = argparse.ArgumentParser(
        prog="tools/natlab", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--kinds", default=",".join(KINDS), help=f"of {','.join(KINDS)}; all pairs of them are played")
    parser.add_argument("--pairs", help="such as port:symmetric,port:port, instead")
    parser.add_argument("--tries", type=int, default=1, help="how often each pair is played")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args(arguments)
    try:
        pairs = chosen(options)
    except ValueError as error:
        parser.error(str(error))
    if why := missing():
        print(f"tools/natlab: {why}", file=sys.stderr)
        return 2
    results = []
    for pair in pairs:
        for _ in range(options.tries):
            results.append(play(pair))
            last = results[-1]
            direct = f"direct after {last['direct_s']} s" if last["direct_s"] is not None else "not direct"
            told = last.get("error") or f"{last['path']}, {direct}"
            print(f"{pair[0]:>9} - {pair[1]:<9}  {told}", file=sys.stderr if options.json else sys.stdout, flush=True)
    if options.json:
        print(json.dumps({"pairs": results}, indent=2))
    return 0 if all(result["connected"] for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
