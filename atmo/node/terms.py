"""What the settings mean for the parts of a node: its transport, its dealings with the mesh, and its limits."""

from __future__ import annotations

import logging
import math
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager

import trio

from atmo.backends.pool import PoolConfig
from atmo.config.roles import OTHERS
from atmo.config.settings import Settings
from atmo.config.values import parse_host_port
from atmo.errors import RemoteError, UserError
from atmo.gateway.askers import BY_ROLE, NodeLimits
from atmo.gateway.serving import ServerConfig
from atmo.gateway.terms import Terms
from atmo.identity import NodeId
from atmo.net.interfaces import is_near
from atmo.net.ports import MeshPort
from atmo.net.quic import Endpoint, open_endpoint
from atmo.net.tcp import TcpDoor, open_tcp
from atmo.node.offline import OpenHome, listen_host
from atmo.services.mesh import MeshService

log = logging.getLogger(__name__)

JOIN_AGAIN_S, JOIN_AGAIN_MOST_S = 5.0, 300.0
"""Between two tries to join, doubled each time. Source: guess; whoever made the code may start later than this node."""


@asynccontextmanager
async def open_transport(opened: OpenHome, settings: Settings) -> AsyncIterator[tuple[Endpoint | None, TcpDoor | None]]:
    """Opens the sockets of the mesh; none where the mode has nothing to do with one.

    Raises:
        UserError: They cannot be opened.
    """
    if not settings.rules.mesh:
        yield None, None
        return
    host = await trio.to_thread.run_sync(listen_host, settings)
    async with (
        open_endpoint(opened.signer, host, settings.listen.port) as endpoint,
        open_tcp(endpoint.local_address) as tcp,
    ):
        yield endpoint, tcp


def terms_of(settings: Settings, mesh: Callable[[], MeshPort | None]) -> Terms:
    """Returns on what terms the node deals with the mesh.

    Args:
        settings: Of the node.
        mesh: Its running peer.
    """
    rules, sharing = settings.rules, settings.sharing

    def near(node: NodeId) -> bool:
        port = mesh()
        report = port.path(node) if port is not None else None
        return report is not None and report.address is not None and is_near(parse_host_port(report.address).host)

    def roles(node: NodeId) -> frozenset[str]:
        port = mesh()
        return port.peer.standing(port.now(), node) if port is not None else frozenset()

    admits = {"admits": near} if sharing.local_only else {}
    return Terms(rules.routes_away, rules.accepts, sharing.exposure.told, roles=roles, **admits)


def pool_config(settings: Settings) -> PoolConfig:
    """Returns the limits of what runs here."""
    sharing = settings.sharing
    return PoolConfig(
        max_running=sharing.max_concurrent_requests or math.inf, max_queued=sharing.max_queue_depth or math.inf
    )


def server_config(limits: Mapping[str, NodeLimits]) -> ServerConfig:
    """Returns the limits for requests of other nodes.

    Args:
        limits: By role, as the settings say.
    """
    by_role = {**BY_ROLE, **{role: own for role, own in limits.items() if role != OTHERS}}
    everybody = limits.get(OTHERS, NodeLimits())
    most = max(ServerConfig().max_calls, everybody.calls, *(own.calls for own in by_role.values()))
    return ServerConfig(max_calls=most, everybody=everybody, by_role=by_role)


async def join_configured(mesh: MeshService, code: str) -> None:
    """Joins the mesh of a code from the configuration, unless the node belongs to one; tries until somebody answers."""
    pause_s = JOIN_AGAIN_S
    while mesh.mesh() is None:
        try:
            joined = await mesh.join(code)
        except UserError as error:
            log.error("the join code of the configuration does not let this node in: %s", error)
            return
        except RemoteError as error:
            log.warning("the mesh of the configured join code is not reached, again in %g s: %s", pause_s, error)
            await trio.sleep(pause_s)
            pause_s = min(2 * pause_s, JOIN_AGAIN_MOST_S)
        else:
            log.info("joined the mesh %s", joined["name"])
