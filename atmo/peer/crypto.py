"""What a peer asks of cryptography: pure functions of bytes, so that a simulated world may remember their answers."""

from __future__ import annotations

from dataclasses import dataclass

from atmo.gossip.entry import OpenRecord, open_record_untrusted
from atmo.index.records import Open, open_provider_untrusted


@dataclass(frozen=True, slots=True)
class Crypto:
    """The functions; each takes an envelope and a mesh id, and raises `WireError` for what is not sound.

    Attributes:
        open_record: Opens records of the mesh.
        open_provider: Opens provider records of the index.
    """

    open_record: OpenRecord = open_record_untrusted
    open_provider: Open = open_provider_untrusted


REAL = Crypto()
"""Looks at every signature."""
