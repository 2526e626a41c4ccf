"""Runs a real llama-server on loopback, the one inside `xllamacpp`, and prints its URL: `python -m ... MODEL [embed]`.

It is llama.cpp's own HTTP server with its own routes; nothing of it is imitated.
"""

from __future__ import annotations

import sys

import xllamacpp


def main() -> None:
    params = xllamacpp.CommonParams()
    params.model.path = sys.argv[1]
    params.model_alias = {"tiny"}
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.n_ctx = 512
    params.n_parallel = 1
    params.cpuparams.n_threads = 1
    params.warmup = False
    params.embedding = sys.argv[2:] == ["embed"]
    server = xllamacpp.Server(params)
    print(server.listening_address, flush=True)
    # Until whoever started it goes away.
    sys.stdin.read()


if __name__ == "__main__":
    main()
