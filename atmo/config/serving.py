"""Settings of the endpoint and of the model servers behind it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from atmo.backends.places import FOUND_NAMES
from atmo.config.checks import folder_path, is_switch, kind_of, name_list, server_url, switch, url
from atmo.config.keys import Key, Variable
from atmo.config.sharing import or_nothing
from atmo.config.values import HostPort, parse_host_port
from atmo.errors import UserError

OLLAMA_PORT = 11_434
OLLAMA_URL = "http://127.0.0.1:11434"
LLAMAFARM_URL = "http://127.0.0.1:14345"
LLAMAFARM_RUNTIME_URL = "http://127.0.0.1:11540"

ORIGINS_MOST = HOSTS_MOST = 64


def _discover(value: Any, where: str, base: Path) -> tuple[str, ...]:
    """Checks true for all, false for none, or a list."""
    if is_switch(value):
        return FOUND_NAMES if switch(value, where, base) else ()
    kinds = name_list(value, where, base)
    for kind in kinds:
        if kind not in FOUND_NAMES:
            raise UserError(f"{where}: {kind!r} is not known.", f"Choose of {', '.join(FOUND_NAMES)}.")
    return kinds


def _ollama_host(value: Any, where: str, _base: Path) -> str:
    """Checks Ollama's own variable, which says where it listens: a host, a port or a URL, all optional."""
    text = str(value).strip().strip("\"'")
    scheme, found, rest = text.partition("://")
    scheme, rest = (scheme.lower(), rest) if found else ("http", text)
    usual = {"http": 80, "https": 443}.get(scheme, OLLAMA_PORT) if found else OLLAMA_PORT
    place = rest.partition("/")[0] or ":"
    if place.count(":") > 1 and not place.startswith("["):
        place = f"[{place}]"
    try:
        at = parse_host_port(place if re.search(r":[0-9]+$", place.rpartition("]")[2]) else f"{place}:{usual}")
    except UserError as error:
        raise UserError(f"{where}: {error.message}", error.hint) from error
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(at.host, at.host)
    return url(f"{scheme}://{HostPort(host, at.port)}", where)


def _origins(value: Any, where: str, base: Path) -> tuple[str, ...]:
    """Checks origins of web pages, such as `https://chat.example.org`."""
    origins = name_list(value, where, base)
    if len(origins) > ORIGINS_MOST:
        raise UserError(f"{where}: has {len(origins)} origins; at most {ORIGINS_MOST} are allowed.")
    for index, origin in enumerate(origins):
        if origin == "*":
            hint = "Name each one: with '*' every web page that anybody opens could use this node."
            raise UserError(f"{where}: '*' is not an origin.", hint)
        if url(origin, f"{where}[{index}]").count("/") != 2:
            raise UserError(f"{where}: {origin!r} is not an origin.", "Write it without a path: https://example.org.")
    return tuple(origin.rstrip("/").lower() for origin in origins)


def _hosts(value: Any, where: str, base: Path) -> tuple[str, ...]:
    """Checks names of this machine, such as `host.docker.internal`."""
    names = name_list(value, where, base)
    if len(names) > HOSTS_MOST:
        raise UserError(f"{where}: has {len(names)} names; at most {HOSTS_MOST} are allowed.")
    for name in names:
        try:
            known = parse_host_port(f"{name}:1").host == name
        except UserError:
            known = False
        if not known:
            raise UserError(f"{where}: {name!r} is not a host name.", "Write it without a port: gpu.example.lan.")
    return tuple(name.rstrip(".").lower() for name in names)


def _access_log(value: Any, where: str, base: Path) -> bool | Path:
    """Checks true for the node's log, false for none, or a file."""
    if is_switch(value):
        return switch(value, where, base)
    if not isinstance(value, str) or not value.strip():
        raise UserError(f"{where}: is {kind_of(value)} where true, false or a file belongs.")
    return folder_path(value.strip(), where, base)


KEYS = (
    Key("discover", _discover, FOUND_NAMES, (Variable("ATMO_DISCOVER"),)),
    Key(
        "ollama",
        server_url(OLLAMA_URL),
        OLLAMA_URL,
        (Variable("ATMO_OLLAMA_URL"), Variable("OLLAMA_HOST", _ollama_host)),
    ),
    Key(
        "llamafarm",
        server_url(LLAMAFARM_URL),
        LLAMAFARM_URL,
        (Variable("ATMO_LLAMAFARM_URL"), Variable("LLAMAFARM_URL")),
    ),
    Key(
        "llamafarm_runtime",
        server_url(LLAMAFARM_RUNTIME_URL),
        LLAMAFARM_RUNTIME_URL,
        (Variable("ATMO_LLAMAFARM_RUNTIME_URL"),),
    ),
    Key("require_key", switch, False, (Variable("ATMO_REQUIRE_KEY"),)),
    Key("cors", _origins, (), (Variable("ATMO_CORS"),)),
    Key("hosts", _hosts, (), (Variable("ATMO_HOSTS"),)),
    Key("access_log", _access_log, True, (Variable("ATMO_ACCESS_LOG"),)),
    Key(
        "otel_endpoint",
        or_nothing(url),
        "",
        (Variable("ATMO_OTEL_ENDPOINT"), Variable("OTEL_EXPORTER_OTLP_ENDPOINT")),
    ),
)
