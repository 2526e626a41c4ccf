"""The child's side of `atmo.backends.child`: sets its own limits, does the work, writes the result.

Imports nothing heavy before the limits stand.
"""

from __future__ import annotations

import json
import logging
import os
import resource
import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)

REQUEST, RESULT = "request.json", "result.json"
"""What the parent writes and what it reads, in the child's folder."""


class Refusal(Exception):
    """The work cannot be done for a reason that a person can read."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


def serve(work: Callable[[Mapping[str, Any], Path], dict[str, Any]]) -> None:
    """Runs `work(request, folder)` and writes what it returns, or why it failed, to the result file."""
    folder = Path(sys.argv[1])
    order = json.loads((folder / REQUEST).read_text())
    set_limits(order["limits"])
    # A library's warnings are for its developers; the person who waits gets errors.
    warnings.simplefilter("ignore")
    try:
        result = work(order["request"], folder)
    except Refusal as refusal:
        result = {"error": {"message": refusal.message, "hint": refusal.hint}}
    except MemoryError:
        result = {"error": {"kind": "memory"}}
    except Exception as error:
        log.exception("the work failed")
        # The loader of shared libraries says in its own words that the address space is full.
        full = isinstance(error, ImportError) and "map segment" in str(error)
        text = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        result = {"error": {"kind": "memory"} if full else {"message": text}}
    (folder / RESULT).write_text(json.dumps(result))
    sys.stderr.flush()
    # Nothing that was loaded gets to run code at exit.
    os._exit(0)


def set_limits(limits: Mapping[str, int]) -> None:
    """Limits this process: `memory` and `file` in bytes, and `cpu` in seconds where it is given."""
    wanted = [
        (resource.RLIMIT_AS, limits["memory"]),
        (resource.RLIMIT_FSIZE, limits["file"]),
        (resource.RLIMIT_NOFILE, 256),
        (resource.RLIMIT_CORE, 0),
    ]
    if "cpu" in limits:
        wanted.append((resource.RLIMIT_CPU, limits["cpu"]))
    for what, value in wanted:
        hard = resource.getrlimit(what)[1]
        most = value if hard == resource.RLIM_INFINITY else min(value, hard)
        try:
            resource.setrlimit(what, (most, most))
        except (ValueError, OSError) as error:
            # macOS refuses some limits; the deadline of the parent holds everywhere.
            log.warning("limit %s cannot be set: %s", what, error)
