"""A join code for tests of settings."""

from __future__ import annotations

from atmo.trust.joincode import JoinCode
from atmo.wire.address import Address
from tests.trust.kit import signer


def join_code(expires_s: int = 2_000_000_000) -> str:
    """Returns a code as `atmo mesh invite` prints it; nobody redeems it."""
    made = JoinCode(bytes(32), signer("anna").node_id, bytes(range(16)), (Address("127.0.0.1", 1),), expires_s)
    return made.text()
