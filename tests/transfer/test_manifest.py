from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atmo.errors import WireError
from atmo.identity import Signer
from atmo.transfer.manifest import (
    ChunkPlace,
    Deployment,
    Manifest,
    ModelFile,
    NodeRequirements,
    chunk_hash,
    manifest_id,
    most_bytes,
    open_manifest_untrusted,
    seal_manifest,
)
from atmo.wire import codec, envelope, limits, schema
from tests.transfer.samples import SIGNER, SMALL_CHUNK, file_of, manifest_of

FULL = manifest_of(
    description="Irises by their petals",
    trained_on="2026-02-02T15:30:00Z",
    training_data_domain="botany",
    training_node="central-01",
    requirements=("scikit-learn>=1.0", "numpy"),
    capabilities=("anomaly_detection", "network_monitoring"),
    config={"contamination": 0.1, "columns": ["a", "b"], "deep": {"yes": True, "none": None, "n": -5}},
    node_requirements=NodeRequirements(512, 1, True, ("x86_64", "arm64")),
    deployment=Deployment("high", 3, ("eu",), ("edge", "gateway")),
)


def test_what_is_sealed_is_what_is_opened() -> None:
    sealed = seal_manifest(SIGNER, FULL)
    assert open_manifest_untrusted(sealed) == (FULL, SIGNER.node_id)
    assert len(manifest_id(sealed)) == 32
    assert manifest_id(sealed) != manifest_id(seal_manifest(Signer(bytes(32)), FULL))


def test_a_large_model_has_one_byte_string_for_its_chunks() -> None:
    count = 40_000  # beyond the codec's limit of items
    file = ModelFile("big.gguf", count * SMALL_CHUNK, bytes(32), SMALL_CHUNK, bytes(32 * count))
    manifest = Manifest("big", "1", "llm", "big.gguf", "gguf", file.size_bytes, bytes(32), (file,))
    assert open_manifest_untrusted(seal_manifest(SIGNER, manifest))[0] == manifest


def test_chunk_places_cover_all_files_in_order() -> None:
    data = bytes(range(256)) * 600
    manifest = manifest_of({"a.bin": data, "empty": b"", "dir/b.bin": b"tail"})
    places = list(manifest.chunk_places())
    assert [(place.file, place.offset, place.size) for place in places] == [
        (0, 0, 65_536),
        (0, 65_536, 65_536),
        (0, 131_072, 22_528),
        (2, 0, 4),
    ]
    assert places[-1] == ChunkPlace(2, 0, 4, chunk_hash(b"tail"))
    assert manifest.main.path == "a.bin"


GOOD = file_of("model.onnx", b"x" * 100)
WRONG_FIELDS: list[tuple[str, dict[str, Any]]] = [
    ("not a model name", {"name": "a b"}),
    ("normal form", {"version": "V1"}),
    ("not a PEP 440", {"version": "new"}),
    ("type", {"type": "two words"}),
    ("type", {"type": ""}),
    ("format", {"format": "ö"}),
    ("capability", {"capabilities": ("a b",)}),
    ("ISO 8601", {"trained_on": "yesterday"}),
    ("PEP 508", {"requirements": ("not a requirement !",)}),
    ("sum", {"size_bytes": 101}),
    ("main file's", {"checksum_sha256": bytes(32)}),
    ("not among", {"file": "other.onnx"}),
    ("sum", {"files": ()}),
    ("not among", {"files": (), "size_bytes": 0}),
    ("one path", {"files": (GOOD, replace(GOOD, path="MODEL.onnx")), "size_bytes": 200}),
    ("inside another", {"files": (GOOD, file_of("model.onnx/a/b", b"")), "size_bytes": 100}),
    ("no text", {"config": {1: 2}}),
    ("64 bits", {"config": {"n": 2**63}}),
    ("plain value", {"config": {"n": float("nan")}}),
    ("plain value", {"config": {"n": b"bytes"}}),
    ("too large", {"config": {"n": [0] * 10_000}}),
    ("too deep", {"config": {"n": [[[[[[[[[[1]]]]]]]]]]}}),
]


@pytest.mark.parametrize(("why", "fields"), WRONG_FIELDS)
def test_a_manifest_that_contradicts_itself_cannot_exist(why: str, fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=why):
        manifest_of(b"x" * 100, **fields)


