"""`atmo relay`: passes encrypted datagrams on between nodes that cannot reach each other."""

from __future__ import annotations

import re
import secrets
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from atmo.cli.common import JsonOption, bad_input, parse_duration, print_json, say
from atmo.cli.node import set_up_logging
from atmo.errors import UserError
from atmo.node.files import raise_file_limit

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Sequence

    import trio

    from atmo.identity import Signer
    from atmo.relay.server import Relay


MIN_RATE = 65_536
"""Bytes a second: one message of the largest size each second."""

_UNITS = {"": 1, "k": 1_024, "m": 1_024**2, "g": 1_024**3}
_SPARE_FILES = 64


def relay(
    context: typer.Context,
    listen: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Where to listen; [::]:PORT is all of IPv4 and IPv6.")
    ] = "0.0.0.0:11452",
    tls_cert: Annotated[
        Path | None, typer.Option("--tls-cert", metavar="FILE", help="Certificate chain, PEM. Without it: plain ws://.")
    ] = None,
    tls_key: Annotated[
        Path | None, typer.Option("--tls-key", metavar="FILE", help="Its private key, PEM, without a passphrase.")
    ] = None,
    max_clients: Annotated[int, typer.Option(metavar="N", min=1, max=100_000, help="Nodes at once.")] = 2_000,
    max_clients_per_host: Annotated[
        int, typer.Option(metavar="N", min=1, max=100_000, help="Of one address; raise it behind a proxy.")
    ] = 64,
    rate: Annotated[
        str, typer.Option(metavar="BYTES/S", help="What one node may send, such as 500k or 4M (of 1,024).")
    ] = "4M",
    drain: Annotated[str, typer.Option(metavar="TIME", help="For nodes to move when the relay is told to end.")] = "5s",
    home: Annotated[
        Path | None, typer.Option("--home", metavar="DIR", help="Keep the relay's key there. [default: a new one]")
    ] = None,
    log_level: Annotated[str, typer.Option(metavar="LEVEL", help="debug, info, warning or error.")] = "info",
    as_json: JsonOption = False,
) -> None:
    """Run a relay until Ctrl-C or SIGTERM.

    \b
    Nodes that cannot reach each other meet here. The relay checks their keys,
    passes their encrypted datagrams on by node id, and keeps nothing. It needs no
    mesh. With --home its own id stays the same, so that nodes can pin it; else it
    gets a new one at each start. Figures for Prometheus are at /metrics of the
    same port, /health is for load balancers.

    \b
    Examples:
      atmo relay --listen 0.0.0.0:11452
      atmo relay --listen 0.0.0.0:443 --tls-cert fullchain.pem --tls-key privkey.pem
      atmo relay --home /var/lib/atmo-relay --max-clients 5000 --rate 1M
    """
    from atmo.relay.door import DoorConfig
    from atmo.relay.server import Relay, RelayConfig, bind
    from atmo.relay.session import SessionConfig

    with bad_input():
        _check_level(log_level)
        config = RelayConfig(
            door=DoorConfig(max_clients=max_clients, max_clients_per_host=max_clients_per_host),
            session=SessionConfig(bytes_per_s=float(parse_rate(rate))),
            drain_s=parse_duration(drain),
        )
        context_tls = _tls(tls_cert, tls_key)
        signer = _signer(context, home)
        host_port = _host_port(listen)
        listeners = bind(*host_port, config.socket_bytes)
    _raise_file_limit(max_clients + config.door.max_handshakes + _SPARE_FILES)
    set_up_logging(log_level)
    running = Relay(signer, config, context_tls)
    _announce(running, listeners, context_tls is not None, as_json)
    _serve(running, listeners)


