"""The settings of transfers, under the key `transfer`: how fast they may be, when, and how many at once."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from atmo.config.checks import entry_of, refuse_unknown, switch
from atmo.errors import UserError
from atmo.transfer.limits import SIZE_CLASSES, Hours, LimitsConfig

_KEYS = ("download_mbps", "upload_mbps", "transfer_mbps", "profile", "schedule", "at_once", "clear_on_lan")
_HOURS_KEYS = ("from", "to", "download_mbps", "upload_mbps")
PROFILES = {"none": (), "size-classes": SIZE_CLASSES}
"""Limits of each download by its size; `size-classes` is that of seed 001."""

HOURS_MOST = 24
AT_ONCE, AT_ONCE_MOST = 4, 16
"""Source: guess; one transfer fills the link, and the engine holds 16."""

MBPS_MOST = 1e6
_BYTES_S = 1e6 / 8


@dataclass(frozen=True, slots=True)
class TransferSettings:
    """What holds for transfers.

    Attributes:
        limits: How fast they may be; its times of day are local ones.
        at_once: How many run at a time; others queue.
        clear_on_lan: Chunks travel unencrypted between this node and those on its own private networks that allow it,
            too. Everybody there can read them; nobody can change them.
    """

    limits: LimitsConfig = field(default_factory=LimitsConfig)
    at_once: int = AT_ONCE
    clear_on_lan: bool = False

    def limits_at(self, utc_offset_s: int) -> LimitsConfig:
        """Returns the limits where local time is so far ahead of UTC."""
        return replace(self.limits, utc_offset_s=utc_offset_s)


def transfer_settings(value: Any, where: str, base: Path) -> TransferSettings:
    """Checks the mapping: rates in Mbit/s, 0 or nothing for no limit."""
    entry = entry_of(value, where)
    refuse_unknown(entry, _KEYS, where)
    profile = entry.get("profile", "none")
    if not isinstance(profile, str) or profile not in PROFILES:
        raise UserError(f"{where}: profile: {profile!r} is not known.", f"Choose one of {', '.join(PROFILES)}.")
    limits = LimitsConfig(
        download_bytes_s=_rate(entry, "download_mbps", where),
        upload_bytes_s=_rate(entry, "upload_mbps", where),
        transfer_bytes_s=_rate(entry, "transfer_mbps", where),
        classes=PROFILES[profile],
        hours=_schedule(entry.get("schedule", []), f"{where}: schedule"),
    )
    return TransferSettings(
        limits,
        _at_once(entry.get("at_once", AT_ONCE), f"{where}: at_once"),
        switch(entry.get("clear_on_lan", False), f"{where}: clear_on_lan", base),
    )


def _rate(entry: dict[str, Any], key: str, where: str) -> float:
    value = entry.get(key, 0)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= MBPS_MOST:
        raise UserError(f"{where}: {key}: {value!r} is not a number of Mbit/s, such as 50.", "0 means no limit.")
    return value * _BYTES_S


def _schedule(value: Any, where: str) -> tuple[Hours, ...]:
    if not isinstance(value, list):
        raise UserError(f"{where}: is not a list.", 'Write it as [{"from": "08:00", "to": "18:00", ...}].')
    if len(value) > HOURS_MOST:
        raise UserError(f"{where}: has {len(value)} entries; at most {HOURS_MOST} are allowed.")
    return tuple(_hours(item, f"{where}[{index}]") for index, item in enumerate(value))


def _hours(value: Any, where: str) -> Hours:
    entry = entry_of(value, where)
    refuse_unknown(entry, _HOURS_KEYS, where)
    begin, end = (_minute(entry.get(key), f"{where}: {key}") for key in ("from", "to"))
    if begin == end:
        raise UserError(f"{where}: begins and ends at the same time.", "Write 00:00 to 24:00 for the whole day.")
    return Hours(begin, end, _rate(entry, "download_mbps", where), _rate(entry, "upload_mbps", where))


def _minute(value: Any, where: str) -> int:
    """Reads `HH:MM`; YAML reads an unquoted 18:00 as the number of minutes."""
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 24 * 60:
        return value
    match = re.fullmatch(r"([01]?[0-9]|2[0-4]):([0-5][0-9])", value) if isinstance(value, str) else None
    minute = int(match[1]) * 60 + int(match[2]) if match else -1
    if not 0 <= minute <= 24 * 60:
        raise UserError(f"{where}: {value!r} is not a time of day.", 'Write it as "18:00".')
    return minute


def _at_once(value: Any, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= AT_ONCE_MOST:
        raise UserError(f"{where}: {value!r} is not a number between 1 and {AT_ONCE_MOST}.")
    return value
