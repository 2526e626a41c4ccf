"""Settings on how much others may ask: clients by their address, nodes by their roles in the mesh."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from atmo.config.checks import decimal, kind_of, refuse_unknown, switch, whole
from atmo.config.keys import Key, Variable
from atmo.errors import UserError
from atmo.gateway.askers import BY_ROLE, NodeLimits
from atmo.trust.certificate import valid_role

OTHERS = "others"
"""Stands for every node without a role that is named beside it."""

ROLES_MOST = 32
CALLS_MOST = 4_096
RATE_MOST = 1_000_000.0

_FIELDS = ("at_once", "per_second", "burst")
_at_once = whole(1, CALLS_MOST, "a number of requests")
_per_second = decimal(RATE_MOST, "a number of requests a second")
_burst = decimal(RATE_MOST, "a number of requests")


def role_limits(value: Any, where: str, base: Path) -> Mapping[str, NodeLimits]:
    """Checks a mapping of roles to `{at_once, per_second, burst}`; what is left out is as for any other node."""
    if not isinstance(value, dict):
        raise UserError(f"{where}: is {kind_of(value)} where roles with their limits belong.")
    if len(value) > ROLES_MOST:
        raise UserError(f"{where}: has {len(value)} roles; at most {ROLES_MOST} are allowed.")
    return {str(role): _limits(str(role), limits, f"{where}: {role}", base) for role, limits in value.items()}


def _limits(role: str, value: Any, where: str, base: Path) -> NodeLimits:
    if not valid_role(role):
        raise UserError(f"{where}: is not a role.", f"Name one of the mesh, or {OTHERS!r} for all nodes without one.")
    if not isinstance(value, dict):
        raise UserError(f"{where}: is {kind_of(value)} where limits belong: {', '.join(_FIELDS)}.")
    refuse_unknown(value, _FIELDS, where)
    usual = BY_ROLE.get(role, NodeLimits())
    per_second = _per_second(value.get("per_second", usual.per_s), f"{where}: per_second", base)
    burst = max(1.0, 2 * per_second) if "per_second" in value else usual.burst
    return NodeLimits(
        _at_once(value.get("at_once", usual.calls), f"{where}: at_once", base),
        per_second,
        _burst(value.get("burst", burst), f"{where}: burst", base),
    )


KEYS = (
    Key("address_rate", decimal(RATE_MOST, "a number of requests a second"), 200.0, (Variable("ATMO_ADDRESS_RATE"),)),
    Key("limit_loopback", switch, False, (Variable("ATMO_LIMIT_LOOPBACK"),)),
    Key("role_limits", role_limits, MappingProxyType({})),
)
