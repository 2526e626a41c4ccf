"""The bridge of a running node, from its settings: where other programs keep models, and the port of its own."""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path

import trio

from atmo.api.bridge import create_bridge_app
from atmo.api.http.server import serve
from atmo.config.bridge import BridgeSettings
from atmo.config.settings import Settings
from atmo.errors import UserError
from atmo.node.offline import OpenHome, Services
from atmo.services.bridge import BridgeService
from atmo.services.downloads import TRAVELLING
from atmo.storage.bridge import Bridge
from atmo.storage.bridge_find import BridgePlaces

log = logging.getLogger(__name__)


def build_bridge(opened: OpenHome, settings: Settings, services: Services) -> BridgeService:
    """Returns the service; without places to look at where the bridge is turned off."""
    bridge = None
    if settings.bridge.enabled:
        places = places_of(settings.bridge, Path.home())
        bridge = Bridge(opened.database, opened.signer, settings.name, places, TRAVELLING)
    return BridgeService(services.models, bridge, settings.bridge.interval_s)


def places_of(settings: BridgeSettings, user: Path) -> BridgePlaces:
    """Returns where to look.

    Args:
        settings: Of the bridge.
        user: The user's home folder.
    """
    return BridgePlaces(
        settings.llamafarm or user / ".llamafarm" / "models",
        settings.huggingface or user / ".cache" / "huggingface" / "hub",
        settings.ollama or user / ".ollama" / "models",
        settings.folders,
    )


async def serve_bridge(bridge: BridgeService, opened: OpenHome, settings: Settings, nursery: trio.Nursery) -> None:
    """Serves the bridge's own port in `nursery`, where the settings give one; returns when it answers.

    Raises:
        UserError: The port cannot be had.
    """
    http = settings.bridge.http
    if http is None:
        return
    app = create_bridge_app(bridge, str(opened.signer.node_id), settings.name, http.host)
    try:
        port = await nursery.start(partial(serve, app, http.host, http.port))
    except UserError as error:
        raise UserError(f"The bridge: {error.message}", "Give MODEL_BRIDGE_HTTP_PORT another port.") from error
    log.info("models can be downloaded from http://%s", http._replace(port=port))
    if not http.loopback:
        log.warning("everyone who reaches %s can download the models that everyone may read", http._replace(port=port))


def check_node_id(opened: OpenHome, settings: Settings) -> None:
    """Warns where the environment takes this node for another one."""
    own = str(opened.signer.node_id)
    if settings.node_id and settings.node_id != own:
        log.warning("ATMOSPHERE_NODE_ID says %s, but a node's id is its key: this is %s", settings.node_id[:80], own)
