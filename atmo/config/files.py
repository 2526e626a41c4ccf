"""Finds and reads the one configuration file of a home: JSON, YAML or TOML, into a plain dictionary."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

from atmo.errors import UserError

FILE_NAMES = ("config.json", "config.yaml", "config.yml", "config.toml")
MAX_FILE_BYTES = 1 << 20
"""A configuration is written by hand; a megabyte is a mistake (guess)."""


def find_config(home: Path) -> Path | None:
    """Returns the configuration file of `home`, None where there is none.

    Raises:
        UserError: There is more than one, so it is unclear which one counts.
    """
    found = [home / name for name in FILE_NAMES if exists(home / name)]
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise UserError(f"{home} has more than one configuration file: {names}.", "Keep one of them.")
    return found[0] if found else None


def exists(path: Path) -> bool:
    """Says whether there is such a file.

    Raises:
        UserError: Nobody may look.
    """
    try:
        return path.is_file()
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}.") from error


def read_config(path: Path) -> dict[str, Any]:
    """Reads a configuration file by the format that its name tells.

    Raises:
        UserError: It cannot be read, is not valid in its format, or is not a mapping with names as keys.
    """
    if path.suffix not in _PARSERS:
        raise UserError(f"{path}: its name must end in .json, .yaml, .yml or .toml.")
    try:
        size = path.stat().st_size
        data = path.read_bytes() if size <= MAX_FILE_BYTES else b""
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}.") from error
    if size > MAX_FILE_BYTES:
        raise UserError(f"{path}: has {size} bytes; a configuration has at most {MAX_FILE_BYTES}.")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is not UTF-8 text (byte {error.start}).") from error
    value = _PARSERS[path.suffix](path, text)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise UserError(
            f"{path}: is not a mapping of keys to values.", 'Start with something like {"name": "kitchen"}.'
        )
    for key in value:
        if not isinstance(key, str):
            raise UserError(f"{path}: {key!r}: is not a name.", "Put it in quotes.")
    return value


class _DuplicateKeyError(ValueError):
    """A JSON object names a key twice, of which Python would silently keep the last."""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        names = [name for name, _ in pairs]
        raise _DuplicateKeyError(next(name for name in names if names.count(name) > 1))
    return result


def _json(path: Path, text: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_unique) if text.strip() else None
    except json.JSONDecodeError as error:
        raise UserError(f"{path}:{error.lineno}:{error.colno}: is not valid JSON: {error.msg}.") from error
    except _DuplicateKeyError as error:
        raise UserError(f"{path}: {error}: is there twice.", "Keep one of them.") from error
    except (RecursionError, ValueError) as error:
        raise UserError(f"{path}: is not valid JSON: {_reason(error)}.") from error


def _reason(error: Exception) -> str:
    return "it is nested too deeply" if isinstance(error, RecursionError) else str(error).splitlines()[0].rstrip(".")


def _yaml(path: Path, text: str) -> Any:
    import yaml

    try:
        return yaml.load(text, Loader=_unique_loader())
    except _DuplicateKeyError as error:
        raise UserError(f"{path}{error}: is there twice.", "Keep one of them.") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f":{mark.line + 1}:{mark.column + 1}" if mark is not None else ""
        raise UserError(f"{path}{place}: is not valid YAML: {error.problem}.") from error
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise UserError(f"{path}: is not valid YAML: {_reason(error)}.") from error


def _unique_loader() -> Any:
    """Returns a safe loader that refuses a mapping that names a key twice."""
    import yaml

    class Loader(yaml.SafeLoader):
        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
            seen = set()
            for key, _ in node.value:
                if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                    if key.value in seen:
                        mark = key.start_mark
                        raise _DuplicateKeyError(f":{mark.line + 1}:{mark.column + 1}: {key.value}")
                    seen.add(key.value)
            return super().construct_mapping(node, deep)

    return Loader


def _toml(path: Path, text: str) -> Any:
    try:
        return tomllib.loads(text)
    except (RecursionError, ValueError) as error:
        raise UserError(f"{path}: is not valid TOML: {_reason(error)}.") from error


_PARSERS = {".json": _json, ".yaml": _yaml, ".yml": _yaml, ".toml": _toml}
