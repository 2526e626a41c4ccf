"""Settings on models: whose may come here, which are wanted, and which are kept up to date."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

from atmo.config.checks import choice, entry_of, refuse_unknown
from atmo.errors import UserError
from atmo.storage.decisions import FirstTime, TrustPolicy
from atmo.transfer.names import parse_spec
from atmo.trust.certificate import valid_role

PUBLISHERS_MOST = 256
INTERESTS_MOST = 32
"""Source: `atmo.gossip.records.ProfileBody`, which tells them."""

AUTO_MOST = 256
TEXT_CHARS = 128


def trust_policy(value: Any, where: str, base: Path) -> TrustPolicy:
    """Checks `trust`: `publishers`, `roles` and `first_time`, each of which may be left out."""
    entry = entry_of(value, where)
    refuse_unknown(entry, ("publishers", "roles", "first_time"), where)
    standard = TrustPolicy()
    publishers = _texts(entry.get("publishers", []), f"{where}: publishers", PUBLISHERS_MOST)
    roles = _texts(entry.get("roles", list(standard.roles)), f"{where}: roles", 16)
    for role in roles:
        if not valid_role(role):
            raise UserError(f"{where}: roles: {role!r} is no role's name.", "Use such as admin, founder, gateway.")
    first = choice(("ask", "refuse", "allow"))(
        entry.get("first_time", standard.first_time), f"{where}: first_time", base
    )
    return TrustPolicy(publishers, roles, cast(FirstTime, first))


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
