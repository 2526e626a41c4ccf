"""What a manifest says of a model's surroundings: who may have it, and what it was made from."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Annotated

from atmo.transfer import names
from atmo.trust.certificate import valid_role
from atmo.wire import limits
from atmo.wire.schema import Most

Name = Annotated[str, Most(limits.NAME_CHARS)]
Role = Annotated[str, Most(32)]


@dataclass(frozen=True, slots=True)
class Access:
    """Which members may do what with the model, by their roles; an empty list means everybody.

    Attributes:
        read: Get it from its holders.
        write: Publish versions of that name; its publisher always may.
        deploy: Send it to other nodes.
    """

    read: Annotated[tuple[Role, ...], Most(16)] = ()
    write: Annotated[tuple[Role, ...], Most(16)] = ()
    deploy: Annotated[tuple[Role, ...], Most(16)] = ()

    def __post_init__(self) -> None:
        for role in (*self.read, *self.write, *self.deploy):
            if not valid_role(role):
                raise ValueError(f"access names {role[:80]!r}, which is no role")

    def may_read(self, roles: Collection[str]) -> bool:
        """Says whether a member with these roles may get the model."""
        return not self.read or any(role in roles for role in self.read)

    def may_write(self, roles: Collection[str]) -> bool:
        """Says whether a member with these roles may publish another version."""
        return not self.write or any(role in roles for role in self.write)


@dataclass(frozen=True, slots=True)
class Base:
    """The model that another one was made from.

    Attributes:
        name, version: As in its manifest.
        manifest: 32 bytes, the name of that manifest, where it is known.
    """

    name: Name
    version: Annotated[str, Most(names.VERSION_CHARS)]
    manifest: Annotated[bytes, Most(32)] | None = None

    def __post_init__(self) -> None:
        names.check_name(self.name)
        if names.check_version(self.version) != self.version:
            raise ValueError(f"the base's version {self.version[:80]!r} is not in normal form")
        if self.manifest is not None and len(self.manifest) != 32:
            raise ValueError(f"the base's manifest has a name of {len(self.manifest)} bytes, not 32")
