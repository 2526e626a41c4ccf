"""Finds and reads the one configuration file of a home: JSON, YAML or TOML, into a plain dictionary."""

from __future__ import annotations

import json
import math
import stat
import tomllib
from collections import Counter
from pathlib import Path
from typing import Any

from atmo.errors import UserError

FILE_NAMES = ("config.json", "config.yaml", "config.yml", "config.toml")
MAX_FILE_BYTES = 1 << 20
"""A configuration is written by hand; a megabyte is a mistake (guess)."""

INT_BITS = 12_000
"""Of a number. Source: Python writes no more than 4,300 digits in an error, which are 14,284 bits."""

MAX_VALUES = 100_000
"""Values in it, those that YAML's aliases repeat counted each time: a few lines of them can stand for billions."""


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
    """Says whether there is something of that name, even a link that leads nowhere: somebody meant it to count.

    Raises:
        UserError: Nobody may look.
    """
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}.") from error
    return True


def read_config(path: Path) -> dict[str, Any]:
    """Reads a configuration file by the format that its name tells.

    Raises:
        UserError: It cannot be read, is not valid in its format, or is not a mapping with names as keys.
    """
    if path.suffix not in _PARSERS:
        raise UserError(f"{path}: its name must end in .json, .yaml, .yml or .toml.")
    value = _PARSERS[path.suffix](path, _text(path))
    if value is None:
        return {}
    _check_numbers(path, value)
    if not isinstance(value, dict):
        raise UserError(
            f"{path}: is not a mapping of keys to values.", 'Start with something like {"name": "kitchen"}.'
        )
    for key in value:
        if not isinstance(key, str):
            raise UserError(f"{path}: {key!r}: is not a name.", "Put it in quotes.")
    return value


def _text(path: Path) -> str:
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise UserError(f"{path}: is no file.")
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}.") from error
    if len(data) > MAX_FILE_BYTES:
        raise UserError(f"{path}: is too large; a configuration has at most {MAX_FILE_BYTES} bytes.")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is not UTF-8 text (byte {error.start}).") from error


def _check_numbers(path: Path, value: Any) -> None:
    """Refuses whole numbers that are too long to be told in an error."""
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, int) and item.bit_length() > INT_BITS:
            raise UserError(f"{path}: has a number of more than {INT_BITS} bits.")
        if isinstance(item, dict):
            waiting += [*item, *item.values()]
        elif isinstance(item, list):
            waiting += item


class _DuplicateKeyError(ValueError):
    """A JSON object names a key twice, of which Python would silently keep the last."""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        (name, _), *_ = Counter(name for name, _ in pairs).most_common(1)
        raise _DuplicateKeyError(name)
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
        loader = _unique_loader()(text)
        node = loader.get_single_node()
        if node is None:
            return None
        if _weight(node, {}) > MAX_VALUES:
            raise UserError(f"{path}: has more than {MAX_VALUES} values.", "Repeat less with aliases (*name).")
        return loader.construct_document(node)
    except _DuplicateKeyError as error:
        raise UserError(f"{path}{error}: is there twice.", "Keep one of them.") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f":{mark.line + 1}:{mark.column + 1}" if mark is not None else ""
        raise UserError(f"{path}{place}: is not valid YAML: {error.problem}.") from error
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise UserError(f"{path}: is not valid YAML: {_reason(error)}.") from error
    except (ArithmeticError, AttributeError, LookupError, TypeError) as error:
        # PyYAML's answers to numbers that are too large, and to tags such as !!int on what is none.
        raise UserError(f"{path}: is not valid YAML: a value is not what its tag says, or too large.") from error


def _weight(node: Any, known: dict[int, float]) -> float:
    """Returns how many values a node of YAML stands for; infinitely many where it holds itself."""
    import yaml

    if isinstance(node, yaml.ScalarNode):
        return 1
    if id(node) not in known:
        known[id(node)] = math.inf
        pairs = node.value if isinstance(node, yaml.MappingNode) else [(item,) for item in node.value]
        known[id(node)] = 1 + sum(_weight(child, known) for pair in pairs for child in pair)
    return known[id(node)]


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
