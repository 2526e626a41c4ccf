"""`atmo node`: runs this machine's node until it is told to end."""

from __future__ import annotations

import gc
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from atmo.cli.client import live_node
from atmo.cli.common import EXIT_ERROR, EXIT_INTERRUPTED, HomeOption, home_of, say
from atmo.errors import UserError
from atmo.shell.text import printable

if TYPE_CHECKING:
    import trio

    from atmo.config.settings import Settings
    from atmo.node.running import NodeInfo

STOP_S = 1.9
"""A node that was told to end and has not by then is cut off, so that Ctrl-C ends it within two seconds.

Its store survives that as it survives a power cut.
"""

FILES = 16_384
"""That a node wants to have open: some 8,000 for clients, as many for servers and other nodes behind them."""

_QUIET_LOGGERS = ("atmo.api.http", "httpx", "httpcore", "quic", "asyncio", "zeroconf")


def node(
    context: typer.Context,
    home: HomeOption = None,
    http: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Where the endpoint listens. [default: 127.0.0.1:11451]")
    ] = None,
    listen: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Where the mesh listens. [default: [::]:11450, IPv4 too]")
    ] = None,
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help="What people call this machine. [default: its host name]")
    ] = None,
    project: Annotated[
        list[str] | None, typer.Option(metavar="NAME=DIR", help="Answer questions from these documents; repeatable.")
    ] = None,
    relay: Annotated[
        list[str] | None, typer.Option(metavar="URL", help="Be found at this relay (see `atmo relay`); repeatable.")
    ] = None,
    stun: Annotated[
        list[str] | None,
        typer.Option(metavar="HOST:PORT", help="Ask this STUN server where it sees this machine; repeatable."),
    ] = None,
    lan: Annotated[
        bool | None,
        typer.Option("--lan/--no-lan", help="Say on the LAN that this node is there, and find others. [default: lan]"),
    ] = None,
    port_mapping: Annotated[
        bool | None,
        typer.Option(
            "--port-mapping/--no-port-mapping",
            help="Ask the router to let other nodes in. [default: port-mapping]",
        ),
    ] = None,
    mode: Annotated[
        str | None,
        typer.Option(
            metavar="MODE", help="standalone, provider, participant or headless (docs/MODES.md). [default: participant]"
        ),
    ] = None,
    log_level: Annotated[
        str | None, typer.Option(metavar="LEVEL", help="debug, info, warning or error. [default: info]")
    ] = None,
) -> None:
    """Run this machine's node until Ctrl-C.

    \b
    When it is ready it prints one line with the endpoint. Settings that last
    belong into config.json (or .yaml, .toml) in the home; ATMO_HTTP, ATMO_LISTEN,
    ATMO_MODE and others (docs/CONFIGURATION.md) go over them, and these options
    over both. `atmo config show` tells what holds and why.

    \b
    Examples:
      atmo node
      atmo node --http 127.0.0.1:8080 --name kitchen
      atmo node --project notes=~/notes
      atmo node --relay wss://relay.example.org/
    """
    from atmo.config.settings import load_settings

    folder = home_of(context, home)
    flags = {"http": http, "listen": listen, "name": name, "projects": project, "relays": relay, "stun": stun}
    more = {"lan": lan, "port_mapping": port_mapping, "mode": mode, "log_level": log_level}
    settings = load_settings(folder, flags={**flags, **more})
    running = live_node(folder)
    if running is not None:
        raise UserError(
            f"{folder}: a node runs here already, process {running.get('pid')}: {running.get('http')}/v1.",
            "Stop it, or give another home with --home DIR.",
        )
    set_up_logging(settings.log_level)
    if not settings.http.loopback:
        say(f"warning: keys travel in the clear to {settings.http}: put a proxy with TLS before it, or use a VPN.")
    _serve(folder, settings)


def set_up_logging(level: str) -> None:
    """Logs to stderr, tersely: time, level, room, text."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Terse("%(asctime)s %(levelname)-7s %(name)s: %(message)s", "%H:%M:%S"))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for name in _QUIET_LOGGERS:
        logging.getLogger(name).setLevel(max(logging.WARNING, logging.getLogger().level))


class _Terse(logging.Formatter):
    """One line for one record, whatever other machines put into it; tracebacks stay as they are."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        record.message = printable(record.message)
        return super().formatMessage(record)


def ready_line(info: NodeInfo) -> str:
    """Returns the one line that says where the endpoint is."""
    return f"{printable(info.name)} is ready: {info.http}/v1"


def _serve(home: Path, settings: Settings) -> None:
    gc.disable()  # `node.memory` looks through everything once the node is ready
    import trio

    from atmo.backends.embedder import Embedder
    from atmo.node.files import raise_file_limit
    from atmo.node.memory import share_one_heap

    raise_file_limit(FILES)
    share_one_heap()
    embedder = Embedder()
    threading.Thread(target=embedder.load, daemon=True).start()  # while the rest is imported

    from atmo.node.running import run_node

    def ready(info: NodeInfo) -> None:
        print(ready_line(info), flush=True)
        gc.enable()

    async def run() -> None:
        with trio.CancelScope() as scope, stopped_by_signals(scope):
            await run_node(home, settings, on_ready=ready, embedder=embedder)

    trio.run(run)


@contextmanager
def stopped_by_signals(scope: trio.CancelScope) -> Iterator[None]:
    """Has SIGINT and SIGTERM cancel `scope`; a second one, or `STOP_S` without an end, ends the process at once.

    To be entered in the main thread, inside trio.
    """
    import trio

    token = trio.lowlevel.current_trio_token()
    watchdog = threading.Timer(STOP_S, _cut_off)
    watchdog.daemon = True
    told = False

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal told
        if told:
            os._exit(EXIT_INTERRUPTED)
        told = True
        watchdog.start()
        token.run_sync_soon(scope.cancel)

    previous = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        watchdog.cancel()
        for number, handler in previous.items():
            signal.signal(number, handler)


def _cut_off() -> None:
    say(f"The node did not end within {STOP_S:g} s and was cut off.")
    os._exit(EXIT_ERROR)
