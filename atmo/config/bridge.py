"""What the configuration and the environment say of the bridge to other programs' models."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from atmo.config.checks import folder_path, switch, whole
from atmo.config.keys import Check, Key, Values, Variable
from atmo.config.values import MAX_PORT, HostPort, parse_host_port
from atmo.errors import UserError

DEFAULT_INTERVAL_S = 300.0
"""Source: seed 001, MODEL_BRIDGE_GOSSIP_INTERVAL."""

INTERVAL_LEAST_S, INTERVAL_MOST_S = 5.0, 86_400.0
FOLDERS_MOST = 16


@dataclass(frozen=True, slots=True)
class BridgeSettings:
    """Which models of other programs this node offers, and where.

    Attributes:
        enabled: Whether it does.
        folders: Folders with models beside those of LlamaFarm, HuggingFace and Ollama.
        http: Where the bridge listens beside the node's endpoint; None for nowhere.
        interval_s: How often it looks what there is.
        huggingface: HuggingFace's cache, None for where it usually is.
        ollama: Ollama's store, likewise.
        llamafarm: LlamaFarm's models, likewise.
    """

    enabled: bool = True
    folders: tuple[Path, ...] = ()
    http: HostPort | None = None
    interval_s: float = DEFAULT_INTERVAL_S
    huggingface: Path | None = None
    ollama: Path | None = None
    llamafarm: Path | None = None


def bridge_settings(values: Values) -> BridgeSettings:
    """Returns the settings of the bridge.

    Raises:
        UserError: There is a host and no port.
    """
    enabled, folders, port, host, interval_s = values.get_of(
        "bridge", "enabled", "folders", "http_port", "http_host", "interval_s"
    )
    if host and port is None:
        where = values["bridge.http_host"].where
        raise UserError(f"{where}: there is no http_port.", 'Give one, such as "http_port": 14345.')
    http = None if port is None else HostPort(host or "127.0.0.1", port)
    return BridgeSettings(
        enabled, folders, http, interval_s, *values.get_of("bridge", "huggingface", "ollama", "llamafarm")
    )


def _below(name: str) -> Check:
    """Returns the check for a variable that names a folder with that of the key in it."""
    return lambda text, where, _base: folder_path(text, where, Path.cwd()) / name


def _folder(value: Any, where: str, base: Path) -> Path:
    if not isinstance(value, str) or not value.strip():
        raise UserError(f"{where}: is not a folder.", 'Write it as "~/models".')
    return folder_path(value, where, base)


def _folders(value: Any, where: str, base: Path) -> tuple[Path, ...]:
    if not isinstance(value, list) or not all(isinstance(text, str) and text.strip() for text in value):
        raise UserError(f"{where}: is not a list of folders.", 'Write it as ["~/models"].')
    if len(value) > FOLDERS_MOST:
        raise UserError(f"{where}: has {len(value)} folders; at most {FOLDERS_MOST} are allowed.")
    return tuple(dict.fromkeys(folder_path(text, where, base) for text in value))


def _host(value: Any, where: str, _base: Path) -> str:
    try:
        return parse_host_port(f"[{value}]:0" if ":" in str(value) else f"{value}:0", "127.0.0.1").host
    except UserError as error:
        raise UserError(f"{where}: {value!r} is neither an IP address nor a host name.") from error


def _interval(value: Any, where: str, _base: Path) -> float:
    try:
        seconds = float("nan") if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        seconds = float("nan")
    if not INTERVAL_LEAST_S <= seconds <= INTERVAL_MOST_S:
        wanted = f"between {INTERVAL_LEAST_S:g} and {INTERVAL_MOST_S:g}"
        raise UserError(f"{where}: {value!r} is not a number of seconds {wanted}.")
    return seconds


KEYS = (
    Key("bridge.enabled", switch, True, (Variable("ATMO_BRIDGE"),)),
    Key("bridge.folders", _folders, ()),
    Key("bridge.http_port", whole(0, MAX_PORT, "a port"), None, (Variable("MODEL_BRIDGE_HTTP_PORT"),)),
    Key("bridge.http_host", _host, ""),
    Key("bridge.interval_s", _interval, DEFAULT_INTERVAL_S, (Variable("MODEL_BRIDGE_GOSSIP_INTERVAL"),)),
    Key(
        "bridge.huggingface",
        _folder,
        None,
        (
            Variable("HF_HUB_CACHE", _below("")),
            Variable("HF_HOME", _below("hub")),
            Variable("XDG_CACHE_HOME", _below("huggingface/hub")),
        ),
    ),
    Key("bridge.ollama", _folder, None, (Variable("OLLAMA_MODELS", _below("")),)),
    Key("bridge.llamafarm", _folder, None, (Variable("LLAMAFARM_HOME", _below("models")),)),
)
