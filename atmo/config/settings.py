"""The settings of one node and where they come from.

LlamaFarm's file is the weakest source; over it goes the node's own file, over that the environment, over all the flags.
Every value is checked by hand at the place that names it, so that an error reads `FILE: KEY: REASON` and not like a
stack of validators, and it keeps its source. Nothing here has an effect: no folder is made and no name is looked up.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from atmo.backends.places import FOUND_NAMES
from atmo.config import bridge, checks, llamafarm, models, roles, serving, sharing, storage, transfer
from atmo.config.bridge import BridgeSettings
from atmo.config.files import exists, find_config, read_config
from atmo.config.keys import (
    DEFAULT,
    FILE,
    Given,
    Key,
    Origin,
    Problems,
    Settled,
    Values,
    Variable,
    from_environment,
    from_flags,
    settle,
)
from atmo.config.layout import Reading, own_layout
from atmo.config.mode import HEADLESS, PARTICIPANT, ModeRules, rules_of
from atmo.config.sharing import MeshSettings, SharingSettings
from atmo.config.spellings import SPELLINGS
from atmo.config.transfer import TransferSettings
from atmo.config.values import HostPort, ProjectSettings, ServerSettings, parse_host_port
from atmo.errors import UserError
from atmo.gateway.askers import NodeLimits
from atmo.relay.address import RelayAddress
from atmo.storage.decisions import TrustPolicy
from atmo.storage.eviction import Limits

LOG_LEVELS = ("debug", "info", "warning", "error")
DEFAULT_HTTP = HostPort("127.0.0.1", 11451)
DEFAULT_LISTEN = HostPort("::", 11450)

__all__ = [
    "HostPort",
    "ProjectSettings",
    "ServerSettings",
    "Settings",
    "load_settings",
    "parse_host_port",
    "resolve_home",
]


@dataclass(frozen=True, slots=True)
class Settings:
    """All settings of one node.

    Attributes:
        name: What people call the node.
        http: Where the OpenAI-compatible endpoint listens.
        listen: Where the mesh listens, UDP and TCP.
        ollama_url: Where Ollama is looked for, None to leave it alone.
        servers: OpenAI-compatible servers.
        projects: Folders of documents.
        relays: Relays at which others find this node, the first that answers.
        stun: STUN servers that tell this node where they see it.
        lan: Whether the node says on its LAN that it is there, and looks for others.
        port_mapping: Whether the node asks the router to let others in.
        bridge: Which models of other programs it offers.
        storage: What its store may hold.
        transfer: How fast transfers may be, and how many at once.
        trust: Whose models may come here.
        interests: Capabilities of models that are wanted here.
        auto_update: Ranges of versions that are kept up to date, by the model's name; empty means all.
        node_id: What the environment takes for the node's id, which is its key; empty where it says nothing.
        log_level: `debug`, `info`, `warning` or `error`.
        mode: What it is to others and to this machine's programs, one of `mode.MODES`.
        discoverable: Whether anybody is told of it.
        mesh: Whether it takes part in a mesh, and which one it joins.
        sharing: What the mesh is told of what it can run, and the limits.
        llamafarm_url: Where LlamaFarm's server is looked for, None to leave it alone.
        llamafarm_runtime_url: Where its universal runtime is, likewise.
        discover: Kinds of model servers that are looked for where they usually are.
        require_key: Programs of this machine need a key, too.
        cors: Origins of web pages that may use the endpoint.
        hosts: Names by which requests may address it, beside its own.
        access_log: Whether each request is logged, or the file in which.
        otel_endpoint: Where traces are sent, empty for nowhere.
        address_rate: Requests a second of one address of another machine; 0 for any number.
        limit_loopback: That rate is this machine's, too.
        role_limits: How much other nodes may ask, by their role.
        settled: The value of every key with its source, for people.
    """

    name: str
    http: HostPort = DEFAULT_HTTP
    listen: HostPort = DEFAULT_LISTEN
    ollama_url: str | None = serving.OLLAMA_URL
    servers: tuple[ServerSettings, ...] = ()
    projects: tuple[ProjectSettings, ...] = ()
    relays: tuple[RelayAddress, ...] = ()
    stun: tuple[HostPort, ...] = ()
    lan: bool = True
    port_mapping: bool = True
    bridge: BridgeSettings = field(default_factory=BridgeSettings)
    storage: Limits = field(default_factory=Limits)
    transfer: TransferSettings = field(default_factory=TransferSettings)
    trust: TrustPolicy = field(default_factory=TrustPolicy)
    interests: tuple[str, ...] = ()
    auto_update: Mapping[str, str] = field(default_factory=dict)
    node_id: str = ""
    log_level: str = "info"
    mode: str = PARTICIPANT
    discoverable: bool = True
    mesh: MeshSettings = field(default_factory=MeshSettings)
    sharing: SharingSettings = field(default_factory=SharingSettings)
    llamafarm_url: str | None = serving.LLAMAFARM_URL
    llamafarm_runtime_url: str | None = serving.LLAMAFARM_RUNTIME_URL
    discover: tuple[str, ...] = FOUND_NAMES
    require_key: bool = False
    cors: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    access_log: bool | Path = True
    otel_endpoint: str = ""
    address_rate: float = 200.0
    limit_loopback: bool = False
    role_limits: Mapping[str, NodeLimits] = field(default_factory=dict)
    settled: Mapping[str, Settled] = field(default_factory=lambda: MappingProxyType({}), compare=False, repr=False)

    @property
    def rules(self) -> ModeRules:
        """What the mode means."""
        return rules_of(self.mode, discoverable=self.discoverable, mesh=self.mesh.enabled)


def resolve_home(flag: Path | None = None, environ: Mapping[str, str] | None = None) -> Path:
    """Returns the absolute home: the flag, else `ATMO_HOME`, else `~/.atmosphere`."""
    text = (os.environ if environ is None else environ).get("ATMO_HOME", "")
    home = flag if flag is not None else Path(text) if text else Path("~/.atmosphere")
    try:
        return Path(os.path.abspath(home.expanduser()))  # noqa: PTH100 - resolve() would follow links of the user
    except RuntimeError as error:
        raise UserError(f"{home}: there is no such user's home folder.", "Set ATMO_HOME or give --home.") from error


@dataclass(frozen=True, slots=True)
class Examined:
    """What all sources together say.

    Attributes:
        settings: None where something is wrong.
        errors: Everything that is wrong, in the order of the sources.
        notes: What is right and has no effect.
        files: Those that were read.
    """

    settings: Settings | None
    errors: tuple[UserError, ...]
    notes: tuple[str, ...]
    files: tuple[Path, ...]


def load_settings(
    home: Path, environ: Mapping[str, str] | None = None, flags: Mapping[str, Any] | None = None
) -> Settings:
    """Reads the settings of the node whose home is `home`.

    Args:
        home: The node's folder; it need not exist.
        environ: The environment, `os.environ` when None. `docs/CONFIGURATION.md` has the variables that count.
        flags: Values of command-line flags by key; None means not given. `projects` is a list of `NAME=DIR` that is
            added to the configured ones and replaces one of the same name.

    Raises:
        UserError: Naming the file, variable or flag, the key and the reason; the first of several.
    """
    examined = examine(home, environ, flags)
    if examined.settings is not None:
        return examined.settings
    first, *others = examined.errors
    more = f"`atmo config check` tells {len(others)} more." if others else ""
    raise UserError(first.message, f"{first.hint} {more}".strip())


def examine(
    home: Path,
    environ: Mapping[str, str] | None = None,
    flags: Mapping[str, Any] | None = None,
    file: Path | None = None,
) -> Examined:
    """Reads and checks everything, and tells all that is wrong.

    Args:
        home: The node's folder; it need not exist.
        environ: The environment, `os.environ` when None.
        flags: As of `load_settings`.
        file: Read instead of the home's configuration.
    """
    environ = os.environ if environ is None else environ
    problems, files = Problems(), list[Path]()
    own = _own_file(home, file, problems, files)
    above = [*from_environment(_KEYS.values(), environ, home), *from_flags(_KEYS, flags or {})]
    placed = [one for one in (*own, *above) if one.key == "llamafarm_config"]
    beside = llamafarm.place_of(settle(_KEYS, placed, Problems()), environ)
    below = _llamafarm_file(beside, home, problems, files)
    values = settle(_KEYS, [*below, *own, *above], problems)
    settings = None
    with problems.kept():
        settings = _settings(values)
    if problems.errors:
        settings = None
    return Examined(settings, tuple(problems.errors), tuple(problems.notes), tuple(files))


def _own_file(home: Path, file: Path | None, problems: Problems, files: list[Path]) -> list[Given]:
    """Returns what the node's own file says; LlamaFarm's is known by its block where it is given as the file."""
    path, raw = None, dict[str, Any]()
    with problems.kept():
        path = file if file is not None else find_config(home)
        raw = read_config(path) if path is not None else {}
    if path is None:
        return []
    files.append(path)
    if file is not None and llamafarm.BLOCK in raw:
        return list(llamafarm.read_block(raw, path, home, problems))
    reading = Reading(_LAYOUT, Origin(FILE, str(path)), home, problems)
    return list(reading.read(raw, str(path)))


def _llamafarm_file(path: Path | None, home: Path, problems: Problems, files: list[Path]) -> list[Given]:
    try:
        if path is None or not exists(path) or path in files:
            return []
        raw = read_config(path)
    except UserError as error:
        hint = f'{error.hint} Set "llamafarm_config": false to leave it alone.'.strip()
        problems.errors.append(UserError(error.message, hint))
        return []
    files.append(path)
    return list(llamafarm.read_block(raw, path, home, problems))


def _settings(values: Values) -> Settings:
    _fill_in(values)
    return Settings(
        bridge=bridge.bridge_settings(values),
        storage=storage.storage_limits(values),
        transfer=transfer.transfer_settings(values),
        trust=models.trust_policy(values),
        mesh=sharing.mesh_settings(values),
        sharing=sharing.sharing_settings(values),
        settled=MappingProxyType(values),
        **{field: values[key].value for key, field in _FIELDS.items()},
    )


def _fill_in(values: Values) -> None:
    """Puts in those defaults that depend on the machine or on other keys."""
    if not values["name"].value:
        values["name"] = Settled(default_name())
    if values["mode"].value == HEADLESS:
        _default(values, "log_level", "warning")
        _default(values, "access_log", False)
    for what in ("models", "projects"):
        _default(values, f"capabilities.{what}.expose_all", not values[f"capabilities.{what}.expose_list"].value)
    for key in ("ollama", "llamafarm"):
        if key not in values["discover"].value:
            _default(values, key, None)
    if values["llamafarm"].value is None:
        _default(values, "llamafarm_runtime", None)


def _default(values: Values, key: str, value: Any) -> None:
    if values[key].origin.kind == DEFAULT:
        values[key] = Settled(value)


def default_name() -> str:
    """Returns this machine's host name without its domain, `node` where it has none."""
    return re.sub(r"[^\w.-]", "", socket.gethostname().split(".")[0])[: checks.NAME_CHARS] or "node"


