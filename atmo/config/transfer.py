"""The settings of transfers, under the key `transfer`: how fast they may be, when, and how many at once."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from atmo.config.checks import entry_of, refuse_unknown, switch
from atmo.config.keys import Key, Values
from atmo.errors import UserError
from atmo.transfer.limits import SIZE_CLASSES, Hours, LimitsConfig

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


def transfer_settings(values: Values) -> TransferSettings:
    """Returns what holds for transfers."""
    download, upload, transfer, profile, hours, at_once, clear = values.get_of(
        "transfer", "download_mbps", "upload_mbps", "transfer_mbps", "profile", "schedule", "at_once", "clear_on_lan"
    )
    limits = LimitsConfig(download * _BYTES_S, upload * _BYTES_S, transfer * _BYTES_S, PROFILES[profile], hours)
    return TransferSettings(limits, at_once, clear)


def _mbps(value: Any, where: str, _base: Path) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= MBPS_MOST:
        raise UserError(f"{where}: {value!r} is not a number of Mbit/s, such as 50.", "0 means no limit.")
    return float(value)


def _rate(entry: dict[str, Any], key: str, where: str, base: Path) -> float:
    return _mbps(entry.get(key, 0), f"{where}: {key}", base) * _BYTES_S


def _profile(value: Any, where: str, _base: Path) -> str:
    if not isinstance(value, str) or value not in PROFILES:
        raise UserError(f"{where}: {value!r} is not known.", f"Choose one of {', '.join(PROFILES)}.")
    return value


def _schedule(value: Any, where: str, base: Path) -> tuple[Hours, ...]:
    if not isinstance(value, list):
        raise UserError(f"{where}: is not a list.", 'Write it as [{"from": "08:00", "to": "18:00", ...}].')
    if len(value) > HOURS_MOST:
        raise UserError(f"{where}: has {len(value)} entries; at most {HOURS_MOST} are allowed.")
    return tuple(_hours(item, f"{where}[{index}]", base) for index, item in enumerate(value))


def _hours(value: Any, where: str, base: Path) -> Hours:
    entry = entry_of(value, where)
    refuse_unknown(entry, _HOURS_KEYS, where)
    begin, end = (_minute(entry.get(key), f"{where}: {key}") for key in ("from", "to"))
    if begin == end:
        raise UserError(f"{where}: begins and ends at the same time.", "Write 00:00 to 24:00 for the whole day.")
    return Hours(begin, end, _rate(entry, "download_mbps", where, base), _rate(entry, "upload_mbps", where, base))


def _minute(value: Any, where: str) -> int:
    """Reads `HH:MM`; YAML reads an unquoted 18:00 as the number of minutes."""
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 24 * 60:
        return value
    match = re.fullmatch(r"([01]?[0-9]|2[0-4]):([0-5][0-9])", value) if isinstance(value, str) else None
    minute = int(match[1]) * 60 + int(match[2]) if match else -1
    if not 0 <= minute <= 24 * 60:
        raise UserError(f"{where}: {value!r} is not a time of day.", 'Write it as "18:00".')
    return minute


def _at_once(value: Any, where: str, _base: Path) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= AT_ONCE_MOST:
        raise UserError(f"{where}: {value!r} is not a number between 1 and {AT_ONCE_MOST}.")
    return value


KEYS = (
    Key("transfer.download_mbps", _mbps, 0.0),
    Key("transfer.upload_mbps", _mbps, 0.0),
    Key("transfer.transfer_mbps", _mbps, 0.0),
    Key("transfer.profile", _profile, "none"),
    Key("transfer.schedule", _schedule, ()),
    Key("transfer.at_once", _at_once, AT_ONCE),
    Key("transfer.clear_on_lan", switch, False),
)
