from __future__ import annotations

import hashlib
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from atmo.errors import UserError
from atmo.storage import importing
from atmo.storage.chunks import ModelStorage
from atmo.storage.database import Database
from atmo.storage.registry import LocalModel
from atmo.transfer.manifest import CHUNK_BYTES, Deployment, chunk_hash
from tests.storage import samples
from tests.transfer.samples import SIGNER

BIG = samples.safetensors(2 * CHUNK_BYTES + 5)


@pytest.fixture
def storage(tmp_path: Path) -> ModelStorage:
    return ModelStorage(tmp_path / "home", Database(tmp_path / "home" / "atmosphere.db"))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "My model.safetensors"
    path.write_bytes(BIG)
    return path


def take(storage: ModelStorage, source: Path, **said: Any) -> LocalModel:
    return importing.store(storage, SIGNER, "me", importing.look_at(source, said))


def test_a_file_becomes_a_model(storage: ModelStorage, source: Path) -> None:
    steps: list[int] = []
    candidate = importing.look_at(source, {"name": None, "capabilities": ()})
    model = importing.store(storage, SIGNER, "me", candidate, None, steps.append)
    manifest = model.manifest
    assert (manifest.name, manifest.version, manifest.format, manifest.type) == (
        "My-model",
        "1.0.0",
        "safetensors",
        "model",
    )
    assert model.path.name == "My-model-1.0.0.safetensors"
    assert model.path.read_bytes() == BIG == source.read_bytes()
    assert manifest.checksum_sha256 == hashlib.sha256(BIG).digest()
    head = len(BIG) - 2 * CHUNK_BYTES - 5
    assert list(manifest.main.chunk_sizes) == [head, CHUNK_BYTES, CHUNK_BYTES + 5]
    assert manifest.main.chunks[0] == chunk_hash(BIG[:head])
    assert manifest.config["tensors"] == 1
    assert steps == [head, head + CHUNK_BYTES, len(BIG)]
    assert model.publisher == SIGNER.node_id
    assert model.source_node == "me"


def test_what_the_caller_says_wins_over_the_file(storage: ModelStorage, source: Path) -> None:
    model = take(
        storage,
        source,
        name="org/detector",
        version="v2.0",
        type="anomaly_detector",
        capabilities=("anomaly_detection",),
        description="It detects",
        config={"threshold": 0.5},
    ).manifest
    assert (model.name, model.version, model.type) == ("org/detector", "2.0", "anomaly_detector")
    assert model.capabilities == ("anomaly_detection",)
    assert model.description == "It detects"
    assert model.config["tensors"] == 1
    assert model.config["threshold"] == 0.5


def test_a_sidecar_fills_in_and_the_caller_wins_over_it(storage: ModelStorage, source: Path) -> None:
    sidecar = source.with_name(source.name + ".yaml")
    sidecar.write_text(
        f"name: beside\nversion: 3.1\ntype: router\nfile: ignored.bin\nformat: sklearn\nsize_bytes: {len(BIG)}\n"
        f"checksum_sha256: {hashlib.sha256(BIG).hexdigest()}\ntrained_on: 2026-02-02T15:30:00Z\n"
        "deployment: {priority: high}\ncapabilities: [a, b]\n"
    )
    manifest = take(storage, source, name="said").manifest
    assert (manifest.name, manifest.version, manifest.type, manifest.format) == ("said", "3.1", "router", "safetensors")
    assert manifest.trained_on == "2026-02-02T15:30:00Z"
    assert manifest.deployment == Deployment("high")
    assert manifest.capabilities == ("a", "b")


def test_a_shared_manifest_counts_only_for_the_file_it_names(storage: ModelStorage, source: Path) -> None:
    shared = source.with_name("model-manifest.yaml")
    shared.write_text("name: other\nfile: other.onnx\n")
    assert take(storage, source).name == "My-model"
    shared.write_text("name: shared\n")
    assert take(storage, source).name == "shared"
    shared.write_text(f"name: named\nfile: {source.name}\n")
    assert take(storage, source).name == "named"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("size_bytes: 12", "says 12 bytes and the file has 2097"),
        (f"checksum_sha256: {'ab' * 32}", "has another SHA-256 than the file"),
        ("name: [", "is not YAML at line 1"),
        ("version: new", "not a PEP 440"),
        ("- a list", "is a map"),
        ("name: a b", "cannot be imported: 'a b' is not a model name"),
        ("config: {deep: &a [*a]}", "cannot be imported: config is too large or nested too deep"),
        (f"description: {'x' * 5_000}", "cannot be imported"),
        ("x" * 1_100_000, "larger than 1 MiB"),
        ("\x00", "is not YAML"),
    ],
)
def test_a_sidecar_that_is_wrong_or_lies(storage: ModelStorage, source: Path, text: str, why: str) -> None:
    source.with_name(source.name + ".yaml").write_text(text)
    with pytest.raises(UserError, match=why):
        take(storage, source)
    assert storage.models() == []
    assert list((storage.root / "incoming").iterdir()) == []


