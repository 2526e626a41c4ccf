"""docs/features.md names every row and only files that exist; the documents link to what is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FEATURES = (ROOT / "docs" / "features.md").read_text()
ROWS = {"N": 13, "M": 25, "P": 7, "R": 13, "B": 11, "A": 13, "O": 9, "S": 3}


def rows() -> list[list[str]]:
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in FEATURES.splitlines()]
    return [row for row in cells if re.fullmatch(r"[A-Z]\d+", row[0])]


def test_every_row_is_there_once_and_in_order() -> None:
    expected = [f"{letter}{number}" for letter, count in ROWS.items() for number in range(1, count + 1)]
    assert [row[0] for row in rows()] == expected


def test_what_is_there_has_a_test_and_what_is_not_says_so() -> None:
    for name, _, where, proof in rows():
        assert ("not yet" in where) == (proof == ""), name
        assert "not yet" in where or "`" in where or "in part" in where, name


def test_named_files_exist() -> None:
    names = re.findall(r"`((?:atmo|tests|docs|tools|simulations)/[\w./-]+)`", FEATURES)
    assert [name for name in names if not (ROOT / name).exists() and not name.endswith("/1")] == []


@pytest.mark.parametrize(
    "document", ["README.md", *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md")))]
)
def test_links_lead_somewhere(document: str) -> None:
    path = ROOT / document
    targets = re.findall(r"\]\((?!https?://)([^)#]+)\)", path.read_text())
    assert [target for target in targets if not (path.parent / target).exists()] == []
