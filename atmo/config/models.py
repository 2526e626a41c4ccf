"""Settings on models: whose may come here, which are wanted, and which are kept up to date."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

from atmo.config.checks import choice
from atmo.config.keys import Key, Values
from atmo.errors import UserError
from atmo.storage.decisions import FirstTime, TrustPolicy
from atmo.transfer.names import parse_spec
from atmo.trust.certificate import valid_role

PUBLISHERS_MOST = 256
INTERESTS_MOST = 32
"""Source: `atmo.gossip.records.ProfileBody`, which tells them."""

AUTO_MOST = 256
ROLES_MOST = 16
TEXT_CHARS = 128


def trust_policy(values: Values) -> TrustPolicy:
    """Returns whose models may come here."""
    publishers, roles, first_time = values.get_of("trust", "publishers", "roles", "first_time")
    return TrustPolicy(publishers, roles, cast(FirstTime, first_time))


def _publishers(value: Any, where: str, _base: Path) -> tuple[str, ...]:
    return _texts(value, where, PUBLISHERS_MOST)


def _roles(value: Any, where: str, _base: Path) -> tuple[str, ...]:
    roles = _texts(value, where, ROLES_MOST)
    for role in roles:
        if not valid_role(role):
            raise UserError(f"{where}: {role!r} is no role's name.", "Use such as admin, founder, gateway.")
    return roles


def interest_list(value: Any, where: str, _base: Path) -> tuple[str, ...]:
    """Checks `interests`: capabilities of models that are wanted here."""
    return _texts(value, where, INTERESTS_MOST)


def auto_update(value: Any, where: str, _base: Path) -> Mapping[str, str]:
    """Checks `auto_update`, a list of `NAME[@RANGE]`; returns ranges by name, an empty one for all versions."""
    kept = {}
    for text in _texts(value, where, AUTO_MOST):
        try:
            spec = parse_spec(text)
        except ValueError as error:
            raise UserError(f"{where}: {error}.", "Write NAME or 'NAME@>=1,<2'.") from error
        if spec.name in kept:
            raise UserError(f"{where}: the name {spec.name!r} is there twice.", "Keep one of them.")
        kept[spec.name] = "" if spec.text == "latest" else spec.text
    return MappingProxyType(kept)


def _texts(value: Any, where: str, most: int) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise UserError(f"{where}: is not a list of texts.", 'Write it as ["...", "..."].')
    if len(value) > most:
        raise UserError(f"{where}: has {len(value)} entries; at most {most} are allowed.")
    for item in value:
        if not item.strip() or len(item) > TEXT_CHARS or not item.isprintable():
            raise UserError(f"{where}: {item[:80]!r} is empty, too long, or cannot be printed.")
    return tuple(dict.fromkeys(item.strip() for item in value))


KEYS = (
    Key("trust.publishers", _publishers, TrustPolicy().publishers),
    Key("trust.roles", _roles, TrustPolicy().roles),
    Key("trust.first_time", choice(("ask", "refuse", "allow")), TrustPolicy().first_time),
    Key("interests", interest_list, ()),
    Key("auto_update", auto_update, MappingProxyType({})),
)
