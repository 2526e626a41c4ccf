"""What the configuration and the environment say of the bridge to other programs' models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from atmo.config.checks import entry_of, folder_path, refuse_unknown, switch
from atmo.config.values import MAX_PORT, HostPort, parse_host_port
from atmo.errors import UserError

DEFAULT_INTERVAL_S = 300.0
"""Source: seed 001, MODEL_BRIDGE_GOSSIP_INTERVAL."""

INTERVAL_LEAST_S, INTERVAL_MOST_S = 5.0, 86_400.0
FOLDERS_MOST = 16
_KEYS = ("enabled", "folders", "http_port", "http_host", "interval_s")


@dataclass(frozen=True, slots=True)
class BridgeSettings:
    """Which models of other programs this node offers, and where.

    Attributes:
        enabled: Whether it does.
        folders: Folders with models beside those of LlamaFarm, HuggingFace and Ollama.
        http: Where the bridge listens beside the node's endpoint; None for nowhere.
        interval_s: How often it looks what there is.
        huggingface: HuggingFace's cache, where the environment names one.
        ollama: Ollama's store, likewise.
    """

    enabled: bool = True
    folders: tuple[Path, ...] = ()
    http: HostPort | None = None
    interval_s: float = DEFAULT_INTERVAL_S
    huggingface: Path | None = None
    ollama: Path | None = None


def bridge_settings(value: Any, where: str, base: Path) -> BridgeSettings:
    """Checks the mapping under the key `bridge`; `false` alone turns the bridge off."""
    if isinstance(value, bool):
        return BridgeSettings(enabled=value)
    entry = entry_of(value, where)
    refuse_unknown(entry, _KEYS, where)
    settings = BridgeSettings()
    if "enabled" in entry:
        settings = replace(settings, enabled=switch(entry["enabled"], f"{where}: enabled", base))
    if "folders" in entry:
        settings = replace(settings, folders=_folders(entry["folders"], f"{where}: folders", base))
    if "http_port" in entry:
        settings = replace(settings, http=HostPort("127.0.0.1", _port(entry["http_port"], f"{where}: http_port")))
    if "http_host" in entry:
        if settings.http is None:
            raise UserError(f"{where}: http_host: there is no http_port.", 'Give one, such as "http_port": 14345.')
        settings = replace(settings, http=_host(entry["http_host"], f"{where}: http_host", settings.http.port))
    if "interval_s" in entry:
        settings = replace(settings, interval_s=_interval(entry["interval_s"], f"{where}: interval_s"))
    return settings


def from_environment(settings: BridgeSettings, environ: Mapping[str, str], home: Path) -> BridgeSettings:
    """Puts the environment over the settings: `ATMO_BRIDGE`, the variables of seed 001, HuggingFace's and Ollama's.

    Args:
        settings: As the file says.
        environ: The environment.
        home: The node's folder.
    """
    if text := environ.get("ATMO_BRIDGE", ""):
        settings = replace(settings, enabled=switch(text, "ATMO_BRIDGE", home))
    if text := environ.get("MODEL_BRIDGE_HTTP_PORT", ""):
        host = settings.http.host if settings.http is not None else "127.0.0.1"
        settings = replace(settings, http=HostPort(host, _port(text, "MODEL_BRIDGE_HTTP_PORT")))
    if text := environ.get("MODEL_BRIDGE_GOSSIP_INTERVAL", ""):
        settings = replace(settings, interval_s=_interval(text, "MODEL_BRIDGE_GOSSIP_INTERVAL"))
    for variable, below in (("XDG_CACHE_HOME", "huggingface/hub"), ("HF_HOME", "hub"), ("HF_HUB_CACHE", "")):
        if text := environ.get(variable, ""):
            settings = replace(settings, huggingface=folder_path(text, variable, Path.cwd()) / below)
    if text := environ.get("OLLAMA_MODELS", ""):
        settings = replace(settings, ollama=folder_path(text, "OLLAMA_MODELS", Path.cwd()))
    return settings


def _folders(value: Any, where: str, base: Path) -> tuple[Path, ...]:
    if not isinstance(value, list) or not all(isinstance(text, str) and text.strip() for text in value):
        raise UserError(f"{where}: is not a list of folders.", 'Write it as ["~/models"].')
    if len(value) > FOLDERS_MOST:
        raise UserError(f"{where}: has {len(value)} folders; at most {FOLDERS_MOST} are allowed.")
    return tuple(dict.fromkeys(folder_path(text, where, base) for text in value))


def _port(value: Any, where: str) -> int:
    text = str(value).strip()
    if isinstance(value, bool) or not (text.isascii() and text.isdigit() and len(text) <= 5 and int(text) <= MAX_PORT):
        raise UserError(f"{where}: {value!r} is not a port between 0 and {MAX_PORT}.")
    return int(text)


def _host(value: Any, where: str, port: int) -> HostPort:
    try:
        return parse_host_port(f"[{value}]:{port}" if ":" in str(value) else f"{value}:{port}", "127.0.0.1")
    except UserError as error:
        raise UserError(f"{where}: {value!r} is neither an IP address nor a host name.") from error


def _interval(value: Any, where: str) -> float:
    try:
        seconds = float("nan") if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        seconds = float("nan")
    if not INTERVAL_LEAST_S <= seconds <= INTERVAL_MOST_S:
        wanted = f"between {INTERVAL_LEAST_S:g} and {INTERVAL_MOST_S:g}"
        raise UserError(f"{where}: {value!r} is not a number of seconds {wanted}.")
    return seconds
