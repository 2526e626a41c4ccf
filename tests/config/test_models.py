"""Settings on models: whose may come here, which are wanted, which are kept up to date."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from atmo.config.settings import load_settings
from atmo.errors import UserError
from atmo.storage.decisions import TrustPolicy


def write(home: Path, **said: Any) -> Path:
    (home / "config.json").write_text(json.dumps(said))
    return home


def test_without_settings_a_person_is_asked(tmp_path: Path) -> None:
    settings = load_settings(tmp_path, {})
    assert settings.trust == TrustPolicy((), ("admin", "founder"), "ask")
    assert settings.interests == ()
    assert settings.auto_update == {}


def test_everything_that_can_be_said(tmp_path: Path) -> None:
    trust = {"publishers": ["central", "central"], "roles": ["gateway"], "first_time": "Refuse"}
    said = {"trust": trust, "interests": ["chat"], "auto_update": ["iris@<2", "net@latest", "owner/m"]}
    settings = load_settings(write(tmp_path, **said), {})
    assert settings.trust == TrustPolicy(("central",), ("gateway",), "refuse")
    assert settings.interests == ("chat",)
    assert settings.auto_update == {"iris": "<2", "net": "", "owner/m": ""}


@pytest.mark.parametrize(
    ("said", "complaint"),
    [
        ({"trust": []}, "trust: is a list where a mapping belongs"),
        ({"trust": {"publisher": []}}, 'Did you mean "publishers"'),
        ({"trust": {"roles": ["No Role"]}}, "'No Role' is no role's name"),
        ({"trust": {"first_time": "maybe"}}, "first_time: 'maybe' is not known"),
        ({"trust": {"publishers": "central"}}, "publishers: is not a list of texts"),
        ({"interests": ["x"] * 33}, "has 33 entries; at most 32 are allowed"),
        ({"interests": [" "]}, "is empty, too long, or cannot be printed"),
        ({"auto_update": ["a b"]}, "is not a model name"),
        ({"auto_update": ["a@<1", "a@>2"]}, "the name 'a' is there twice"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, said: dict[str, Any], complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        load_settings(write(tmp_path, **said), {})
