"""Where nodes and keys are in the space of 256 bits."""

from __future__ import annotations

from functools import lru_cache

from blake3 import blake3

from atmo.identity import NodeId

KEY_BITS = 256
KEY_BYTES = 32


@lru_cache(maxsize=2**15)
def position(mesh: bytes, node: NodeId) -> int:
    """Returns where a node is: a hash, so that nobody gets a place of its choice without trying many keys."""
    return int.from_bytes(blake3(b"atmo/index/position/1\0" + mesh + node).digest(), "big")


def model_key(name: str) -> bytes:
    """Returns the key under which those who hold a model of this name are found."""
    return _key("model", name.encode())


def manifest_key(manifest: bytes) -> bytes:
    """Returns the key under which those who hold exactly this model are found.

    Args:
        manifest: The 32-byte hash of its sealed manifest.
    """
    return _key("manifest", manifest)


def capability_key(capability: str) -> bytes:
    """Returns the key under which those who offer a capability are found."""
    return _key("capability", capability.encode())


def model_capability_key(capability: str) -> bytes:
    """Returns the key under which those who hold a model with a capability are found, whether or not they run it."""
    return _key("model-capability", capability.encode())


def node_key(node: NodeId) -> bytes:
    """Returns the key under which a node itself is found."""
    return _key("node", bytes(node))


def _key(kind: str, value: bytes) -> bytes:
    return blake3(f"atmo/index/{kind}/1".encode() + b"\0" + value).digest()


def to_int(key: bytes) -> int:
    """Returns a key as a position."""
    return int.from_bytes(key, "big")


def to_bytes(place: int) -> bytes:
    """Returns a position as a key."""
    return place.to_bytes(KEY_BYTES, "big")


def bucket_of(distance: int) -> int:
    """Returns how many leading bits two positions share, given their distance: 0 far, 255 next door, 256 the same."""
    return KEY_BITS - distance.bit_length()
