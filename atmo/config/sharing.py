"""Settings on what the node is to others: its mode, its mesh, what it tells them, its limits and hints."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from atmo.backends.exposure import CATEGORIES, Exposure, Hints, Listing
from atmo.config.checks import choice, decimal, name_list, short_text, switch, whole
from atmo.config.keys import Check, Key, Values, Variable
from atmo.config.mode import MODES, PARTICIPANT
from atmo.errors import UserError, WireError
from atmo.router.capability import LATENCY_CLASSES, PRIORITIES
from atmo.trust.joincode import parse_join_code

REQUESTS_MOST = 4_096
"""At once, or waiting. Source: guess; each holds a task and a body."""

COST_MOST = 1_000.0


@dataclass(frozen=True, slots=True)
class MeshSettings:
    """What the configuration says of the mesh.

    Attributes:
        enabled: Whether the node takes part in one.
        join_code: Of the mesh that it joins when it starts and belongs to none; empty for none. Secret.
    """

    enabled: bool = True
    join_code: str = ""


@dataclass(frozen=True, slots=True)
class SharingSettings:
    """What the node is to others.

    Attributes:
        exposure: What the mesh is told of what it can run.
        hints: What it says of all that.
        max_concurrent_requests: That run at once, whoever asks; 0 for no limit beyond each capability's own.
        max_queue_depth: Requests that wait for their turn, of all capabilities; 0 for no limit beyond each one's own.
        local_only: Other nodes may ask only from this machine's own networks.
    """

    exposure: Exposure = field(default_factory=Exposure)
    hints: Hints = field(default_factory=Hints)
    max_concurrent_requests: int = 0
    max_queue_depth: int = 0
    local_only: bool = False


def sharing_settings(values: Values) -> SharingSettings:
    """Returns what the node is to others."""
    most, depth = values["max_concurrent_requests"].value, values["max_queue_depth"].value
    priority, latency, residency, cost = (
        values[name].value for name in ("priority", "latency_class", "residency", "cost_per_1k")
    )
    off = frozenset(name for name in CATEGORIES if not values[f"capabilities.categories.{name}"].value)
    exposure = Exposure(_listing(values, "models"), _listing(values, "projects"), off)
    hints = Hints(most, "" if priority == "normal" else priority, latency, residency, cost)
    return SharingSettings(exposure, hints, most, depth, values["local_only"].value)


def mesh_settings(values: Values) -> MeshSettings:
    """Returns what is said of the mesh."""
    return MeshSettings(*values.get_of("mesh", "enabled", "join_code"))


def _listing(values: Values, what: str) -> Listing:
    return Listing(*values.get_of(f"capabilities.{what}", "expose_all", "expose_list", "hide_list"))


def or_nothing(check: Check) -> Check:
    """Returns the check that takes an empty text, too."""
    return lambda value, where, base: "" if value == "" else check(value, where, base)


def _join_code(value: Any, where: str, base: Path) -> str:
    """Checks a join code; an error never shows it, for whoever has it may join."""
    if not isinstance(value, str):
        raise UserError(f"{where}: is not a join code.", "Make one with `atmo mesh invite`.")
    code = value.strip()
    if code:
        try:
            parse_join_code(code)
        except WireError as error:
            raise UserError(f"{where}: is not a join code.", "Make one with `atmo mesh invite`.") from error
    return code


def _listing_keys(what: str) -> tuple[Key, ...]:
    return (
        Key(f"capabilities.{what}.expose_all", switch),
        Key(f"capabilities.{what}.expose_list", name_list, ()),
        Key(f"capabilities.{what}.hide_list", name_list, ()),
    )


_REQUESTS = "a number of requests"
KEYS = (
    Key("mode", choice(MODES), PARTICIPANT, (Variable("ATMO_MODE"),), "--mode"),
    Key("discoverable", switch, True, (Variable("ATMO_DISCOVERABLE"),)),
    Key("mesh.enabled", switch, True, (Variable("ATMO_MESH"),)),
    Key("mesh.join_code", _join_code, "", (Variable("ATMO_JOIN_CODE"),), secret=True),
    *_listing_keys("models"),
    *_listing_keys("projects"),
    *(Key(f"capabilities.categories.{name}", switch, True) for name in CATEGORIES),
    Key(
        "max_concurrent_requests",
        whole(0, REQUESTS_MOST, _REQUESTS),
        0,
        (Variable("ATMO_MAX_CONCURRENT_REQUESTS"),),
    ),
    Key("max_queue_depth", whole(0, REQUESTS_MOST, _REQUESTS), 0, (Variable("ATMO_MAX_QUEUE_DEPTH"),)),
    Key("priority", choice(PRIORITIES), "normal", (Variable("ATMO_PRIORITY"),)),
    Key("latency_class", or_nothing(choice(LATENCY_CLASSES)), "", (Variable("ATMO_LATENCY_CLASS"),)),
    Key("residency", short_text, "", (Variable("ATMO_RESIDENCY"),)),
    Key(
        "cost_per_1k",
        decimal(COST_MOST, "a price in US dollars for a thousand tokens"),
        0.0,
        (Variable("ATMO_COST_PER_1K"),),
    ),
    Key("local_only", switch, False, (Variable("ATMO_LOCAL_ONLY"),)),
)
