"""The functions that check one value each; every one says in its error where the value stands.

A check is `check(value, where, base)`: `where` opens its error message, `base` is what relative paths start from.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any
from urllib.parse import urlsplit

from atmo.config.values import HostPort, ProjectSettings, ServerSettings, parse_host_port
from atmo.errors import UserError, WireError
from atmo.reach.nat import SERVERS_MOST
from atmo.relay.address import RELAYS_MOST, RelayAddress

DEFAULT_OLLAMA_URL = "http://127.0.0.1:11434"
NAME_CHARS = 64
MAX_ENTRIES = 64
"""Servers and projects of one node, each (guess: beyond it somebody generates the file, and wrongly)."""


_PROJECT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
ELSEWHERE = {
    "backends": 'Ollama is set by "ollama", OpenAI-compatible servers by "servers".',
    "node_id": "A node's id is its key; it is made on the first start and cannot be set.",
    "node_name": 'The key is "name".',
    "mesh": "A mesh is joined by `atmo mesh join CODE`, not by the configuration.",
}
"""Keys that older documents show, with what took their place."""


def refuse_unknown(
    given: Iterable[str], known: Iterable[str], where: str, elsewhere: Mapping[str, str] = MappingProxyType({})
) -> None:
    """Raises a `UserError` that suggests the nearest known key; `elsewhere` holds hints for keys of other places."""
    known = list(known)
    for key in given:
        if key in known:
            continue
        hint = elsewhere.get(key, "")
        if not hint:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f'Did you mean "{near[0]}"?' if near else f"Known keys: {', '.join(known)}."
        raise UserError(f"{where}: {key}: there is no such key.", hint)


def refuse_twice(names: list[str], where: str) -> None:
    """Raises a `UserError` where two of `names` are equal."""
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"{where}: the name {name!r} is there twice.", "Give each one its own name.")


def _text(value: Any, where: str, *, limit: int = 1_024, empty: bool = False) -> str:
    if not isinstance(value, str):
        raise UserError(f"{where}: is {_kind(value)} where a text belongs.")
    if not value.strip() and not empty:
        raise UserError(f"{where}: is empty.")
    if len(value) > limit:
        raise UserError(f"{where}: has {len(value)} characters; at most {limit} are allowed.")
    if not value.isprintable():
        raise UserError(f"{where}: has characters that cannot be printed.")
    return value


def _kind(value: Any) -> str:
    kinds = {
        bool: "true or false",
        int: "a number",
        float: "a number",
        str: "a text",
        list: "a list",
        dict: "a mapping",
    }
    return "nothing" if value is None else kinds.get(type(value), type(value).__name__)


def node_name(value: Any, where: str, _base: Path) -> str:
    """Checks a name for people: any printable text of at most 64 characters."""
    return _text(value, where, limit=NAME_CHARS).strip()


def choice(options: tuple[str, ...]) -> Callable[[Any, str, Path], str]:
    """Returns the check for one of `options`."""

    def parse(value: Any, where: str, _base: Path) -> str:
        text = _text(value, where).strip().lower()
        if text not in options:
            near = difflib.get_close_matches(text, options, n=1)
            hint = f'Did you mean "{near[0]}"?' if near else f"Choose one of {', '.join(options)}."
            raise UserError(f"{where}: {value!r} is not known.", hint)
        return text

    return parse


def switch(value: Any, where: str, _base: Path) -> bool:
    """Checks a switch: true or false, in the environment also as 1, 0, on, off, yes or no."""
    if isinstance(value, bool):
        return value
    text = _text(value, where).strip().lower()
    if text in ("1", "true", "on", "yes"):
        return True
    if text in ("0", "false", "off", "no"):
        return False
    raise UserError(f"{where}: {value!r} is neither true nor false.")


def host_port(default_host: str) -> Callable[[Any, str, Path], HostPort]:
    """Returns the check for `HOST:PORT`, where an empty host means `default_host`."""

    def parse(value: Any, where: str, _base: Path) -> HostPort:
        text = _text(value, where)
        try:
            return parse_host_port(text, default_host)
        except UserError as error:
            raise UserError(f"{where}: {error.message}", error.hint) from error

    return parse


def _url(value: Any, where: str) -> str:
    text = _text(value, where).strip().rstrip("/")
    try:
        parts = urlsplit(text)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        good = False
    if not good:
        raise UserError(f"{where}: {text!r} is not an http or https URL.", "Write it as http://127.0.0.1:11434.")
    if "@" in parts.netloc:
        raise UserError(f"{where}: a URL may not hold a password.", 'Use "key_env" or "key_file".')
    return text


def ollama(value: Any, where: str, _base: Path) -> str | None:
    """Checks a URL; `false` (None) leaves Ollama alone, `true` means where it usually is."""
    if value is False or (isinstance(value, str) and value.strip().lower() in ("false", "off", "no")):
        return None
    if value is True or (isinstance(value, str) and value.strip().lower() in ("true", "on", "yes")):
        return DEFAULT_OLLAMA_URL
    return _url(value, where)


def _entries(value: Any, where: str, known: tuple[str, ...]) -> list[tuple[dict[str, Any], str]]:
    if not isinstance(value, list):
        raise UserError(f"{where}: is {_kind(value)} where a list belongs.")
    if len(value) > MAX_ENTRIES:
        raise UserError(f"{where}: has {len(value)} entries; at most {MAX_ENTRIES} are allowed.")
    entries = []
    for index, entry in enumerate(value):
        place = f"{where}[{index}]"
        if not isinstance(entry, dict):
            raise UserError(f"{place}: is {_kind(entry)} where a mapping belongs.")
        refuse_unknown([str(key) for key in entry], known, place)
        entries.append((entry, place))
    return entries


def entry_of(value: Any, where: str) -> dict[str, Any]:
    """Checks a mapping of names to values."""
    if not isinstance(value, dict):
        raise UserError(f"{where}: is {_kind(value)} where a mapping belongs.")
    return {str(key): item for key, item in value.items()}


def _required(entry: Mapping[str, Any], key: str, place: str) -> Any:
    if key not in entry:
        raise UserError(f"{place}: {key}: is missing.")
    return entry[key]


def _patterns(value: Any, where: str) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise UserError(f"{where}: is {_kind(value)} where a list of names belongs.")
    return tuple(_text(item, f"{where}[{index}]") for index, item in enumerate(value))


def _price(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1e6:
        raise UserError(f"{where}: {value!r} is not a price in US dollars for a thousand tokens.")
    return float(value)


def relay_list(value: Any, where: str, _base: Path) -> tuple[RelayAddress, ...]:
    """Checks URLs of relays: a list, or a text with spaces between."""
    texts = value.split() if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise UserError(f"{where}: is {_kind(value)} where a list of URLs belongs.")
    if len(texts) > RELAYS_MOST:
        raise UserError(f"{where}: has {len(texts)} relays; at most {RELAYS_MOST} are allowed.")
    relays = []
    for text in texts:
        try:
            relays.append(RelayAddress.parse_untrusted(text.strip()))
        except WireError as error:
            raise UserError(f"{where}: {error}.", "Run one with `atmo relay`, which prints its URL.") from error
    return tuple(dict.fromkeys(relays))


def stun_list(value: Any, where: str, _base: Path) -> tuple[HostPort, ...]:
    """Checks STUN servers, each `HOST:PORT`: a list, or a text with spaces between."""
    texts = value.split() if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise UserError(f"{where}: is {_kind(value)} where a list of HOST:PORT belongs.")
    if len(texts) > SERVERS_MOST:
        raise UserError(f"{where}: has {len(texts)} STUN servers; at most {SERVERS_MOST} are allowed.")
    servers = []
    for text in texts:
        try:
            server = parse_host_port(text, "")
        except UserError as error:
            raise UserError(f"{where}: {error.message}", "Write it as stun.example.org:3478.") from error
        if not server.host or not server.port:
            raise UserError(f"{where}: {text!r} is no server.", "Write it as stun.example.org:3478.")
        servers.append(server)
    return tuple(dict.fromkeys(servers))


def server_list(value: Any, where: str, base: Path) -> tuple[ServerSettings, ...]:
    """Checks a list of OpenAI-compatible servers."""
    servers = []
    for entry, place in _entries(value, where, ("name", "url", "key_env", "key_file", "price", "allow", "hide")):
        server = ServerSettings(
            name=node_name(_required(entry, "name", place), f"{place}: name", base),
            url=_url(_required(entry, "url", place), f"{place}: url"),
            key_env=_text(entry.get("key_env", ""), f"{place}: key_env", empty=True).strip(),
            key_file=_text(entry.get("key_file", ""), f"{place}: key_file", empty=True).strip(),
            price=_price(entry.get("price", 0), f"{place}: price"),
            allow=_patterns(entry.get("allow", []), f"{place}: allow"),
            hide=_patterns(entry.get("hide", []), f"{place}: hide"),
        )
        if server.key_env and server.key_file:
            raise UserError(f"{place}: has both key_env and key_file.", "Keep one of them.")
        if server.key_file:
            server = replace(server, key_file=str(folder_path(server.key_file, f"{place}: key_file", base)))
        servers.append(server)
    refuse_twice([server.name for server in servers], where)
    return tuple(servers)


def _project_name(value: Any, where: str) -> str:
    name = _text(value, where, limit=NAME_CHARS)
    if not _PROJECT_NAME.fullmatch(name):
        raise UserError(f"{where}: {name!r} is not a name for a project.", "Use letters, digits, '.', '_' and '-'.")
    return name


def folder_path(text: str, where: str, base: Path) -> Path:
    """Returns the path of a file or folder, which need not exist."""
    try:
        return base / Path(text).expanduser()
    except RuntimeError as error:
        raise UserError(f"{where}: {text}: there is no such user's home folder.") from error


def _folder(value: Any, where: str, base: Path) -> Path:
    path = folder_path(_text(value, where), where, base)
    if not path.is_dir():
        what = "is not a folder" if path.exists() else "does not exist"
        raise UserError(f"{where}: {path} {what}.", "Give a folder of Markdown or text files.")
    return path


def project_list(value: Any, where: str, base: Path) -> tuple[ProjectSettings, ...]:
    """Checks a list of folders of documents."""
    projects = [
        ProjectSettings(
            name=_project_name(_required(entry, "name", place), f"{place}: name"),
            path=_folder(_required(entry, "path", place), f"{place}: path", base),
            description=_text(entry.get("description", ""), f"{place}: description", empty=True).strip(),
        )
        for entry, place in _entries(value, where, ("name", "path", "description"))
    ]
    refuse_twice([project.name for project in projects], where)
    return tuple(projects)


def project_flag(text: str) -> ProjectSettings:
    """Checks `NAME=DIR`, where a relative folder starts from the working directory."""
    name, equals, folder = text.partition("=")
    if not equals:
        raise UserError(f"--project: {text!r} is not NAME=DIR.", "For example --project notes=~/notes.")
    return ProjectSettings(_project_name(name, "--project"), _folder(folder, "--project", Path.cwd()))