def parse_rate(text: str) -> int:
    """Reads `65536`, `500k`, `4M` as bytes a second.

    Raises:
        UserError: It has another form, or is below `MIN_RATE`.
    """
    match = re.fullmatch(r"([0-9]{1,12})([kmg]?)b?", text.strip().lower())
    rate = int(match[1]) * _UNITS[match[2]] if match else 0
    if rate < MIN_RATE:
        raise UserError(f"--rate {text!r} is not a number of bytes a second such as 500k or 4M, at least 64k.")
    return rate


def _check_level(level: str) -> None:
    if level not in ("debug", "info", "warning", "error"):
        raise UserError(f"--log-level {level!r} is not debug, info, warning or error.")


def _host_port(text: str) -> tuple[str, int]:
    from atmo.config.values import parse_host_port

    return parse_host_port(text, "0.0.0.0")


def _signer(context: typer.Context, flag: Path | None) -> Signer:
    """Returns the relay's key: that of the home where one is given, else a new one."""
    from atmo.config.settings import resolve_home
    from atmo.identity import Signer
    from atmo.storage.home import Home

    given = flag if flag is not None else context.find_root().params.get("home")
    if given is None:
        return Signer(secrets.token_bytes(32))
    folder = Home(resolve_home(Path(given)))
    folder.prepare()
    return folder.load_signer()


def _tls(certificate: Path | None, key: Path | None) -> ssl.SSLContext | None:
    import ssl

    if certificate is None and key is None:
        return None
    if certificate is None or key is None:
        raise UserError("--tls-cert and --tls-key belong together.", "Give both, or none for plain ws://.")
    for path in (certificate, key):
        try:
            path.open("rb").close()
        except OSError as error:
            raise UserError(f"{path}: cannot be read: {error.strerror}.") from error
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(certificate, key, password=_no_passphrase)
    except (ssl.SSLError, ValueError) as error:
        raise UserError(
            f"{certificate} and {key} are not a certificate and its key in PEM: {error}.",
            "The key must have no passphrase.",
        ) from error
    return context


def _no_passphrase() -> str:
    raise ValueError("the key has a passphrase")


def _raise_file_limit(needed: int) -> None:
    """Lets this process hold as many connections as it is to have, as far as it may."""
    most = raise_file_limit(needed)
    if most < needed:
        say(f"warning: this process may hold {most} connections, it wants {needed}; see `ulimit -n`.")


def _announce(relay: Relay, listeners: Sequence[trio.SocketListener], secure: bool, as_json: bool) -> None:
    from atmo.config.values import HostPort

    host, port = listeners[0].socket.getsockname()[:2]
    where = HostPort(host, port)
    scheme = "wss" if secure else "ws"
    if as_json:
        print_json({"listen": str(where), "url": f"{scheme}://{where}/", "id": str(relay.node_id), "tls": secure})
    else:
        print(f"The relay listens on {scheme}://{where}/, its id is {relay.node_id}")
    sys.stdout.flush()
    reached = "HOST" if host in ("0.0.0.0", "::") else str(HostPort(host, port)).rpartition(":")[0]
    say(
        f"Start nodes with `atmo node --relay {scheme}://{reached}:{port}/`"
        + (", HOST being this machine as they reach it." if reached == "HOST" else ".")
    )
    if not secure and not where.loopback:
        say("warning: without TLS, who sits on the way sees who talks with whom, and can end that.")


def _serve(relay: Relay, listeners: Sequence[trio.SocketListener]) -> None:
    import trio

    from atmo.relay.server import serve_relay

    async def run() -> None:
        stop = trio.Event()
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(watch, signals, stop, nursery.cancel_scope)
                await serve_relay(relay, listeners, stop)
                nursery.cancel_scope.cancel()

    async def watch(signals: AsyncIterator[int], stop: trio.Event, scope: trio.CancelScope) -> None:
        async for _ in signals:
            if stop.is_set():
                scope.cancel()  # told twice: at once
            elif relay.levels.clients:
                say("The relay ends: it tells its nodes to move.")
            stop.set()

    trio.run(run)
