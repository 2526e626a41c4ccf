"""The modes, and the page that tells of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from atmo.config.mode import MODES, ModeRules, rules_of
from atmo.config.settings import Settings
from atmo.config.sharing import MeshSettings

PAGE = Path(__file__).parents[2] / "docs" / "MODES.md"


def test_the_page_has_a_row_for_each_mode() -> None:
    rows = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    assert [row.split("`")[1] for row in rows] == list(MODES)


@pytest.mark.parametrize("mode", MODES)
def test_rules_of_settings(mode: str) -> None:
    assert Settings("n", mode=mode).rules == rules_of(mode)
    hidden = Settings("n", mode=mode, discoverable=False).rules
    assert (hidden.announces, hidden.accepts) == (False, False)
    assert (hidden.mesh, hidden.routes_away, hidden.serves) == (
        rules_of(mode).mesh,
        rules_of(mode).routes_away,
        rules_of(mode).serves,
    )
    alone = Settings("n", mode=mode, mesh=MeshSettings(enabled=False)).rules
    assert alone == ModeRules(mode, False, False, False, False, rules_of(mode).serves)
