"""The running node: backends, gateway, mesh and endpoint, started in order and ended within two seconds."""

from __future__ import annotations

import logging
import os
import secrets
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import trio

from atmo.api.app import create_app
from atmo.api.control.routes import control_router
from atmo.api.http.limits import HttpLimits
from atmo.api.http.server import serve
from atmo.api.keys import Admission
from atmo.api.services import ApiServices
from atmo.backends.embedder import Embedder
from atmo.backends.pool import BackendPool
from atmo.backends.training import TrainedModel, Trainer
from atmo.config.report import config_rows
from atmo.config.settings import Settings
from atmo.config.values import HostPort
from atmo.errors import WireError
from atmo.gateway.asking import Asking
from atmo.gateway.gateway import Gateway, GatewayConfig
from atmo.gossip.records import CAPABILITIES
from atmo.gossip.sync import RecordChanged
from atmo.net.driver import PeerDriver
from atmo.net.quic import Endpoint
from atmo.node.backends import build_backends
from atmo.node.bridging import build_bridge, check_node_id, serve_bridge
from atmo.node.loaded import LoadedModels
from atmo.node.memory import run_trimming
from atmo.node.offline import NAME_KEY, OpenHome, Services, build_host, open_home, open_services
from atmo.node.terms import join_configured, open_transport, pool_config, server_config, terms_of
from atmo.node.watching import Watching
from atmo.peer import LinkLost, LinkReady, NodeBack, NodeGone
from atmo.services.doctor import Doctor
from atmo.services.host import MeshHost
from atmo.services.lan import LanService, node_lan
from atmo.services.models import ModelService
from atmo.services.prefetch import Prefetch
from atmo.version import __version__

log = logging.getLogger(__name__)

_LOCK_S = 0.3  # a command that looks whether a node runs holds the lock for a moment
GRACE_S = 1.2
"""Answers under way may take this long to finish; the whole node ends within two seconds."""


@dataclass(frozen=True, slots=True)
class NodeInfo:
    """What `run/node.json` says of a running node.

    Attributes:
        pid: Of the process.
        node_id: In base32.
        name: For people.
        http: URL of the endpoint, without a path.
        listen: `HOST:PORT` under which other machines reach it.
        token: Opens the control API; the file is readable by its owner only.
        version: Of the software.
    """

    pid: int
    node_id: str
    name: str
    http: str
    listen: list[str]
    token: str
    version: str


async def run_node(
    home: Path, settings: Settings, *, on_ready: Callable[[NodeInfo], None], embedder: Embedder | None = None
) -> None:
    """Runs a node until cancelled; then lets answers under way finish for a second and tells its neighbours.

    Args:
        home, settings: Of the node.
        on_ready: Told when requests are answered.
        embedder: One that is being loaded already; else a new one.

    Raises:
        UserError: The home is in use or damaged, or a port is taken.
    """
    stop = trio.Event()

    async def stop_when_cancelled(scope: trio.CancelScope, ready: trio.Event) -> None:
        try:
            await trio.sleep_forever()
        finally:
            stop.set()
            if not ready.is_set():
                scope.cancel()

    async with trio.open_nursery() as nursery:
        with trio.CancelScope(shield=True) as scope:
            ready = trio.Event()
            nursery.start_soon(stop_when_cancelled, scope, ready)  # noqa: ASYNC111 - it only cancels

            def tell(info: NodeInfo) -> None:
                ready.set()
                on_ready(info)

            await _run(home, settings, tell, stop, embedder or Embedder())
        nursery.cancel_scope.cancel()


async def _run(
    path: Path, settings: Settings, on_ready: Callable[[NodeInfo], None], stop: trio.Event, embedder: Embedder
) -> None:
    with ExitStack() as stack:
        opened = await trio.to_thread.run_sync(open_home, stack, path, _LOCK_S)
        await trio.to_thread.run_sync(opened.database.kv_put, NAME_KEY, settings.name.encode())
        async with open_transport(opened, settings) as (endpoint, tcp), trio.open_nursery() as nursery:
            running = _Running(opened, settings, endpoint, nursery, embedder)
            load, mapping = (lambda: running.pool.in_flight), settings.port_mapping
            host = build_host(opened, settings, endpoint, nursery, load, tcp=tcp, port_mapping=mapping)
            async with open_services(opened, settings, host) as services:
                info = await running.start(services, host, stop)
                stack.callback(opened.home.remove_node_info)
                await trio.to_thread.run_sync(opened.home.write_node_info, asdict(info))
                on_ready(info)
                nursery.start_soon(run_trimming)
                await stop.wait()
                with trio.move_on_after(GRACE_S):
                    await running.served.wait()
            nursery.cancel_scope.cancel()


