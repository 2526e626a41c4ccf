"""Keys of different kinds never meet; positions cannot be chosen."""

from __future__ import annotations

from atmo.index import capability_key, manifest_key, model_key, node_key
from atmo.index.keys import bucket_of, position, to_bytes, to_int
from tests.index.kit import MESH, node


def test_each_kind_has_keys_of_its_own() -> None:
    text = "a" * 32
    keys = [model_key(text), capability_key(text), manifest_key(text.encode()), node_key(node(1))]
    assert len(dict.fromkeys(keys)) == 4
    assert all(len(key) == 32 for key in keys)


def test_a_position_depends_on_the_mesh() -> None:
    assert position(MESH, node(1)) != position(b"n" * 32, node(1))
    assert position(MESH, node(1)) == position(MESH, node(1))


def test_keys_are_positions() -> None:
    assert to_bytes(to_int(model_key("x"))) == model_key("x")


def test_buckets_count_the_leading_bits_in_common() -> None:
    assert [bucket_of(2**255), bucket_of(2**255 - 1), bucket_of(1), bucket_of(0)] == [0, 1, 255, 256]
