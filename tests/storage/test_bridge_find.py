"""What is found in the folders of other programs, however hostile they are: names and sizes alone."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import pytest

from atmo.storage import bridge_find
from atmo.storage.bridge_find import BridgePlaces, Finder, Found
from atmo.transfer.names import check_name, check_path
from tests.storage.bridge_kit import OTHER_REVISION, REVISION, hub_file, ollama_file, sha256


def look(*, llamafarm: Path | None = None, huggingface: Path | None = None, ollama: Path | None = None) -> list[Found]:
    return Finder(BridgePlaces(llamafarm, huggingface, ollama)).look()


def names(found: list[Found]) -> list[str]:
    for one in found:
        check_name(one.name)
        check_path(one.file_name)
        assert one.reference.isprintable()
    return [one.name for one in found]


def test_places_that_are_not_there_are_empty(tmp_path: Path) -> None:
    assert look(huggingface=tmp_path / "a", ollama=tmp_path / "b", llamafarm=tmp_path / "c") == []
    (tmp_path / "a").write_text("a file")
    assert look(huggingface=tmp_path / "a", ollama=tmp_path / "a", llamafarm=tmp_path / "a") == []


def test_huggingface(tmp_path: Path) -> None:
    blob = hub_file(tmp_path, "org/tiny", "tiny.Q4_K_M.gguf", b"weights")
    hub_file(tmp_path, "org/tiny", "onnx/model.onnx", b"graph", revision=OTHER_REVISION, blob="0" * 40)
    hub_file(tmp_path, "gpt2", "model.safetensors", b"more")
    hub_file(tmp_path, "org/tiny", "config.json", b"{}")
    (tmp_path / "datasets--org--texts" / "snapshots" / REVISION).mkdir(parents=True)
    (tmp_path / "datasets--org--texts" / "snapshots" / REVISION / "x.gguf").write_bytes(b"no model")
    (tmp_path / "models--").mkdir()
    found = look(huggingface=tmp_path)
    assert names(found) == ["gpt2:model.safetensors", "org/tiny:tiny.Q4_K_M.gguf", "org/tiny:onnx-model.onnx"]
    _, tiny, graph = found
    assert (tiny.source, tiny.reference, tiny.file_name) == (
        "huggingface",
        "org/tiny/tiny.Q4_K_M.gguf",
        "tiny.Q4_K_M.gguf",
    )
    assert (tiny.path, tiny.size_bytes, tiny.revision) == (blob, 7, REVISION)
    assert tiny.expected.hex() == sha256(b"weights")
    assert (graph.expected, graph.revision) == (b"", OTHER_REVISION), "git's SHA-1 promises no SHA-256"


def test_a_cache_without_links_and_with_other_revisions(tmp_path: Path) -> None:
    folder = tmp_path / "models--org--plain" / "snapshots" / "v1"
    folder.mkdir(parents=True)
    (folder / "a.gguf").write_bytes(b"x")
    (found,) = look(huggingface=tmp_path)
    assert (found.name, found.revision, found.expected) == ("org/plain:a.gguf", "", b"")


def test_ollama(tmp_path: Path) -> None:
    blob = ollama_file(tmp_path, "llama3:8b", b"weights")
    ollama_file(tmp_path, "own:latest", b"weights", namespace="me")
    ollama_file(tmp_path, "org:q4", b"other", namespace="hf", registry="hf.co")
    found = look(ollama=tmp_path)
    assert names(found) == ["hf/org:q4", "llama3:8b", "me/own:latest"]
    assert {one.path for one in found[1:]} == {blob}
    assert found[1].expected.hex() == sha256(b"weights")
    assert found[1].file_name == "llama3-8b.gguf"


@pytest.mark.parametrize(
    "manifest",
    [
        b"",
        b"\xff",
        b"[]",
        b"null",
        b"[" * 10_000,
        b'{"layers": 5}',
        b'{"layers": [1, null, {"mediaType": 1, "digest": 2}]}',
        b'{"layers": [{"mediaType": "application/vnd.ollama.image.model", "digest": "sha256:../../../etc/passwd"}]}',
        b'{"layers": [{"mediaType": "application/vnd.ollama.image.model", "digest": "sha1:00"}]}',
    ],
)
def test_manifests_of_ollama_that_are_none(tmp_path: Path, manifest: bytes) -> None:
    ollama_file(tmp_path, "good:1", b"weights")
    path = tmp_path / "manifests" / "registry.ollama.ai" / "library" / "bad" / "1"
    path.parent.mkdir()
    path.write_bytes(manifest)
    assert names(look(ollama=tmp_path)) == ["good:1"]


def test_a_manifest_of_100_mb_is_not_read(tmp_path: Path) -> None:
    ollama_file(tmp_path, "big:1", b"weights")
    path = tmp_path / "manifests" / "registry.ollama.ai" / "library" / "big" / "1"
    text = path.read_text()
    with path.open("r+b") as file:
        file.truncate(100_000_000)
    assert look(ollama=tmp_path) == []
    path.write_text(text + " " * bridge_find.MANIFEST_MOST_BYTES)
    assert look(ollama=tmp_path) == []
    path.write_text(text + " " * 1_000)
    assert len(look(ollama=tmp_path)) == 1


def test_manifests_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ollama_file(tmp_path, "one:1", b"weights")
    read: list[Path] = []
    honest = bridge_find._layer_untrusted

    def counted(path: Path) -> bytes:
        read.append(path)
        return honest(path)

    monkeypatch.setattr(bridge_find, "_layer_untrusted", counted)
    finder = Finder(BridgePlaces(ollama=tmp_path))
    assert finder.look() == finder.look()
    assert len(read) == 1
    ollama_file(tmp_path, "one:1", b"other weights")
    assert finder.look()[0].size_bytes == 13
    assert len(read) == 2


def test_folders(tmp_path: Path) -> None:
    (tmp_path / "vision" / "bird").mkdir(parents=True)
    (tmp_path / "top.gguf").write_bytes(b"x")
    (tmp_path / "vision" / "yolo.onnx").write_bytes(b"x")
    (tmp_path / "vision" / "bird" / "best").write_bytes(b"x")
    (tmp_path / "vision" / ".hidden.onnx").write_bytes(b"x")
    (tmp_path / "vision" / "empty.onnx").write_bytes(b"")
    (tmp_path / "readme.MD").write_bytes(b"x")
    found = look(llamafarm=tmp_path)
    assert names(found) == ["top.gguf", "vision-bird/best", "vision/yolo.onnx"]
    assert {one.source for one in found} == {"llamafarm"}
    (same,) = {one.source for one in Finder(BridgePlaces(folders=(tmp_path,))).look()}
    assert same == "folder"


def test_links_count_only_where_they_end_in_the_same_place(tmp_path: Path) -> None:
    cache, outside = tmp_path / "hub", tmp_path / "secret.gguf"
    outside.write_bytes(b"private")
    blob = hub_file(cache, "org/tiny", "good.gguf", b"weights")
    snapshot = cache / "models--org--tiny" / "snapshots" / REVISION
    (snapshot / "absolute.gguf").symlink_to(outside)
    (snapshot / "climbing.gguf").symlink_to("../../../../secret.gguf")
    (snapshot / "loop.gguf").symlink_to("loop.gguf")
    (snapshot / "a.gguf").symlink_to("b.gguf")
    (snapshot / "b.gguf").symlink_to("a.gguf")
    (snapshot / "dangling.gguf").symlink_to("../../blobs/none")
    (snapshot / "up").symlink_to("..")
    (snapshot / "twice.gguf").symlink_to("good.gguf")
    (cache / "models--org--away").symlink_to(tmp_path)
    found = look(huggingface=cache)
    assert names(found) == ["org/tiny:good.gguf", "org/tiny:twice.gguf"]
    assert {one.path for one in found} == {blob}
    (tmp_path / "link").symlink_to(cache)
    assert names(look(huggingface=tmp_path / "link")) == names(found), "the place itself may be a link"


def test_a_link_to_ollamas_blob_outside(tmp_path: Path) -> None:
    blob = ollama_file(tmp_path / "store", "x:1", b"weights")
    blob.rename(tmp_path / "elsewhere")
    blob.symlink_to(tmp_path / "elsewhere")
    assert look(ollama=tmp_path / "store") == []


def test_what_is_no_plain_file_is_left_alone(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.gguf")
    (tmp_path / "device.gguf").symlink_to("/dev/zero")
    (tmp_path / "folder.gguf").mkdir()
    with socket.socket(socket.AF_UNIX) as door:
        door.bind(str(tmp_path / "door.gguf"))
        assert look(llamafarm=tmp_path) == []
    path = tmp_path / "manifests" / "r" / "n" / "m" / "t"
    path.parent.mkdir(parents=True)
    os.mkfifo(path)
    assert look(ollama=tmp_path) == []


@pytest.mark.parametrize(
    "name",
    [
        "new\nline.gguf",
        "esc\x1b[2J.gguf",
        b"\xff\xfe.gguf",
        "con.gguf",
        "ünï.gguf",
        "auto",
        "-",
        "x" * 200,
        "a:b@c.gguf",
    ],
)
def test_odd_names_become_names_that_may_be(tmp_path: Path, name: str | bytes) -> None:
    folder = os.fsencode(tmp_path) + b"/sub"
    os.mkdir(folder)  # noqa: PTH102 - the name is bytes
    Path(os.fsdecode(folder + b"/" + os.fsencode(name))).write_bytes(b"x")
    found = look(llamafarm=tmp_path)
    assert len(names(found)) == 1
    assert len(names(look(llamafarm=Path(os.fsdecode(folder))))) == 1


def test_long_names_stay_apart(tmp_path: Path) -> None:
    owner, repository = "o" * 90, "r" * 90
    for tag in ("1", "2"):
        hub_file(tmp_path, f"{owner}/{repository}", f"{'t' * 90}{tag}.gguf", tag.encode())
    assert len(set(names(look(huggingface=tmp_path)))) == 2


def test_there_are_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = tmp_path
    for _ in range(bridge_find.DEPTH_MOST + 1):
        deep = deep / "d"
    deep.mkdir(parents=True)
    (deep / "far.gguf").write_bytes(b"x")
    (deep.parent / "near.gguf").write_bytes(b"x")
    finder = Finder(BridgePlaces(llamafarm=tmp_path))
    assert [one.file_name for one in finder.look()] == ["near.gguf"]
    assert finder.cut == ""
    for number in range(9):
        (tmp_path / f"{number}.gguf").write_bytes(b"x")
    monkeypatch.setattr(bridge_find, "FILES_MOST", 5)
    assert len(finder.look()) == 5
    assert finder.cut == "There are 10 files that may be models; the first 5 are looked at."
    monkeypatch.setattr(bridge_find, "ENTRIES_MOST", 4)
    assert len(finder.look()) <= 4
    assert "more than 4 names" in finder.cut


def test_many_layers(tmp_path: Path) -> None:
    blob = ollama_file(tmp_path, "x:1", b"weights")
    path = tmp_path / "manifests" / "registry.ollama.ai" / "library" / "x" / "1"
    layers = json.loads(path.read_text())["layers"]
    path.write_text(json.dumps({"layers": [{}] * bridge_find.LAYERS_MOST + layers}))
    assert look(ollama=tmp_path) == []
    path.write_text(json.dumps({"layers": [{}] * 3 + layers}))
    assert [one.path for one in look(ollama=tmp_path)] == [blob]