_KEYS: dict[str, Key] = {
    key.name: key
    for key in (
        Key("name", checks.node_name, "", (Variable("ATMO_NAME"), Variable("ATMOSPHERE_NODE_NAME")), "--name"),
        Key("node_id", checks.short_text, "", (Variable("ATMOSPHERE_NODE_ID"),)),
        Key("http", checks.host_port(DEFAULT_HTTP.host), DEFAULT_HTTP, (Variable("ATMO_HTTP"),), "--http"),
        Key("listen", checks.host_port(DEFAULT_LISTEN.host), DEFAULT_LISTEN, (Variable("ATMO_LISTEN"),), "--listen"),
        *serving.KEYS,
        Key("servers", checks.server_list, ()),
        Key(
            "projects",
            checks.project_list,
            (),
            flag="--project",
            flag_check=checks.project_flags,
            merge=checks.added_projects,
        ),
        *sharing.KEYS,
        *roles.KEYS,
        Key("relays", checks.relay_list, (), (Variable("ATMO_RELAYS"),), "--relay"),
        Key("stun", checks.stun_list, (), (Variable("ATMO_STUN"),), "--stun"),
        Key("lan", checks.switch, True, (Variable("ATMO_LAN"),), "--lan"),
        Key("port_mapping", checks.switch, True, (Variable("ATMO_PORT_MAPPING"),), "--port-mapping"),
        *bridge.KEYS,
        *llamafarm.KEYS,
        *storage.KEYS,
        *transfer.KEYS,
        *models.KEYS,
        Key("log_level", checks.choice(LOG_LEVELS), "info", (Variable("ATMO_LOG_LEVEL"),), "--log-level"),
    )
}
"""Every key by its name."""

KEYS = tuple(_KEYS.values())

_RENAMED = {"ollama": "ollama_url", "llamafarm": "llamafarm_url", "llamafarm_runtime": "llamafarm_runtime_url"}
_FIELDS = {
    name: _RENAMED.get(name, name) for name in _KEYS if _RENAMED.get(name, name) in Settings.__dataclass_fields__
}
"""Key -> field of `Settings`, of those that are not part of a section."""

_LAYOUT = own_layout(KEYS, SPELLINGS)
