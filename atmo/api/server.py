"""Serving the application: Hypercorn on trio, on a socket that is bound before anything else starts."""

from __future__ import annotations

import errno
import logging
import socket
from functools import partial
from typing import Any, cast

import trio
from hypercorn.config import Config
from hypercorn.trio import serve as hypercorn_serve
from starlette.types import ASGIApp

from atmo.errors import UserError

GRACE_S = 1.0
"""How long answers under way may take to finish after `shutdown`; Ctrl-C has to end a node within two seconds."""

BACKLOG = 1_024
KEEP_ALIVE_S = 75.0
"""Source: nginx's keepalive_timeout."""

STALL_S = 120.0
"""A connection whose client takes nothing for so long is cut by the system, where it can: the server waits for it
uninterruptibly. Source: guess."""

_IN_USE = (errno.EADDRINUSE, errno.EACCES)


async def serve(
    app: ASGIApp,
    host: str,
    port: int,
    *,
    shutdown: trio.Event | None = None,
    task_status: trio.TaskStatus[int] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serves `app` until cancelled, or until `shutdown` is set and what is under way has had `GRACE_S` to finish.

    Args:
        app: The ASGI application.
        host: Address or name to bind.
        port: TCP port, 0 for any free one.
        shutdown: Ends the server gently; cancelling ends it at once.
        task_status: Started with the port when connections are accepted.

    Raises:
        UserError: The address cannot be bound.
    """
    listener = bind(host, port)
    bound = int(listener.getsockname()[1])
    config = Config()
    config.bind = [f"fd://{listener.detach()}"]
    config.accesslog = None
    config.errorlog = logging.getLogger("atmo.api.http")
    config.include_server_header = False
    config.graceful_timeout = GRACE_S
    config.keep_alive_timeout = KEEP_ALIVE_S
    config.keep_alive_max_requests = 1_000_000
    config.backlog = BACKLOG
    stop = trio.Event() if shutdown is None else shutdown
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(hypercorn_serve, cast(Any, app), config, shutdown_trigger=stop.wait))
        task_status.started(bound)


def bind(host: str, port: int) -> socket.socket:
    """Returns a listening TCP socket.

    Raises:
        UserError: Another program has the port, it needs rights we lack, or the host is not of this machine.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise UserError(
            f"Cannot listen for HTTP on {host}: {error.strerror}.", "Give another --http HOST:PORT."
        ) from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):  # accepted connections inherit it
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(STALL_S * 1_000))
        listener.bind(address)
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        what = "is in use or not allowed" if error.errno in _IN_USE else f"cannot be used: {error.strerror}"
        hint = f"Is a node already running there? Stop what uses it, or give another port: --http {host}:0"
        raise UserError(f"The HTTP port {port} on {host} {what}.", hint) from error
    return listener
