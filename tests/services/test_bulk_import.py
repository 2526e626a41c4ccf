"""Importing a whole folder, as LlamaFarm leaves it: real files, real stores."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import trio

from atmo.errors import UserError
from atmo.identity import Signer
from atmo.services import bulk_import
from atmo.services.bulk_import import BulkImport, import_folder
from atmo.services.models import ModelService
from atmo.services.progress import Progress
from atmo.storage.chunks import ModelStorage
from atmo.storage.database import Database
from tests.storage import samples


@dataclass
class Onnx:
    type: str = "anomaly_detector"
    config: Mapping[str, Any] = field(default_factory=dict)
    capabilities: tuple[str, ...] = ("anomaly_detection",)


async def convert(source: Path, target: Path) -> Onnx:
    await trio.Path(target).write_bytes(samples.onnx_plain())
    return Onnx()


@pytest.fixture
def service(tmp_path: Path) -> ModelService:
    storage = ModelStorage(tmp_path / "home", Database(tmp_path / "home" / "atmosphere.db"))
    return ModelService(storage, Signer(bytes(32)), "me", lambda: None, convert=convert)


@pytest.fixture
def farm(tmp_path: Path) -> Path:
    root = tmp_path / "llamafarm" / "models"
    for name in ("anomaly", "classifier", "vision", ".hidden"):
        (root / name).mkdir(parents=True)
    samples.joblib_file(root / "anomaly" / "network.joblib")
    (root / "anomaly" / "network.json").write_text('{"threshold": 1}')
    (root / "anomaly" / "broken.pkl").write_bytes(b"\x80\x04 cut")
    (root / "classifier" / "network.safetensors").write_bytes(samples.safetensors())
    (root / "classifier" / "iris.bin").write_bytes(samples.onnx_classifier())  # by content, not by name
    (root / "vision" / "yolo.pt").write_bytes(samples.torch_zip())
    (root / ".hidden" / "secret.onnx").write_bytes(samples.onnx_plain())
    return root


def found(result: BulkImport) -> tuple[list[str], list[str], list[str]]:
    return (
        [row.name for row in result.imported],
        [row.name for row in result.here],
        [path.name for path, _ in result.skipped],
    )


async def test_all_of_a_folder_and_once_more(service: ModelService, farm: Path) -> None:
    reports: list[Progress] = []
    result = await import_folder(service, farm, None, reports.append)
    assert found(result) == (["network", "iris", "classifier-network"], [], ["broken.pkl", "yolo.pt"])
    assert result.ignored == 1
    reasons = {path.name: why for path, why in result.skipped}
    assert "cut short" in reasons["broken.pkl"]
    assert "can run code" in reasons["yolo.pt"]
    types = {model.name: model.type for model in service.local_models()}
    assert types == {"network": "anomaly_detector", "iris": "classifier", "classifier-network": "classifier"}
    assert reports[0].phase.startswith("1 of 4, network.joblib: ")
    again = await import_folder(service, farm, None, None)
    assert found(again) == ([], ["network", "iris", "classifier-network"], ["broken.pkl", "yolo.pt"])
    told = again.to_json()
    assert [row["name"] for row in told["here"]] == ["network", "iris", "classifier-network"]
    assert told["skipped"][0].keys() == {"path", "why"}


@pytest.mark.parametrize("kind", ["anomaly", "anomaly_detector", "ANOMALY"])
async def test_one_kind_by_its_folder(service: ModelService, farm: Path, kind: str) -> None:
    assert found(await import_folder(service, farm, kind, None)) == (["network"], [], ["broken.pkl"])


async def test_one_kind_by_what_the_files_are(service: ModelService, farm: Path) -> None:
    (farm / "classifier" / "iris.bin").rename(farm / "vision" / "iris.bin")
    result = await import_folder(service, farm, "classifier", None)
    assert found(result)[0] == ["network", "classifier-network", "iris"]  # the first one's content says so, too


async def test_a_file_that_vanishes_is_skipped(service: ModelService, farm: Path) -> None:
    def vanish(progress: Progress) -> None:
        (farm / "classifier" / "network.safetensors").unlink(missing_ok=True)

    result = await import_folder(service, farm, "classifier", vanish)
    assert found(result)[0] == ["network", "iris"]
    assert [path.name for path, _ in result.skipped] == ["network.safetensors"]


async def test_folders_that_are_none_or_too_large(
    service: ModelService, farm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match="There is no folder"):
        await import_folder(service, farm / "gone", None, None)
    monkeypatch.setattr(bulk_import, "DEPTH_MOST", 0)
    assert found(await import_folder(service, farm, None, None)) == ([], [], [])
    monkeypatch.setattr(bulk_import, "DEPTH_MOST", 8)
    monkeypatch.setattr(bulk_import, "FILES_MOST", 2)
    with pytest.raises(UserError, match="more than 2 files"):
        await import_folder(service, farm, None, None)


async def test_a_preview_says_what_a_file_would_become(service: ModelService, farm: Path) -> None:
    file = farm / "anomaly" / "network.joblib"
    seen = await service.preview(file, {"capabilities": ()})
    assert (seen.name, seen.version, seen.type, seen.format, seen.converted) == (
        "network",
        "1.0.0",
        "classifier",
        "sklearn",
        True,
    )
    assert seen.capabilities == ("classification",)
    assert seen.config["estimator"] == "LogisticRegression"
    assert seen.to_json()["capabilities"] == ["classification"]
    await service.import_model(file)
    said = {"capabilities": ("x",), "type": "router", "name": "network", "version": None}
    again = await service.preview(file, said)
    assert (again.version, again.type, again.capabilities) == ("1.0.1", "router", ("x",))
    assert (await service.import_model(file)).version == "1.0.0"
    assert (await service.import_model(file, version="3.0")).version == "3.0"
    with pytest.raises(UserError, match="is a PyTorch file"):
        await service.preview(farm / "vision" / "yolo.pt", {})