def test_what_is_said_is_checked_before_anything_is_copied(source: Path) -> None:
    for said in ({"name": "auto"}, {"type": "two words"}, {"config": {"x": object()}}):
        with pytest.raises(UserError, match="cannot be imported"):
            importing.look_at(source, said)


def test_a_sidecar_that_cannot_be_read(storage: ModelStorage, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source.with_name(source.name + ".yaml").write_text("name: x")

    def refuse(*_: object, **__: object) -> str:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_text", refuse)
    with pytest.raises(UserError, match="Cannot read the manifest"):
        take(storage, source)


def test_importing_again_mends_what_is_damaged(storage: ModelStorage, source: Path) -> None:
    model = take(storage, source)
    with model.path.open("r+b") as file:
        file.seek(CHUNK_BYTES)
        file.write(b"damage")
    assert take(storage, source).path.read_bytes() == BIG


def test_the_same_content_is_stored_once(storage: ModelStorage, source: Path) -> None:
    first = take(storage, source, version="1.0.0")
    assert take(storage, source) == first
    assert take(storage, source, version="1.0.0") == first
    assert take(storage, source, version="2.0.0").version == "2.0.0"


def test_a_new_content_gets_the_next_version_and_never_another_ones(storage: ModelStorage, source: Path) -> None:
    take(storage, source)
    source.write_bytes(samples.safetensors(10))
    assert take(storage, source).version == "1.0.1"
    source.write_bytes(samples.safetensors(11))
    with pytest.raises(UserError, match="already here with another content"):
        take(storage, source, version="1.0.0")
    with pytest.raises(UserError, match="PEP 440"):
        take(storage, source, version="new")


@dataclass
class Onnx:
    type: str = "classifier"
    config: Any = None
    capabilities: tuple[str, ...] = ("classify",)


def test_a_converted_file_is_stored_as_what_it_became(storage: ModelStorage, tmp_path: Path) -> None:
    source = samples.joblib_file(tmp_path / "iris.joblib")
    sha256 = hashlib.sha256(source.read_bytes()).hexdigest()
    source.with_name("iris.joblib.yaml").write_text(f"name: iris\nchecksum_sha256: {sha256}\n")
    converted = tmp_path / "out.onnx"
    converted.write_bytes(samples.onnx_plain())
    candidate = importing.look_at(source, {})
    assert candidate.detected.format == "sklearn"
    result = Onnx(config={"classes": [0, 1]})
    model = importing.store(storage, SIGNER, "me", candidate, (converted, result))
    manifest = model.manifest
    assert (manifest.format, manifest.type, manifest.file) == ("onnx", "classifier", "model.onnx")
    assert manifest.config["classes"] == [0, 1]
    assert model.path.name == "iris-1.0.0.onnx"
    source.with_name("iris.joblib.yaml").write_text(f"checksum_sha256: {'ab' * 32}\n")
    with pytest.raises(UserError, match="another SHA-256"):
        importing.store(storage, SIGNER, "me", importing.look_at(source, {}), (converted, result))


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (samples.torch_zip(), "net.pt"),
        (samples.torch_zip("code/data.pkl"), "script.pt"),
        (samples.TORCH_LEGACY, "old.bin"),
        (pickle.dumps([1, 2]), "net.pth"),
    ],
)
def test_files_that_run_code_and_cannot_be_converted_are_refused(tmp_path: Path, data: bytes, name: str) -> None:
    source = tmp_path / name
    source.write_bytes(data)
    with pytest.raises(UserError, match="can run code when it is loaded") as caught:
        importing.look_at(source, {})
    assert "ONNX" in caught.value.hint
    assert "safetensors" in caught.value.hint


def test_a_file_that_runs_code_is_not_stored_as_it_is(storage: ModelStorage, tmp_path: Path) -> None:
    source = samples.joblib_file(tmp_path / "iris.joblib")
    with pytest.raises(UserError, match="runs code when it is loaded"):
        importing.store(storage, SIGNER, "me", importing.look_at(source, {}))
    assert storage.models() == []


def test_a_file_that_changes_while_it_is_read(storage: ModelStorage, source: Path) -> None:
    def grow(done: int) -> None:
        with source.open("ab") as file:
            file.write(b"x")

    with pytest.raises(UserError, match="changed while it was being read"):
        importing.store(storage, SIGNER, "me", importing.look_at(source, {}), None, grow)
    assert storage.models() == []


def test_a_file_that_vanishes(storage: ModelStorage, source: Path) -> None:
    candidate = importing.look_at(source, {})
    source.unlink()
    with pytest.raises(UserError, match=r"Importing .* failed: No such file"):
        importing.store(storage, SIGNER, "me", candidate)