@pytest.mark.parametrize(
    ("why", "fields"),
    [
        ("plain relative", {"path": "../model.onnx"}),
        ("sha256", {"sha256": b"short"}),
        ("negative", {"size_bytes": -1}),
        ("smaller than", {"chunk_bytes": 1}),
        ("another size", {"size_bytes": 10**6}),
        ("another size", {"hashes": bytes(31)}),
    ],
)
def test_a_file_that_contradicts_itself_cannot_exist(why: str, fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=why):
        replace(GOOD, **fields)


def test_requirements_and_deployment_have_their_rules() -> None:
    with pytest.raises(ValueError, match="negative"):
        NodeRequirements(min_memory_mb=-1)
    with pytest.raises(ValueError, match="negative"):
        NodeRequirements(min_cpu_cores=-1)
    with pytest.raises(ValueError, match="priority"):
        Deployment(priority="soon")
    with pytest.raises(ValueError, match="replicas"):
        Deployment(replicas=-1)


def test_what_nobody_would_accept_is_not_sealed() -> None:
    with pytest.raises(ValueError, match="description"):
        seal_manifest(SIGNER, manifest_of(description="x" * 5_000))
    with pytest.raises(ValueError):
        seal_manifest(SIGNER, manifest_of(description="\ud800"))


def test_a_lie_about_sizes_is_refused_when_it_arrives() -> None:
    value = schema.to_wire(FULL) | {"size_bytes": FULL.size_bytes + 1}
    sealed = envelope.seal(SIGNER, "atmo/manifest/1", envelope.NO_MESH, codec.encode(value))
    with pytest.raises(WireError, match="sum of the files"):
        open_manifest_untrusted(sealed)


def test_a_signature_for_another_purpose_is_refused() -> None:
    for domain, mesh in (("atmo/record/1", envelope.NO_MESH), ("atmo/manifest/1", b"mesh")):
        with pytest.raises(WireError, match="signature"):
            open_manifest_untrusted(envelope.seal(SIGNER, domain, mesh, schema.pack(FULL)))


@given(st.binary(max_size=200))
def test_only_wire_errors_come_out_of_garbage(data: bytes) -> None:
    with pytest.raises(WireError):
        open_manifest_untrusted(data)


ANYTHING = st.none() | st.integers(-(2**63), 2**63 - 1) | st.text() | st.binary()


@given(st.dictionaries(st.sampled_from([*schema.to_wire(FULL)]), ANYTHING))
def test_only_wire_errors_come_out_of_signed_garbage(changes: dict[str, Any]) -> None:
    value = schema.to_wire(FULL) | {
        key: item for key, item in changes.items() if not isinstance(item, int) or abs(item) < 2**63
    }
    sealed = envelope.seal(SIGNER, "atmo/manifest/1", envelope.NO_MESH, codec.encode(value))
    try:
        manifest, _ = open_manifest_untrusted(sealed)
    except WireError:
        return
    assert sum(file.size_bytes for file in manifest.files) == manifest.size_bytes


def test_a_manifest_is_no_longer_than_its_model_can_need() -> None:
    junk = schema.to_wire(manifest_of()) | {"zzz": b"j" * most_bytes(0)}
    sealed = envelope.seal(SIGNER, "atmo/manifest/1", envelope.NO_MESH, codec.encode(junk))
    with pytest.raises(WireError, match="too long for a model of 200000 bytes"):
        open_manifest_untrusted(sealed)
    with pytest.raises(ValueError, match="too long for a model of 200000 bytes"):
        seal_manifest(SIGNER, manifest_of(config={"notes": "j" * most_bytes(0)}))
    assert most_bytes(2**53) == limits.MANIFEST_BYTES


def test_a_requirement_with_a_thousand_brackets_is_refused_before_it_is_read() -> None:
    wire = schema.to_wire(manifest_of()) | {"requirements": ["a;" + "(" * 510]}
    sealed = envelope.seal(SIGNER, "atmo/manifest/1", envelope.NO_MESH, codec.encode(wire))
    with pytest.raises(WireError, match="more than 32 brackets"):
        open_manifest_untrusted(sealed)
    assert manifest_of(requirements=("a; " + "(" * 32 + "os_name == 'posix'" + ")" * 32,))
