"""The values that settings are made of."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from atmo.errors import UserError

MAX_PORT = 65_535
SERVER_CONCURRENCY = 8

_HOST_NAME = re.compile(r"(?=.{1,253}\Z)[A-Za-z0-9_]([A-Za-z0-9_-]{0,62})(\.[A-Za-z0-9_-]{1,63})*\.?\Z")


class HostPort(NamedTuple):
    """A host, which may be a name, and a port; port 0 lets the system choose one."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def loopback(self) -> bool:
        """Only this machine can reach it."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


def parse_host_port(text: str, default_host: str = "127.0.0.1") -> HostPort:
    """Reads `HOST:PORT`, `[IPV6]:PORT` or `:PORT`, which means `default_host`.

    Raises:
        UserError: It has another form, or the port is not between 0 and 65535.
    """
    match = re.fullmatch(r"(?:\[(?P<v6>[^\[\]]*)\]|(?P<name>[^:\[\]]*)):(?P<port>[^:]*)", text.strip())
    if match is None:
        what = "has no port" if ":" not in text else "is not HOST:PORT"
        hint = "Write an IPv6 address as [::1]:11451." if text.count(":") > 1 else "Write it as 127.0.0.1:11451."
        raise UserError(f"{text!r} {what}.", hint)
    port = match["port"]
    if not re.fullmatch("[0-9]{1,5}", port) or int(port) > MAX_PORT:
        raise UserError(f"{text!r}: the port {port!r} is not a number between 0 and {MAX_PORT}.")
    if match["v6"] is not None:
        try:
            return HostPort(str(ipaddress.IPv6Address(match["v6"])), int(port))
        except ValueError as error:
            raise UserError(f"{text!r}: {match['v6']!r} is not an IPv6 address.") from error
    if not match["name"]:
        return HostPort(default_host, int(port))
    host = match["name"]
    if not _HOST_NAME.match(host) or (re.fullmatch(r"[0-9.]+", host) and not _is_ipv4(host)):
        raise UserError(f"{text!r}: {host!r} is neither an IP address nor a host name.")
    return HostPort(host, int(port))


def _is_ipv4(text: str) -> bool:
    try:
        ipaddress.IPv4Address(text)
    except ValueError:
        return False
    return True


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """An OpenAI-compatible server to offer to the mesh.

    Attributes:
        name: For people and for logs; unique among the servers.
        url: Base URL such as `https://api.example.org/v1`, without a slash at its end.
        key_env: Environment variable that holds the API key, empty when there is none.
        key_file: File that holds the API key, empty when there is none.
        price: US dollars for a thousand tokens.
        allow: Patterns (`fnmatch`) of model names to offer; empty means all.
        hide: Patterns of model names never to offer; stronger than `allow`.
        operations: What its models do where neither their names nor the server tell; empty leaves it to those.
        concurrency: Requests that it gets at once, for each model.
        priority: `low`, `normal` or `high`, empty for what the node says.
        latency_class: `local`, `regional` or `global`, likewise.
        residency: Where data stays, such as `US`, likewise.
    """

    name: str
    url: str
    key_env: str = ""
    key_file: str = ""
    price: float = 0.0
    allow: tuple[str, ...] = ()
    hide: tuple[str, ...] = ()
    operations: tuple[str, ...] = ()
    concurrency: int = SERVER_CONCURRENCY
    priority: str = ""
    latency_class: str = ""
    residency: str = ""


@dataclass(frozen=True, slots=True)
class ProjectSettings:
    """A folder of Markdown or text to answer questions from.

    Attributes:
        name: The model name that requests use.
        path: The folder, absolute.
        description: What it is about; routing by meaning compares questions with it.
    """

    name: str
    path: Path
    description: str = ""
