"""The setting by which chunks travel in clear."""

from __future__ import annotations

from pathlib import Path

import pytest

from atmo.config.transfer import transfer_settings
from atmo.errors import UserError


def test_chunks_travel_in_clear_only_where_somebody_says_so() -> None:
    assert not transfer_settings({}, "transfer", Path()).clear_on_lan
    assert transfer_settings({"clear_on_lan": True}, "transfer", Path()).clear_on_lan
    with pytest.raises(UserError, match="clear_on_lan"):
        transfer_settings({"clear_on_lan": "perhaps"}, "transfer", Path())
