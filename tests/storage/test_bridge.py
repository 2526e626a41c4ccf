"""The bridge: what is offered of other programs' models, what is not, and that no wrong byte ever leaves."""

from __future__ import annotations

from pathlib import Path

import pytest

from atmo.storage import bridge as bridge_module
from atmo.storage import bridge_learn
from atmo.storage.bridge import Bridge, BridgedModel
from atmo.storage.bridge_find import BridgePlaces
from atmo.transfer.manifest import manifest_id, open_manifest_untrusted
from tests.storage import samples
from tests.storage.bridge_kit import (
    NOW,
    OTHER_REVISION,
    bridge_of,
    gguf,
    hub_file,
    offered,
    ollama_file,
    settle,
    sha256,
)

MIB = 2**20
GGUF = gguf(3 * MIB + 16)


def chunks_of(bridge: Bridge, model: BridgedModel) -> bytes:
    """Puts a model together from what the bridge says of its chunks."""
    data = bytearray()
    for place in model.manifest.chunk_places():
        path, offset, size = next(iter(bridge.find(place.hash)))
        data += path.read_bytes()[offset : offset + size]
    return bytes(data)


def reasons(bridge: Bridge) -> dict[str, str]:
    return {one.path.name: one.reason for one in bridge.left_out()}


def test_models_of_all_three_are_offered_from_where_they_lie(tmp_path: Path) -> None:
    hub, store, farm = tmp_path / "hub", tmp_path / "ollama", tmp_path / "farm"
    blob = hub_file(hub, "org/tiny", "tiny.gguf", GGUF)
    ollama_file(store, "llama3:8b", samples.gguf("bert"))
    farm.mkdir()
    (farm / "iris.onnx").write_bytes(samples.onnx_plain())
    bridge = bridge_of(tmp_path, BridgePlaces(farm, hub, store))
    assert settle(bridge) == 3
    onnx = sha256(samples.onnx_plain())[:8]
    assert offered(bridge) == {
        f"iris.onnx@0+s{onnx}": "llamafarm",
        f"llama3:8b@0+s{sha256(samples.gguf('bert'))[:8]}": "ollama",
        "org/tiny:tiny.gguf@0+g01234567": "huggingface",
    }
    _, embedder, tiny = bridge.models()
    assert (embedder.type, embedder.capabilities, embedder.format) == ("embedder", ("embeddings",), "gguf")
    assert tiny.path == blob
    assert tiny.manifest.checksum_sha256.hex() == blob.name == tiny.path.name
    assert tiny.manifest.config["bridge"]["reference"] == "org/tiny/tiny.gguf"
    assert chunks_of(bridge, tiny) == GGUF
    sealed = bridge.sealed(tiny.manifest_id)
    assert sealed is not None
    assert manifest_id(sealed) == tiny.manifest_id
    assert open_manifest_untrusted(sealed)[0] == tiny.manifest
    assert (bridge.waiting, bridge.left_out(), bridge.cut) == (0, (), "")


def test_a_restart_reads_nothing_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub_file(tmp_path / "hub", "org/tiny", "tiny.gguf", GGUF)
    (tmp_path / "farm").mkdir()
    (tmp_path / "farm" / "bad.pt").write_bytes(samples.torch_zip())
    places = BridgePlaces(tmp_path / "farm", tmp_path / "hub")
    first = bridge_of(tmp_path, places)
    assert settle(first) == 2
    monkeypatch.setattr(bridge_learn, "open_plain", None)
    second = bridge_of(tmp_path, places)
    assert settle(second) == 0
    assert second.models() == first.models()
    assert second.left_out() == first.left_out()
    assert chunks_of(second, second.models()[0]) == GGUF


def test_one_blob_under_two_names_is_read_once(tmp_path: Path) -> None:
    hub_file(tmp_path, "org/tiny", "tiny.gguf", GGUF)
    hub_file(tmp_path, "org/tiny", "tiny.gguf", GGUF, revision=OTHER_REVISION)
    hub_file(tmp_path, "org/tiny", "copy.gguf", GGUF)
    bridge = bridge_of(tmp_path, BridgePlaces(huggingface=tmp_path))
    assert settle(bridge) == 1
    assert set(offered(bridge)) == {
        "org/tiny:copy.gguf@0+g01234567",
        "org/tiny:tiny.gguf@0+g01234567",
        "org/tiny:tiny.gguf@0+gfedcba98",
    }


