"""The process that runs one GGUF model: llama.cpp's own server, on a socket in the process's folder and nowhere else.

llama.cpp reads files that peers wrote and is C++, so it runs here and not in the node: within limits, without the
network, and where the system can do that, with no file but the model and its own folder.

The first line of its standard output says `{"ready": true}` or `{"error": "why not"}`. Its standard input ends when the
node does, and then it ends, too.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from atmo.backends.child_side import REQUEST, set_limits
from atmo.backends.sandbox import confine, leave_network

log = logging.getLogger(__name__)

SOCKET = "llama.sock"
"""In the process's folder. llama.cpp takes a host name that ends so for the path of a socket."""

ERRORS_ONLY = 1
"""Of llama.cpp's levels of log."""

NICENESS = 5
"""The node answers first. Source: guess."""

OOM_SCORE = "800"
"""Where memory runs out, the system ends this process rather than the node or what its owner does. Of 1,000."""


LOG_S = 0.3
"""llama.cpp writes its log in a thread of its own, a moment after it gave up. Source: guess."""


def main() -> None:
    """Loads the model that `request.json` names and serves it until the standard input ends."""
    folder = Path(sys.argv[1])
    order = json.loads((folder / REQUEST).read_text())
    set_limits(order["limits"])
    report = os.fdopen(os.dup(1), "w")
    # What llama.cpp prints is not the report.
    os.dup2(2, 1)
    with suppress(OSError):
        os.nice(NICENESS)
        Path("/proc/self/oom_score_adj").write_text(OOM_SCORE)
    try:
        server = _load(order["request"], folder)
    except (ImportError, RuntimeError, ValueError, MemoryError) as error:
        time.sleep(LOG_S)
        report.write(json.dumps({"error": " ".join(str(error).split())[:300] or type(error).__name__}) + "\n")
        report.flush()
        os._exit(1)
    report.write(json.dumps({"ready": True}) + "\n")
    report.flush()
    sys.stdin.buffer.read()
    del server
    # Nothing that was loaded gets to run code at exit, nor to wait for requests.
    os._exit(0)


def _load(request: Mapping[str, Any], folder: Path) -> object:
    import xllamacpp

    model = Path(request["model"])
    # Both want a process with one thread, so they come before llama.cpp starts its own.
    if not leave_network():
        log.warning("the system does not let this process leave the network")
    if not confine(folder, model):
        log.warning("the system does not keep files from this process")
    params = xllamacpp.CommonParams()
    params.model.path = str(model)
    params.hostnames = [str(folder / SOCKET)]
    params.n_parallel = request["slots"]
    params.n_ctx = request["context"] * request["slots"]
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = request["threads"]
    params.n_gpu_layers = 0
    # What is asked for is what there is: nothing is fitted to the memory that happens to be free.
    params.fit_params = False
    params.cache_ram_mib = 0
    params.verbosity = ERRORS_ONLY
    params.ui = False
    params.offline = True
    if request["embeds"]:
        # All tokens of a text are one batch.
        params.embedding = True
        params.n_batch = params.n_ubatch = request["context"]
    return xllamacpp.Server(params)


if __name__ == "__main__":
    main()
