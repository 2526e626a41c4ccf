"""The functions that check one value each; every one says in its error where the value stands.

A check is `check(value, where, base)`: `where` opens its error message, `base` is what relative paths start from.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar
from urllib.parse import urlsplit

from atmo.backends.llm_names import SERVED
from atmo.config.keys import Problems
from atmo.config.values import SERVER_CONCURRENCY, HostPort, ProjectSettings, ServerSettings, parse_host_port
from atmo.errors import UserError, WireError
from atmo.reach.nat import SERVERS_MOST
from atmo.relay.address import RELAYS_MOST, RelayAddress
from atmo.router.capability import LATENCY_CLASSES, PRIORITIES

NAME_CHARS = 64
MAX_ENTRIES = 64
"""Servers and projects of one node, each (guess: beyond it somebody generates the file, and wrongly)."""

NAMES_MOST = 256
"""Names and patterns in one list. Source: a choice, the capabilities that a backend may have."""

T = TypeVar("T")

_SERVER_KEYS = (
    "name", "url", "key_env", "key_file", "price", "allow", "hide", "operations", "concurrency", "priority",
    "latency_class", "residency",
)  # fmt: skip
CONCURRENCY_MOST = 1_024
_ON, _OFF = ("1", "true", "on", "yes"), ("0", "false", "off", "no")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_PROJECT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def unknown_key(key: str, known: Iterable[str], where: str, elsewhere: Mapping[str, str]) -> UserError:
    """Returns the error that suggests the nearest known key; `elsewhere` holds hints for keys of other places."""
    known = list(known)
    hint = elsewhere.get(key, "")
    if not hint:
        near = difflib.get_close_matches(key, known, n=1)
        hint = f'Did you mean "{near[0]}"?' if near else f"Known keys: {', '.join(known)}."
    return UserError(f"{where}: {key[:NAME_CHARS]}: there is no such key.", hint)


def refuse_unknown(
    given: Iterable[str], known: Iterable[str], where: str, elsewhere: Mapping[str, str] = MappingProxyType({})
) -> None:
    """Raises a `UserError` for keys that are not known."""
    known, problems = list(known), Problems()
    problems.errors += [unknown_key(key, known, where, elsewhere) for key in given if key not in known]
    problems.raise_all()


def refuse_twice(names: list[str], where: str) -> None:
    """Raises a `UserError` where two of `names` are equal."""
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"{where}: the name {name!r} is there twice.", "Give each one its own name.")


def _text(value: Any, where: str, *, limit: int = 1_024, empty: bool = False) -> str:
    if not isinstance(value, str):
        raise UserError(f"{where}: is {kind_of(value)} where a text belongs.")
    if not value.strip() and not empty:
        raise UserError(f"{where}: is empty.")
    if len(value) > limit:
        raise UserError(f"{where}: has {len(value)} characters; at most {limit} are allowed.")
    if not value.isprintable():
        raise UserError(f"{where}: has characters that cannot be printed.")
    return value


def kind_of(value: Any) -> str:
    """Returns what a value is, in words."""
    number = "a number"
    kinds = {bool: "true or false", int: number, float: number, str: "a text", list: "a list", dict: "a mapping"}
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


def is_switch(value: Any) -> bool:
    """Says whether a value is what `switch` takes, where something else may stand, too."""
    return isinstance(value, bool) or (isinstance(value, str) and value.strip().lower() in (*_ON, *_OFF))


def switch(value: Any, where: str, _base: Path) -> bool:
    """Checks a switch: true or false, in the environment also as 1, 0, on, off, yes or no."""
    if isinstance(value, bool):
        return value
    text = _text(value, where).strip().lower()
    if text in _ON:
        return True
    if text in _OFF:
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


def url(value: Any, where: str, _base: Path | None = None) -> str:
    """Checks a URL of http or https without a password in it."""
    text = _text(value, where).strip().rstrip("/")
    try:
        parts = urlsplit(text)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        good = good and text.isascii() and not {" ", "?", "#"}.intersection(text)
    except ValueError:
        good = False
    if not good:
        shown = "it" if {"@", "?"}.intersection(text) else repr(text)  # there may be a password, or a key
        raise UserError(f"{where}: {shown} is not an http or https URL.", "Write it as http://127.0.0.1:11434.")
    if "@" in parts.netloc:
        hint = 'Give it by "key_env" or "key_file" of "servers", to a collector by OTEL_EXPORTER_OTLP_HEADERS.'
        raise UserError(f"{where}: a URL may not hold a password.", hint)
    return text


def server_url(usual: str) -> Callable[[Any, str, Path], str | None]:
    """Returns the check for a URL, where `false` (None) leaves that server alone, and `true` means `usual`."""

    def parse(value: Any, where: str, base: Path) -> str | None:
        if is_switch(value):
            return usual if switch(value, where, base) else None
        return url(value, where)

    return parse


def whole(least: int, most: int, what: str) -> Callable[[Any, str, Path], int]:
    """Returns the check for a whole number, in the environment also as a text."""

    def parse(value: Any, where: str, _base: Path) -> int:
        text = str(value).strip()
        good = not isinstance(value, bool) and text.isascii() and text.isdigit() and len(text) <= len(str(most))
        if not good or not least <= int(text) <= most:
            raise UserError(f"{where}: {str(value)[:NAME_CHARS]!r} is not {what}, {least} to {most}.")
        return int(text)

    return parse


def decimal(most: float, what: str) -> Callable[[Any, str, Path], float]:
    """Returns the check for a number from 0 up to `most`, in the environment also as a text."""

    def parse(value: Any, where: str, _base: Path) -> float:
        try:
            number = math.nan if isinstance(value, bool) else float(value)
        except (TypeError, ValueError, OverflowError):
            number = math.nan
        if not 0 <= number <= most:
            raise UserError(f"{where}: {str(value)[:NAME_CHARS]!r} is not {what}.")
        return number

    return parse


def short_text(value: Any, where: str, _base: Path) -> str:
    """Checks a text that may be empty."""
    return _text(value, where, limit=NAME_CHARS, empty=True).strip()


def name_list(value: Any, where: str, _base: Path) -> tuple[str, ...]:
    """Checks a list of names or patterns, in the environment a text with spaces between."""
    texts = value.split() if isinstance(value, str) else value
    if not isinstance(texts, list):
        raise UserError(f"{where}: is {kind_of(value)} where a list of names belongs.")
    if len(texts) > NAMES_MOST:
        raise UserError(f"{where}: has {len(texts)} entries; at most {NAMES_MOST} are allowed.")
    return tuple(dict.fromkeys(patterns(texts, where)))


def _each(value: Any, where: str, known: tuple[str, ...], read: Callable[[dict[str, Any], str], T]) -> list[T]:
    """Reads a list of mappings; what is wrong with one does not hide what is wrong with the others."""
    if not isinstance(value, list):
        raise UserError(f"{where}: is {kind_of(value)} where a list belongs.")
    if len(value) > MAX_ENTRIES:
        raise UserError(f"{where}: has {len(value)} entries; at most {MAX_ENTRIES} are allowed.")
    problems, found = Problems(), []
    for index, entry in enumerate(value):
        place = f"{where}[{index}]"
        with problems.kept():
            if not isinstance(entry, dict):
                raise UserError(f"{place}: is {kind_of(entry)} where a mapping belongs.")
            refuse_unknown([str(key) for key in entry], known, place)
            found.append(read(entry, place))
    problems.raise_all()
    return found


def entry_of(value: Any, where: str) -> dict[str, Any]:
    """Checks a mapping of names to values."""
    if not isinstance(value, dict):
        raise UserError(f"{where}: is {kind_of(value)} where a mapping belongs.")
    return {str(key): item for key, item in value.items()}


def _required(entry: Mapping[str, Any], key: str, place: str) -> Any:
    if key not in entry:
        raise UserError(f"{place}: {key}: is missing.")
    return entry[key]


def patterns(value: Any, where: str) -> tuple[str, ...]:
    """Checks a list of names or patterns."""
    if not isinstance(value, list):
        raise UserError(f"{where}: is {kind_of(value)} where a list of names belongs.")
    return tuple(_text(item, f"{where}[{index}]") for index, item in enumerate(value))


def _price(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1e6:
        raise UserError(f"{where}: {value!r} is not a price in US dollars for a thousand tokens.")
    return float(value)


def relay_list(value: Any, where: str, _base: Path) -> tuple[RelayAddress, ...]:
    """Checks URLs of relays: a list, or a text with spaces between."""
    texts = value.split() if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise UserError(f"{where}: is {kind_of(value)} where a list of URLs belongs.")
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
        raise UserError(f"{where}: is {kind_of(value)} where a list of HOST:PORT belongs.")
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
    servers = _each(value, where, _SERVER_KEYS, lambda entry, place: _server(entry, place, base))
    refuse_twice([server.name for server in servers], where)
    return tuple(servers)


def _server(entry: dict[str, Any], place: str, base: Path) -> ServerSettings:
    server = ServerSettings(
        name=node_name(_required(entry, "name", place), f"{place}: name", base),
        url=url(_required(entry, "url", place), f"{place}: url"),
        key_env=_variable_name(entry.get("key_env", ""), f"{place}: key_env"),
        key_file=_text(entry.get("key_file", ""), f"{place}: key_file", empty=True).strip(),
        price=_price(entry.get("price", 0), f"{place}: price"),
        allow=patterns(entry.get("allow", []), f"{place}: allow"),
        hide=patterns(entry.get("hide", []), f"{place}: hide"),
        operations=_operations(entry.get("operations", []), f"{place}: operations"),
        concurrency=whole(1, CONCURRENCY_MOST, "a number of requests")(
            entry.get("concurrency", SERVER_CONCURRENCY), f"{place}: concurrency", base
        ),
        residency=_text(entry.get("residency", ""), f"{place}: residency", limit=NAME_CHARS, empty=True).strip(),
        **{
            key: choice(options)(entry[key], f"{place}: {key}", base)
            for key, options in (("priority", PRIORITIES), ("latency_class", LATENCY_CLASSES))
            if entry.get(key)
        },
    )
    if server.key_env and server.key_file:
        raise UserError(f"{place}: has both key_env and key_file.", "Keep one of them.")
    if server.key_file:
        server = replace(server, key_file=str(folder_path(server.key_file, f"{place}: key_file", base)))
    return server


def _variable_name(value: Any, where: str) -> str:
    """Checks the name of an environment variable; who puts the key itself there does not see it again in errors."""
    name = _text(value, where, empty=True).strip()
    if name and not _VARIABLE.fullmatch(name):
        hint = "Put the key into a variable and name that here, or use key_file."
        raise UserError(f"{where}: is not the name of an environment variable.", hint)
    return name


def _operations(value: Any, where: str) -> tuple[str, ...]:
    chosen = patterns(value, where)
    for operation in chosen:
        if operation not in SERVED:
            raise UserError(f"{where}: {operation!r} is not known.", f"Choose of {', '.join(SERVED)}.")
    return chosen


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

    def read(entry: dict[str, Any], place: str) -> ProjectSettings:
        return ProjectSettings(
            name=_project_name(_required(entry, "name", place), f"{place}: name"),
            path=_folder(_required(entry, "path", place), f"{place}: path", base),
            description=_text(entry.get("description", ""), f"{place}: description", empty=True).strip(),
        )

    projects = _each(value, where, ("name", "path", "description"), read)
    refuse_twice([project.name for project in projects], where)
    return tuple(projects)


def project_flags(value: Any, where: str, base: Path) -> tuple[ProjectSettings, ...]:
    """Checks a list of `NAME=DIR`, where a relative folder starts from the working directory."""
    projects = []
    for text in value:
        name, equals, folder = str(text).partition("=")
        if not equals:
            raise UserError(f"{where}: {text!r} is not NAME=DIR.", f"For example {where} notes=~/notes.")
        projects.append(ProjectSettings(_project_name(name, where), _folder(folder, where, base)))
    refuse_twice([project.name for project in projects], where)
    return tuple(projects)


def added_projects(
    kept: tuple[ProjectSettings, ...], added: tuple[ProjectSettings, ...]
) -> tuple[ProjectSettings, ...]:
    """Returns both, where an added one replaces one of the same name."""
    names = {project.name for project in added}
    return (*(project for project in kept if project.name not in names), *added)
