from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from atmo.config.settings import load_settings
from atmo.config.transfer import TransferSettings
from atmo.errors import UserError
from atmo.storage.eviction import Limits
from atmo.transfer.limits import SIZE_CLASSES, Hours


def read(home: Path, value: Any) -> TransferSettings:
    (home / "config.json").write_text(json.dumps({"transfer": value}))
    return load_settings(home, {}).transfer


def test_nothing_means_no_limit(tmp_path: Path) -> None:
    assert read(tmp_path, {}) == TransferSettings()
    assert read(tmp_path, {"profile": "none", "download_mbps": 0}).limits.classes == ()


def test_rates_hours_and_profile(tmp_path: Path) -> None:
    settings = read(
        tmp_path,
        {
            "download_mbps": 80,
            "upload_mbps": 8,
            "transfer_mbps": 0.8,
            "profile": "size-classes",
            "at_once": 2,
            "schedule": [{"from": "22:00", "to": "06:30", "download_mbps": 400}, {"from": 480, "to": "24:00"}],
        },
    )
    limits = settings.limits
    assert (limits.download_bytes_s, limits.upload_bytes_s, limits.transfer_bytes_s) == (10e6, 1e6, 1e5)
    assert limits.classes == SIZE_CLASSES
    assert limits.hours == (Hours(1_320, 390, 50e6, 0.0), Hours(480, 1_440, 0.0, 0.0))
    assert settings.at_once == 2
    assert settings.limits_at(3_600).utc_offset_s == 3_600


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (5, "is a number where a mapping belongs"),
        ({"downlaod_mbps": 5}, 'Did you mean "download_mbps"?'),
        ({"download_mbps": -1}, "transfer: download_mbps: -1 is not a number of Mbit/s"),
        ({"upload_mbps": "fast"}, "transfer: upload_mbps: 'fast' is not a number"),
        ({"upload_mbps": True}, "is not a number"),
        ({"profile": "slow"}, "Choose one of none, size-classes"),
        ({"profile": ["none"]}, "is not known"),
        ({"at_once": 0}, "between 1 and 16"),
        ({"at_once": True}, "between 1 and 16"),
        ({"schedule": {}}, "schedule: is not a list"),
        ({"schedule": [{}] * 25}, "at most 24"),
        ({"schedule": [{"from": "8"}]}, "schedule[0]: from: '8' is not a time of day"),
        ({"schedule": [{"from": "08:00"}]}, "schedule[0]: to: None is not a time of day"),
        ({"schedule": [{"from": "08:00", "to": "24:01"}]}, "is not a time of day"),
        ({"schedule": [{"from": "08:00", "to": "08:00"}]}, "begins and ends at the same time"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, value: Any, message: str) -> None:
    with pytest.raises(UserError) as caught:
        read(tmp_path, value)
    assert message in str(caught.value)


def test_in_a_configuration(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("transfer: {upload_mbps: 8}\nstorage: {prefetch_gb: 2.5}\n")
    settings = load_settings(tmp_path, {})
    assert settings.transfer.limits.upload_bytes_s == 1e6
    assert settings.storage == Limits(prefetch_bytes=2_500_000_000)