class _Running:
    """The parts of a running node that commands on a resting home do not need: backends, gateway and the endpoint."""

    def __init__(
        self,
        opened: OpenHome,
        settings: Settings,
        endpoint: Endpoint | None,
        nursery: trio.Nursery,
        embedder: Embedder,
    ) -> None:
        self._opened = opened
        self._settings = settings
        self._endpoint = endpoint
        self._nursery = nursery
        self._started = time.monotonic()
        self._training = opened.home.run / "training"
        self.served = trio.Event()
        self._lan: LanService | None = None
        self.embedder = embedder
        self.pool = BackendPool(())

    async def start(self, services: Services, host: MeshHost, stop: trio.Event) -> NodeInfo:
        """Starts everything and returns when requests are answered."""
        opened, settings, nursery = self._opened, self._settings, self._nursery
        models = services.models
        self._serving, self._scouting = models.server.stats, services.scout.stats
        self._fetching = models.fetching
        loaded = LoadedModels(models)
        backends = build_backends(
            settings, opened.home, self.embedder, models.offered_models, self._generate, loaded.sessions, loaded.runners
        )
        self.pool = BackendPool(backends, pool_config(settings), settings.sharing.hints)
        rules = settings.rules
        watching = self._watching = Watching(settings, opened.signer.node_id)
        self.gateway = Gateway(
            opened.signer.node_id,
            settings.name,
            self.pool,
            self.embedder.embed,
            host.mesh if rules.mesh else lambda: None,
            stored=partial(models.rows, "mesh" if rules.routes_away else "local"),
            config=GatewayConfig(serving=server_config(settings.role_limits)),
            seek=services.scout.find,
            terms=terms_of(settings, host.mesh),
            tracer=watching.tracer,
        )
        nursery.start_soon(watching.run, self.gateway, models.transfers)
        self._offered = watching.names("offered", lambda: self.gateway.offers().models)
        models.on_change(watching.names("stored", lambda: (model.name for model in models.local_models())))
        prefetch = Prefetch(models, opened.storage, lambda: self.pool.in_flight > 0)
        self.gateway.on_asked = prefetch.asked.note
        self.pool.on_change(partial(self._publish, host))
        for backend in ("onnx", "gguf"):
            models.on_change(partial(self.pool.refresh, backend))
        check_node_id(opened, settings)
        self._bridge = build_bridge(opened, settings, services)
        nursery.start_soon(self._bridge.run)
        if rules.serves:
            await serve_bridge(self._bridge, opened, settings, nursery)
        nursery.start_soon(loaded.run)
        nursery.start_soon(services.keys.run)
        nursery.start_soon(models.transfers.run, stop)
        nursery.start_soon(services.versions.run)
        nursery.start_soon(prefetch.run)
        await nursery.start(self.gateway.run)
        await nursery.start(self.pool.run)
        host.on_attach.append(self._attach)
        if isinstance(host.port, PeerDriver):
            self._attach(host.port)
        if settings.lan and rules.announces and self._endpoint is not None:
            self._lan = node_lan(opened.signer.node_id, settings.name, self._endpoint.local_address, host)
            nursery.start_soon(self._lan.run, stop)
        if rules.mesh and settings.mesh.join_code:
            nursery.start_soon(join_configured, services.mesh, settings.mesh.join_code)
        self._training.mkdir(exist_ok=True)
        token = secrets.token_urlsafe(32)
        app = create_app(self._api(services, host, token))
        port = await nursery.start(self._serve, app, stop)
        self.info = NodeInfo(
            os.getpid(),
            str(opened.signer.node_id),
            settings.name,
            f"http://{HostPort(settings.http.host, port)}",
            [str(address) for address in host.addresses()],
            token,
            __version__,
        )
        return self.info

    def _admitting(self, services: Services, token: str) -> Admission:
        """Returns who is let in: whoever has a key, where other machines reach the endpoint."""
        http = self._settings.http
        required = self._settings.require_key or not http.loopback
        if required and not services.keys.usable:
            log.warning("nobody can use http://%s yet: make a key with `atmo key create --name NAME`", http)
        limits, own = HttpLimits(address_rate=self._settings.address_rate), self._settings.limit_loopback
        return Admission(services.keys, required=required, token=token, limits=limits, limit_own=own)

    def _api(self, services: Services, host: MeshHost, token: str) -> ApiServices:
        save = partial(self._save_trained, services.models)
        self._admission = self._admitting(services, token)
        doctor = Doctor(host, services.clock, self._lan_state)
        return ApiServices(
            str(self._opened.signer.node_id),
            self._settings.name,
            self.gateway,
            services.mesh,
            Trainer(self.embedder.embed, save, self._training),
            control_router(
                token,
                services,
                partial(self._status, services, host),
                doctor.checks,
                self._bridge,
                services.keys,
                config_rows(self._settings.settled),
            ),
            self._settings.http.host,
            partial(self._stats, host),
            services.topology,
            self._bridge,
            services.models,
            admission=self._admission,
            cors=self._settings.cors,
            hosts=self._settings.hosts,
            mode=self._settings.mode,
            serves=self._settings.rules.serves,
            discoverable=self._settings.discoverable,
            token=token,
            observers=self._watching.observers,
            events=self._watching.events,
        )

    def _lan_state(self) -> tuple[str | None, int]:
        if self._lan is None:
            return None, 0
        return self._lan.error, max(0, self._lan.stats.seen - 1)

    async def _serve(  # noqa: ASYNC128 - `serve` tells the status
        self, app: Any, stop: trio.Event, *, task_status: trio.TaskStatus[int] = trio.TASK_STATUS_IGNORED
    ) -> None:
        host, port = self._settings.http
        try:
            await serve(app, host, port, shutdown=stop, task_status=task_status)
        finally:
            self.served.set()

    # --- the mesh, when there is one ------------------------------------------------------------------------------

    def _attach(self, driver: PeerDriver) -> None:
        self.gateway.attach(driver)
        driver.observers.append(self._mesh_changed)
        self._watching.attach(driver)
        self._advertise(driver)
        self._offers_changed()

    def _publish(self, host: MeshHost) -> None:
        if isinstance(host.port, PeerDriver):
            self._advertise(host.port)
        self._offers_changed()

    def _offers_changed(self) -> None:
        self.gateway.offers_changed()
        self._offered()

    def _advertise(self, driver: PeerDriver) -> None:
        try:
            driver.peer.publish_capabilities(driver.now(), self.gateway.offered())
        except WireError as error:
            log.error("the mesh does not learn what this node can run: %s", error)
        driver.kick()

    def _mesh_changed(self, event: object) -> None:
        links = isinstance(event, LinkReady | LinkLost | NodeBack | NodeGone)
        if links or (isinstance(event, RecordChanged) and event.kind == CAPABILITIES):
            self._offers_changed()

    def _generate(self, body: dict[str, Any], stream: bool, trace: str) -> AsyncGenerator[dict[str, Any], None] | None:
        return self.gateway.ghostwriter.write(body, Asking(stream, trace=trace))

    async def _save_trained(self, models: ModelService, model: TrainedModel) -> Mapping[str, Any]:
        """Puts a fitted model into the store as the next version of its name; it can be asked when this returns."""
        row = await models.import_model(
            model.onnx_path,
            name=model.name,
            kind=model.type,
            capabilities=model.capabilities,
            description=model.description,
            config=model.config,
        )
        await self.pool.refreshed("onnx")
        return row.to_json()

    # --- what it tells --------------------------------------------------------------------------------------------

    def _status(self, services: Services, host: MeshHost) -> dict[str, Any]:
        return {
            "running": True,
            "pid": os.getpid(),
            "http": self.info.http,
            "listen": self.info.listen,
            **services.status(),
            **asdict(self.gateway.company()),
            "relay": host.relay(),
            "tcp": host.tcp(),
            "nat": host.nat.view() if host.nat is not None else None,
            "port_mapping": host.port_mapping(),
            "capabilities": [capability.id for capability in self.pool.capabilities()],
            "peers": services.mesh.peers(),
            "punches": host.port.pathfinder.punches() if isinstance(host.port, PeerDriver) else {},
            "requests_running": self.pool.in_flight,
            "bridge": self._bridge.summary(),
            "uptime_s": round(time.monotonic() - self._started, 1),
            "counters": {
                f"{group}.{name}": value
                for group, stats in self._stats(host).items()
                for name, value in asdict(stats).items()  # type: ignore[call-overload]
                if value
            },
        }

    def _stats(self, host: MeshHost) -> Mapping[str, object]:
        groups: dict[str, object] = {
            "gateway": self.gateway.stats,
            "execute": self.gateway.server.stats,
            "serving": self._serving,
            "fetching": self._fetching,
            "scout": self._scouting,
            "admission": self._admission.stats,
        }
        if self._endpoint is not None:
            groups["quic"] = self._endpoint.stats
        if self._lan is not None:
            groups["lan"] = self._lan.stats
        if host.nat is not None:
            groups["stun"] = host.nat.stats
        if host.mapper is not None:
            groups["port_mapping"] = host.mapper.stats
        if host.bulk is not None:
            groups["bulk"] = host.bulk.stats
        if isinstance(host.port, PeerDriver):
            peer = host.port.peer
            groups |= {
                "driver": host.port.stats,
                "forwarder": host.port.forwarder.stats,
                "spraying": host.port.pathfinder.spraying.stats,
                "peer": peer.stats,
                "detector": peer.detector.stats,
                "hyparview": peer.hyparview.stats,
                "plumtree": peer.plumtree.stats,
                "sync": peer.sync.stats,
                "reconciler": peer.reconciler.stats,
                "presence": peer.presence.stats,
                "index": peer.index.stats,
                "routes": peer.routes.stats,
                "renewal": peer.renewal.stats,
                "budgets": peer.budgets.stats,
                "transfer": peer.transfer.stats,
            }
        return groups
