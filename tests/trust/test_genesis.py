"""The genesis: signed by its first founder, named by its hash."""

from __future__ import annotations

import pytest

from atmo.errors import WireError
from atmo.trust.genesis import DOMAIN, Genesis, found, mesh_id, open_genesis_untrusted
from atmo.wire.envelope import NO_MESH, seal
from atmo.wire.schema import pack
from tests.trust.kit import ANNA, FOUNDER, GENESIS, START_S


def test_a_genesis_says_what_was_founded() -> None:
    genesis = open_genesis_untrusted(GENESIS)
    assert (genesis.name, genesis.founders, genesis.created_s) == ("home", (FOUNDER.node_id,), START_S)


def test_two_meshes_of_one_name_differ() -> None:
    assert mesh_id(GENESIS) != mesh_id(found(FOUNDER, "home", START_S, b"another nonce..."))


def test_the_first_founder_signs() -> None:
    for founders in ((ANNA.node_id,), ()):
        document = seal(FOUNDER, DOMAIN, NO_MESH, pack(Genesis("home", founders, START_S, b"n" * 16)))
        with pytest.raises(WireError, match="first founder"):
            open_genesis_untrusted(document)


@pytest.mark.parametrize("name", ["a\nb", "x" * 129])
def test_a_name_is_printable_and_short(name: str) -> None:
    with pytest.raises(WireError, match="printable"):
        found(FOUNDER, name, START_S, b"n" * 16)


def test_a_foreign_genesis_with_an_unprintable_name_is_refused() -> None:
    document = seal(FOUNDER, DOMAIN, NO_MESH, pack(Genesis("\x07", (FOUNDER.node_id,), START_S, b"n" * 16)))
    with pytest.raises(WireError, match="printable"):
        open_genesis_untrusted(document)
