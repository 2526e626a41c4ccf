"""The document a mesh begins with. The mesh id is its hash, so nobody can change what it says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from blake3 import blake3

from atmo.errors import WireError
from atmo.identity import NodeId, Signer
from atmo.trust.certificate import valid_name
from atmo.wire import limits
from atmo.wire.envelope import NO_MESH, open_untrusted, seal
from atmo.wire.schema import Most, pack, unpack_untrusted

DOMAIN = "atmo/genesis/1"
MESH_ID_BYTES = 32


@dataclass(frozen=True, slots=True)
class Genesis:
    """What the founders agreed on.

    Attributes:
        name: For people; two meshes may share it.
        founders: Who may sign certificates without holding one from anybody; the first signs the genesis.
        created_s: Unix seconds.
        nonce: 16 random bytes: two meshes of one name, founder and second still differ.
    """

    name: Annotated[str, Most(limits.NAME_CHARS)]
    founders: Annotated[tuple[NodeId, ...], Most(16)]
    created_s: int
    nonce: Annotated[bytes, Most(16)]


def found(signer: Signer, name: str, created_s: int, nonce: bytes) -> bytes:
    """Returns the signed genesis of a new mesh with one founder.

    Raises:
        WireError: The name is one that every reader would refuse.
    """
    _check_name(name)
    return seal(signer, DOMAIN, NO_MESH, pack(Genesis(name, (signer.node_id,), created_s, nonce)))


def mesh_id(sealed: bytes) -> bytes:
    """Returns the 32-byte BLAKE3 hash of a sealed genesis."""
    return blake3(sealed).digest()


def open_genesis_untrusted(sealed: bytes) -> Genesis:
    """Reads a genesis.

    Raises:
        WireError: It does not decode, or was not signed by its first founder.
    """
    opened = open_untrusted(sealed, DOMAIN, NO_MESH)
    genesis = unpack_untrusted(Genesis, opened.payload)
    if not genesis.founders or genesis.founders[0] != opened.author:
        raise WireError("a genesis must be signed by its first founder")
    _check_name(genesis.name)
    return genesis


def _check_name(name: str) -> None:
    if not valid_name(name):
        raise WireError(f"the name of a mesh is not at most {limits.NAME_CHARS} printable characters")
