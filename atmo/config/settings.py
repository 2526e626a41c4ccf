"""The settings of one node and where they come from: the file, over it the environment, over both the flags.

Every value is checked by hand at the place that names it, so that an error reads `FILE: KEY: REASON` and not like a
stack of validators. Nothing here has an effect: no folder is made and no name is looked up.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from atmo.config import checks
from atmo.config.bridge import BridgeSettings, bridge_settings, from_environment
from atmo.config.files import find_config, read_config
from atmo.config.models import auto_update, interest_list, trust_policy
from atmo.config.storage import storage_limits
from atmo.config.transfer import TransferSettings, transfer_settings
from atmo.config.values import HostPort, ProjectSettings, ServerSettings, parse_host_port
from atmo.errors import UserError
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
    """

    name: str
    http: HostPort = DEFAULT_HTTP
    listen: HostPort = DEFAULT_LISTEN
    ollama_url: str | None = checks.DEFAULT_OLLAMA_URL
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


def resolve_home(flag: Path | None = None, environ: Mapping[str, str] | None = None) -> Path:
    """Returns the absolute home: the flag, else `ATMO_HOME`, else `~/.atmosphere`."""
    text = (os.environ if environ is None else environ).get("ATMO_HOME", "")
    home = flag if flag is not None else Path(text) if text else Path("~/.atmosphere")
    try:
        return Path(os.path.abspath(home.expanduser()))  # noqa: PTH100 - resolve() would follow links of the user
    except RuntimeError as error:
        raise UserError(f"{home}: there is no such user's home folder.", "Set ATMO_HOME or give --home.") from error


def load_settings(
    home: Path, environ: Mapping[str, str] | None = None, flags: Mapping[str, Any] | None = None
) -> Settings:
    """Reads the settings of the node whose home is `home`.

    Args:
        home: The node's folder; it need not exist.
        environ: The environment, `os.environ` when None. `ATMO_HTTP`, `ATMO_LISTEN`, `ATMO_NAME`,
            `ATMO_OLLAMA_URL` (a URL or `false`), `ATMO_LOG_LEVEL`, `ATMO_RELAYS` (URLs with spaces between),
            `ATMO_STUN` (`HOST:PORT` with spaces between), `ATMO_LAN` and `ATMO_PORT_MAPPING` (`0` or `1`) count; so do
            those of the bridge (`atmo.config.bridge`), and `ATMOSPHERE_NODE_NAME` where `ATMO_NAME` says nothing.
        flags: Values of command-line flags by key; None means not given. `projects` is a list of `NAME=DIR` that is
            added to the configured ones and replaces one of the same name.

    Raises:
        UserError: Naming the file, variable or flag, the key and the reason.
    """
    environ = os.environ if environ is None else environ
    values: dict[str, Any] = {"name": default_name(), "node_id": environ.get("ATMOSPHERE_NODE_ID", "").strip()}
    path = find_config(home)
    if path is not None:
        raw = read_config(path)
        checks.refuse_unknown(raw, _KEYS, str(path), checks.ELSEWHERE)
        for key, value in raw.items():
            field, parse = _KEYS[key]
            values[field] = parse(value, f"{path}: {key}", home)
    for key in ("name", "http", "listen", "ollama", "log_level", "relays", "stun", "lan", "port_mapping"):
        field, parse = _KEYS[key]
        variable = "ATMO_OLLAMA_URL" if key == "ollama" else f"ATMO_{key.upper()}"
        if key == "name" and not environ.get(variable, ""):
            variable = "ATMOSPHERE_NODE_NAME"
        if text := environ.get(variable, ""):
            values[field] = parse(text, variable, home)
    values["bridge"] = from_environment(values.get("bridge", BridgeSettings()), environ, home)
    for key, value in (flags or {}).items():
        if value is not None and value != [] and key != "projects":
            field, parse = _KEYS[key]
            values[field] = parse(value, f"--{_FLAGS.get(key, key.replace('_', '-'))}", Path.cwd())
    settings = Settings(**values)
    added = [checks.project_flag(text) for text in (flags or {}).get("projects") or ()]
    names = {project.name for project in added}
    kept = tuple(project for project in settings.projects if project.name not in names)
    checks.refuse_twice([project.name for project in added], "--project")
    return replace(settings, projects=kept + tuple(added))


def default_name() -> str:
    """Returns this machine's host name without its domain, `node` where it has none."""
    return re.sub(r"[^\w.-]", "", socket.gethostname().split(".")[0])[: checks.NAME_CHARS] or "node"


_FLAGS = {"relays": "relay"}
"""Flags that are called otherwise than their keys."""

_KEYS: dict[str, tuple[str, Callable[[Any, str, Path], Any]]] = {
    "name": ("name", checks.node_name),
    "http": ("http", checks.host_port(DEFAULT_HTTP.host)),
    "listen": ("listen", checks.host_port(DEFAULT_LISTEN.host)),
    "ollama": ("ollama_url", checks.ollama),
    "servers": ("servers", checks.server_list),
    "projects": ("projects", checks.project_list),
    "relays": ("relays", checks.relay_list),
    "stun": ("stun", checks.stun_list),
    "lan": ("lan", checks.switch),
    "port_mapping": ("port_mapping", checks.switch),
    "bridge": ("bridge", bridge_settings),
    "storage": ("storage", storage_limits),
    "transfer": ("transfer", transfer_settings),
    "trust": ("trust", trust_policy),
    "interests": ("interests", interest_list),
    "auto_update": ("auto_update", auto_update),
    "log_level": ("log_level", checks.choice(LOG_LEVELS)),
}
"""Key of the file -> field of `Settings` and the function that checks it."""
