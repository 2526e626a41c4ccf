"""The block `atmosphere:` of LlamaFarm's own configuration (seed 003), read as a weaker source of the same keys."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from atmo.config.checks import decimal, entry_of, folder_path, is_switch, kind_of, refuse_unknown, switch, whole
from atmo.config.keys import LLAMAFARM, Given, Key, Origin, Problems, Values, Variable
from atmo.config.layout import Layout, Note, Reading, Spread, To
from atmo.config.sharing import COST_MOST
from atmo.config.values import MAX_PORT, HostPort, parse_host_port
from atmo.errors import UserError

BLOCK = "atmosphere"


def place_of(values: Values, environ: Mapping[str, str]) -> Path | None:
    """Returns LlamaFarm's configuration file, which need not exist; None where it is not to be read.

    Args:
        values: What the other sources say of the key `llamafarm_config`.
        environ: `LLAMAFARM_HOME`, else the folder `.llamafarm` of the user whose environment it is.
    """
    said = values["llamafarm_config"].value
    if isinstance(said, Path) or said is False:
        return said or None
    folder = environ.get("LLAMAFARM_HOME", "")
    user = environ.get("HOME", "") or environ.get("USERPROFILE", "")
    if not folder and not user:
        return None
    if not folder:
        return Path(user) / ".llamafarm" / "config.yaml"
    try:
        return folder_path(folder, "LLAMAFARM_HOME", Path.cwd()) / "config.yaml"
    except UserError:
        return None  # told of where `bridge.llamafarm` is read from the same variable


def read_block(raw: Mapping[str, Any], path: Path, base: Path, problems: Problems) -> Iterator[Given]:
    """Yields what the block says, if it is there; everything beside it is LlamaFarm's own business."""
    block = raw.get(BLOCK)
    if block is None:
        return
    where = f"{path}: {BLOCK}"
    if not isinstance(block, dict):
        problems.errors.append(UserError(f"{where}: is {kind_of(block)} where a mapping belongs."))
        return
    reading = Reading(LAYOUT, Origin(LLAMAFARM, str(path)), base, problems, empty_is_unset=True)
    yield from reading.read(block, where)


def _config_file(value: Any, where: str, base: Path) -> Path | bool:
    """Checks a file, or false for none; true is where LlamaFarm has it."""
    if is_switch(value):
        return switch(value, where, base)
    if not isinstance(value, str) or not value.strip():
        raise UserError(f"{where}: is {kind_of(value)} where a file or false belongs.")
    path = folder_path(value.strip(), where, base)
    if not path.is_file():
        raise UserError(f"{where}: {path} does not exist.", "Name LlamaFarm's config.yaml, or false for none.")
    return path


def _cost_per_token(value: Any, where: str, base: Path) -> float:
    return decimal(COST_MOST / 1_000, "a price in US dollars for a token")(value, where, base) * 1_000


def _discovery(value: Any, where: str, problems: Problems) -> Iterator[tuple[str, Any, str]]:
    """Where LlamaFarm's own server is: its port, and its address where that is not this machine's loopback."""
    entry = {key: item for key, item in entry_of(value, where).items() if item is not None}
    refuse_unknown(entry, ("http_port", "grpc_port", "advertise_address"), where)
    if "grpc_port" in entry:
        whole(1, MAX_PORT, "a port")(entry["grpc_port"], f"{where}: grpc_port", Path())
        problems.notes.append(f"{where}: grpc_port: has no effect: LlamaFarm is asked over HTTP.")
    if "http_port" not in entry and "advertise_address" not in entry:
        return
    port = whole(1, MAX_PORT, "a port")(entry.get("http_port", 14345), f"{where}: http_port", Path())
    host, at = str(entry.get("advertise_address", "127.0.0.1")), f"{where}: advertise_address"
    try:
        place = parse_host_port(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
    except UserError as error:
        raise UserError(f"{at}: {host[:64]!r} is neither an IP address nor a host name.") from error
    yield "llamafarm", f"http://{HostPort(place.host, port)}", where


def _listing(what: str) -> dict[str, To]:
    names = (f"capabilities.{what}.{name}" for name in ("expose_all", "expose_list", "hide_list"))
    return {name: To(name) for name in names}


LAYOUT: Layout = {
    "discoverable": To("discoverable"),
    "mode": To("mode"),
    "mesh.enabled": To("mesh.enabled"),
    "mesh.join_code": To("mesh.join_code"),
    "mesh.announce_interval": Note("has no effect: the mesh is told of every change at once."),
    **_listing("models"),
    **_listing("projects"),
    **{
        f"capabilities.categories.{name}": To(f"capabilities.categories.{name}")
        for name in ("llm", "embeddings", "vision", "rag", "agents", "audio")
    },
    "resources.max_concurrent_requests": To("max_concurrent_requests"),
    "resources.max_queue_depth": To("max_queue_depth"),
    "resources.priority": To("priority"),
    "resources.cost_per_token": To("cost_per_1k", _cost_per_token),
    "resources.latency_class": To("latency_class"),
    "privacy.local_only": To("local_only"),
    "privacy.require_auth": To("require_key"),
    "privacy.data_residency": To("residency"),
    "discovery": Spread(_discovery),
}
"""Entry of the block -> the key that it sets."""

KEYS = (Key("llamafarm_config", _config_file, True, (Variable("ATMO_LLAMAFARM_CONFIG"),)),)