def test_what_may_run_code_or_is_damaged_is_listed_with_the_reason(tmp_path: Path) -> None:
    files = {
        "torch.pt": samples.torch_zip(),
        "legacy.pth": samples.TORCH_LEGACY,
        "cut.gguf": GGUF[:-1],
        "wrong.gguf": b"no model at all",
        "wrong.safetensors": b"short",
        "long.safetensors": (20 * MIB).to_bytes(8, "little") + b"{" + bytes(21 * MIB),
        "noise": b"\x80\x04noise.",
        "words": b"words and words",
        "GGUF": b"GGUF\xff\xff\xff\xff and noise",
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    samples.joblib_file(tmp_path / "iris.joblib", compress=3)
    bridge = bridge_of(tmp_path, BridgePlaces(llamafarm=tmp_path))
    settle(bridge)
    assert offered(bridge) == {}
    found = reasons(bridge)
    assert sorted(found) == [
        "GGUF",
        "cut.gguf",
        "iris.joblib",
        "legacy.pth",
        "long.safetensors",
        "torch.pt",
        "wrong.gguf",
        "wrong.safetensors",
    ]
    for name in ("torch.pt", "legacy.pth", "iris.joblib"):
        assert "may run code" in found[name]
    assert "cut short" in found["cut.gguf"]
    assert "cut.gguf" in found["cut.gguf"]
    assert found["wrong.gguf"] == "it is named .gguf and does not begin like one, so it is damaged"
    assert "header of 20971520 bytes" in found["long.safetensors"]


def test_a_format_that_does_not_travel(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(GGUF)
    bridge = bridge_of(tmp_path, BridgePlaces(llamafarm=tmp_path), ["onnx"])
    settle(bridge)
    assert reasons(bridge) == {"m.gguf": "its format is gguf, which may run code when it is loaded"}


def test_a_blob_that_is_not_what_its_name_says_is_not_offered(tmp_path: Path) -> None:
    hub_file(tmp_path / "hub", "org/tiny", "tiny.gguf", GGUF, blob="ab" * 32)
    ollama_file(tmp_path / "ollama", "x:1", GGUF).write_bytes(samples.gguf())
    bridge = bridge_of(tmp_path, BridgePlaces(None, tmp_path / "hub", tmp_path / "ollama"))
    settle(bridge)
    assert offered(bridge) == {}
    assert "promises the SHA-256 abababababababab..." in reasons(bridge)["ab" * 32]
    assert len(bridge.left_out()) == 2
    assert bridge.sealed(bytes(32)) is None


def test_names_that_meet_stay_apart(tmp_path: Path) -> None:
    hub_file(tmp_path, "org/tiny", "a/b.gguf", GGUF)
    hub_file(tmp_path, "org/tiny", "a-b.gguf", samples.gguf())
    bridge = bridge_of(tmp_path, BridgePlaces(huggingface=tmp_path))
    settle(bridge)
    first, second = bridge.models()
    assert first.name == "org/tiny:a-b.gguf"
    assert second.name.startswith("org/tiny:a-b.gguf-")
    assert first.manifest.checksum_sha256 != second.manifest.checksum_sha256


def test_there_are_only_so_many_offers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(3):
        (tmp_path / f"{number}.gguf").write_bytes(samples.gguf(tensor_bytes=128 + 16 * number))
    monkeypatch.setattr(bridge_module, "OFFERS_MOST", 2)
    bridge = bridge_of(tmp_path, BridgePlaces(llamafarm=tmp_path))
    settle(bridge)
    assert len(bridge.models()) == 2
    assert "which is the most" in reasons(bridge)["2.gguf"]


def test_a_model_that_no_manifest_can_describe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.gguf").write_bytes(samples.gguf("x" * 10))
    bridge = bridge_of(tmp_path, BridgePlaces(llamafarm=tmp_path))
    monkeypatch.setattr(
        bridge_learn, "_about", lambda detected: {"format": "gguf", "type": "", "config": {}, "capabilities": []}
    )
    settle(bridge)
    assert reasons(bridge) == {"a.gguf": "what it says of itself does not fit into a manifest"}
    bridge.scan(NOW)
    assert len(bridge.left_out()) == 1
