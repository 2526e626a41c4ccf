"""What the API serves, as the node hands it over."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from atmo.api.account import Observer
from atmo.api.keys import Admission
from atmo.api.routing import Router
from atmo.api.watch.events import EventHub
from atmo.backends.training import Trainer
from atmo.gateway.gateway import Gateway
from atmo.services.bridge import BridgeService
from atmo.services.mesh import MeshService
from atmo.services.models import ModelService
from atmo.services.topology import TopologyService


@dataclass(frozen=True, slots=True)
class ApiServices:
    """Everything behind the routes.

    Attributes:
        node_id: This machine, in base32.
        node_name: Its name.
        gateway: Routes and runs requests.
        mesh: Who belongs to the mesh.
        trainer: Fits models; None where this node cannot.
        control: Routes of the control API, which check their own token.
        http_host: The address that the server is bound to; requests must be addressed to it or to loopback.
        stats: The counters of `/metrics`: name of a group to a dataclass of numbers.
        topology: Who is connected to whom; None where this node cannot tell.
        bridge: The models that can be downloaded from this machine; None where none can.
        models: The models of this machine and its mesh; None where nobody asks.
        observers: Told of each request when it has ended.
        admission: Says who is let in; None for everybody.
        cors: Origins whose web pages may use the endpoint.
        hosts: Names by which requests may address it, beside `http_host`.
        mode: What the node is to others and to this machine, for people.
        serves: Whether it takes requests here; otherwise it answers watchers and commands only.
        discoverable: Whether others are told of it.
        token: Of `run/node.json`; empty where nobody can join a mesh over HTTP.
        events: Told of what happens; `WS /v1/stream` passes it on.
    """

    node_id: str
    node_name: str
    gateway: Gateway
    mesh: MeshService
    trainer: Trainer | None = None
    control: Router | None = None
    http_host: str = "127.0.0.1"
    stats: Callable[[], Mapping[str, object]] = dict
    topology: TopologyService | None = None
    bridge: BridgeService | None = None
    models: ModelService | None = None
    observers: Sequence[Observer] = ()
    admission: Admission | None = None
    cors: Sequence[str] = ()
    hosts: Sequence[str] = ()
    mode: str = "participant"
    serves: bool = True
    discoverable: bool = True
    token: str = field(default="", repr=False)
    events: EventHub = field(default_factory=EventHub)
