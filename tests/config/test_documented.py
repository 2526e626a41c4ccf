"""`docs/CONFIGURATION.md` tells of every key, its variables, flag and default, and of none that is not there."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from atmo.backends.places import FOUND_NAMES
from atmo.config.keys import Key
from atmo.config.llamafarm import LAYOUT
from atmo.config.report import config_rows
from atmo.config.settings import KEYS, load_settings
from atmo.config.spellings import SPELLINGS

PAGE = Path(__file__).parents[2] / "docs" / "CONFIGURATION.md"
TEXT = PAGE.read_text(encoding="utf-8")
COLUMNS = 6
ROWS = {
    cells[0].strip("`"): cells
    for cells in ([cell.strip() for cell in line.split("|")[1:-1]] for line in TEXT.splitlines())
    if len(cells) == COLUMNS and cells[0].startswith("`")
}


def coded(cell: str) -> list[str]:
    return re.findall(r"`([^`\n]+)`", cell)


def shown(value: Any) -> str:
    if value in (None, "", [], {}):
        return ""
    return value if isinstance(value, str) else json.dumps(value)


@pytest.mark.parametrize("key", KEYS, ids=lambda key: key.name)
def test_every_key_is_told_of(key: Key, tmp_path: Path) -> None:
    _name, _type, default, variables, flag, _meaning = ROWS[key.name]
    assert coded(variables) == [variable.name for variable in key.variables]
    assert coded(flag) == ([key.flag] if key.flag else [])
    if key.name == "name":
        return
    value = next(row["value"] for row in config_rows(load_settings(tmp_path, {}).settled) if row["key"] == key.name)
    if key.name == "discover":
        value = value == list(FOUND_NAMES)
    assert "".join(coded(default)) == shown(value)


def test_no_other_key_is_told_of() -> None:
    assert set(ROWS) == {key.name for key in KEYS}


def test_every_server_that_is_looked_for_is_told_of() -> None:
    assert set(FOUND_NAMES) <= set(coded("|".join(ROWS["discover"])))


def test_the_entries_of_seed_003_are_told_of() -> None:
    told = set(coded(re.sub(r"```.*?```", "", TEXT, flags=re.DOTALL)))
    for name in LAYOUT:
        assert name in told or name.rpartition(".")[0] in told or name == "discovery", name
    assert set(SPELLINGS) <= told


def test_the_example_is_right(tmp_path: Path) -> None:
    (example,) = re.findall(r"```json\n(.*?)```", TEXT, re.DOTALL)
    (tmp_path / "config.json").write_text(example.replace("~/notes", str(tmp_path)))
    assert load_settings(tmp_path, {}).mode == "provider"
