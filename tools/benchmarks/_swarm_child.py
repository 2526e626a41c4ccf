"""Processes that `swarm.py` starts: told what to do by lines of JSON, and gone with the one that started them."""

from __future__ import annotations

import json
import select
import subprocess
import sys
from pathlib import Path
from typing import Any

ANSWER_S = 600.0
"""A child that has not answered by then has failed."""


class ChildFailed(Exception):
    """A child ended, or told of an error."""


class Child:
    """One process.

    Args:
        command: Its command line.
    """

    def __init__(self, command: list[str]) -> None:
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, process_group=0
        )  # a group of its own, so that Ctrl-C reaches the benchmark alone, which then ends its children
        self._name = " ".join(Path(part).name for part in command[1:3])

    def tell(self, do: str, **what: Any) -> None:
        """Tells it to do something; `hear` returns what comes of it."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"do": do, **what}) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise ChildFailed(f"{self._name} has ended") from None

    def hear(self) -> dict[str, Any]:
        """Waits for what it says."""
        assert self._process.stdout is not None
        if not select.select([self._process.stdout], [], [], ANSWER_S)[0]:
            raise ChildFailed(f"{self._name} has not answered within {ANSWER_S:.0f} s")
        line = self._process.stdout.readline()
        if not line:
            raise ChildFailed(f"{self._name} ended with {self._process.wait()}")
        told: dict[str, Any] = json.loads(line)
        if "error" in told:
            raise ChildFailed(f"{self._name}: {told['error']}")
        return told

    def ask(self, do: str, **what: Any) -> dict[str, Any]:
        """Tells it to do something and waits for what comes of it."""
        self.tell(do, **what)
        return self.hear()

    def kill(self) -> None:
        """Ends it at once."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            try:
                pipe.close()
            except BrokenPipeError:
                continue


def say(what: dict[str, Any]) -> None:
    """Called in a child: one line to the one that started it."""
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()
