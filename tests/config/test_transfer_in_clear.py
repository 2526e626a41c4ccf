"""The setting by which chunks travel in clear."""

from __future__ import annotations

from pathlib import Path

import pytest

from atmo.config.settings import load_settings
from atmo.errors import UserError


def test_chunks_travel_in_clear_only_where_somebody_says_so(tmp_path: Path) -> None:
    assert not load_settings(tmp_path, {}).transfer.clear_on_lan
    (tmp_path / "config.yaml").write_text("transfer: {clear_on_lan: true}")
    assert load_settings(tmp_path, {}).transfer.clear_on_lan
    (tmp_path / "config.yaml").write_text("transfer: {clear_on_lan: perhaps}")
    with pytest.raises(UserError, match="clear_on_lan"):
        load_settings(tmp_path, {})
