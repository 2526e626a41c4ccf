"""A mesh of node processes on loopback for `swarm.py`: holders of models, and askers that pull them again and again."""

from __future__ import annotations

import os
import shutil
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from _swarm_child import Child

HOLDERS = 4
_SCRIPT = Path(__file__).with_name("_swarm_node.py")


class Mesh:
    """Four holders and the askers.

    Args:
        stack: Ends the processes.
        folder: For the homes.

    Attributes:
        holders: The first of them founded the mesh and imports models.
    """

    def __init__(self, stack: ExitStack, folder: Path) -> None:
        self._stack = stack
        self._folder = folder
        self.holders = [self._start(f"holder{number}", "clear") for number in range(HOLDERS)]
        self.holders[0].ask("create")
        for holder in self.holders[1:]:
            self._join(holder)

    def hold(self, file: Path, name: str, holders: int) -> Path:
        """Makes a file a model of the first holders; returns where the first of them has it."""
        told = self.holders[0].ask("imports", path=str(file), name=name)
        for number, holder in enumerate(self.holders[1:holders], 1):
            holder.ask("await_holders", name=name, count=number)
            holder.ask("pull", name=name)
        return Path(told["path"])

    def asker(self, name: str, mode: str) -> Child:
        """Starts a node that holds nothing; `mode` is `sealed` or `clear`."""
        asker = self._start(name, mode)
        self._join(asker)
        return asker

    def restart(self, name: str, mode: str) -> Child:
        """Starts a node again that was killed."""
        return self._start(name, mode)

    def forget(self, name: str) -> None:
        """Deletes the home of a node that was killed."""
        shutil.rmtree(self._folder / name)

    def pull(self, asker: Child, name: str, holders: int) -> dict[str, Any]:
        """Pulls a model and removes it; tells of the asker and of the first holder."""
        asker.ask("await_holders", name=name, count=holders)
        os.sync()
        before, began = self.holders[0].ask("state"), time.perf_counter()
        told = asker.ask("pull", name=name)
        taken, after = time.perf_counter() - began, self.holders[0].ask("state")
        asker.ask("remove", name=name)
        told["holder_cpu"] = (after["cpu_s"] - before["cpu_s"]) / taken
        told["holder_peak_mb"] = after["peak_mb"]
        return told

    def served(self) -> int:
        """Returns how many chunks the holders have sent since they started."""
        return sum(holder.ask("state")["chunks"] for holder in self.holders)

    def _start(self, name: str, mode: str) -> Child:
        child = Child([sys.executable, str(_SCRIPT), str(self._folder / name), name, mode])
        self._stack.callback(child.kill)
        child.hear()
        return child

    def _join(self, child: Child) -> None:
        child.ask("join", code=self.holders[0].ask("invite")["code"])
