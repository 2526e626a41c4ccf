from __future__ import annotations

import hashlib
import json
import os
import struct
from collections.abc import Callable
from itertools import accumulate, pairwise
from pathlib import Path
from random import Random

import pytest

from atmo.errors import UserError
from atmo.storage import hashing, layout
from atmo.storage.cutting import MOST_BYTES, Span
from atmo.transfer.manifest import ModelFile, chunk_hash
from tests.storage import samples

MIB = 1024 * 1024
DATA = Random(1).randbytes(9 * MIB + 5)
TENSOR = samples.safetensors(5 * MIB // 2)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(DATA)
    return path


def check_file(file: ModelFile, data: bytes) -> None:
    ends = [*accumulate(file.chunk_sizes)]
    parts = [data[end - size : end] for end, size in zip(ends, file.chunk_sizes, strict=True)]
    assert b"".join(parts) == data
    assert file.chunks == tuple(chunk_hash(part) for part in parts)
    assert (file.size_bytes, file.sha256) == (len(data), hashlib.sha256(data).digest())


def test_a_file_is_named_where_it_lies(source: Path) -> None:
    steps: list[int] = []
    file = hashing.hash_file(source, "model.bin", steps.append)
    check_file(file, DATA)
    assert file.path == "model.bin"
    assert steps == [*accumulate(file.chunk_sizes)]
    assert len(file.chunks) > 4


def test_a_copy_has_the_same_chunks(source: Path, tmp_path: Path) -> None:
    assert hashing.copy_hashed(source, tmp_path / "copy", "a") == hashing.hash_file(source, "a")
    assert (tmp_path / "copy").read_bytes() == DATA
    with pytest.raises(FileExistsError):
        hashing.copy_hashed(source, tmp_path / "copy", "a")


def test_tensors_have_chunks_of_their_own(source: Path) -> None:
    source.write_bytes(TENSOR)
    file = hashing.hash_file(source, "a")
    check_file(file, TENSOR)
    head = len(TENSOR) - 5 * MIB // 2
    assert list(file.chunk_sizes) == [head, MIB, MIB, MIB // 2]


def test_external_data_is_cut_by_its_model(tmp_path: Path) -> None:
    from onnx import TensorProto, helper

    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
    for key, value in (("location", "data"), ("offset", str(MIB)), ("length", str(2 * MIB))):
        pair = tensor.external_data.add()
        pair.key, pair.value = key, value
    graph = helper.make_graph([helper.make_node("Identity", ["w"], ["y"])], "g", [], [], [tensor])
    model, data = tmp_path / "model.onnx", tmp_path / "data"
    model.write_bytes(helper.make_model(graph).SerializeToString())
    data.write_bytes(bytes(3 * MIB))
    assert list(hashing.hash_file(data, "data", model=model).chunk_sizes) == [MIB] * 3
    assert list(hashing.hash_file(data, "data").chunk_sizes) == [MOST_BYTES, MIB]


def test_an_empty_file(source: Path) -> None:
    source.write_bytes(b"")
    check_file(hashing.hash_file(source, "a"), b"")


@pytest.mark.parametrize("size", [0, 3 * MIB, len(DATA) + 1])
def test_a_file_that_changes_meanwhile(source: Path, size: int) -> None:
    def change(done: int) -> None:
        os.truncate(source, size)

    with pytest.raises(UserError, match="changed while it was being read"):
        hashing.hash_file(source, "a", change)


def test_a_check_that_stops(source: Path) -> None:
    def stop(done: int) -> None:
        raise UserError("stopped")

    with pytest.raises(UserError, match="stopped"):
        hashing.hash_file(source, "a", stop)


def test_only_plain_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, Path(os.devnull)):
        with pytest.raises(UserError, match="is not a plain file"):
            hashing.hash_file(path, "a")


def test_a_layout_of_another_size_does_no_harm(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the file was exchanged between two looks at it."""
    found = [layout.Part(100, len(DATA) - 9, "w")]
    monkeypatch.setattr(layout, "read", lambda path, model: found)
    check_file(hashing.hash_file(source, "a"), DATA)
    found[:] = [layout.Part(100, 3 * len(DATA), "w")]
    check_file(hashing.hash_file(source, "a"), DATA)


def test_chunks_do_not_depend_on_how_reads_are_cut() -> None:
    def read_some(random: Random) -> hashing.Fill:
        rest = memoryview(DATA)

        def read_into(buffer: memoryview) -> int:
            nonlocal rest
            size = min(len(buffer), len(rest), random.randrange(1, MIB))
            buffer[:size], rest = rest[:size], rest[size:]
            return size

        return read_into

    spans = [Span(4 * MIB, True), Span(MIB, False), Span(len(DATA) - 5 * MIB, True)]
    found = [[chunk_hash(part) for part in hashing._chunks(read_some(Random(seed)), spans)] for seed in range(3)]
    assert found[0] == found[1] == found[2]


def test_writes_that_take_only_some() -> None:
    written: list[bytes] = []

    def write(data: memoryview) -> int:
        written.append(bytes(data[:2]))
        return min(2, len(data))

    hashing._write_all(write, memoryview(b"abcde"))
    assert written == [b"ab", b"cd", b"e"]


def onnx_model(weights: list[bytes], note: str) -> bytes:
    from onnx import TensorProto, helper

    tensors = [
        TensorProto(name=f"w{number}", data_type=TensorProto.UINT8, dims=[len(data)], raw_data=data)
        for number, data in enumerate(weights)
    ]
    graph = helper.make_graph([helper.make_node("Identity", ["w0"], ["y"])], note, [], [], tensors)
    return bytes(helper.make_model(graph, producer_name=note).SerializeToString())


def safetensors_model(weights: list[bytes], note: str) -> bytes:
    ends = [*accumulate(map(len, weights), initial=0)]
    header: dict[str, object] = {
        f"layers.{number}.w": {"dtype": "U8", "shape": [end - start], "data_offsets": [start, end]}
        for number, (start, end) in enumerate(pairwise(ends))
    }
    text = json.dumps(header | {"__metadata__": {"note": note}}).encode()
    return struct.pack("<Q", len(text)) + text + b"".join(weights)


def gguf_model(weights: list[bytes], note: str) -> bytes:
    ends = [*accumulate(map(len, weights), initial=0)]
    name = struct.pack("<Q", 12) + b"general.name" + struct.pack("<IQ", 8, len(note)) + note.encode()
    heads = b"".join(struct.pack("<Q1sIQIQ", 1, b"%d" % n, 1, end, 24, end) for n, end in enumerate(ends[:-1]))
    head = b"GGUF" + struct.pack("<IQQ", 3, len(weights), 1) + name + heads
    return head + bytes(-len(head) % 32) + b"".join(weights)


@pytest.mark.parametrize("make", [onnx_model, safetensors_model, gguf_model])
def test_a_head_that_grew_costs_the_head(source: Path, make: Callable[[list[bytes], str], bytes]) -> None:
    random = Random(3)
    weights = [random.randbytes(size) for size in (3 * MIB, 64, 32, 5 * MIB // 4 + 32, 600_000)]
    found = []
    for note in ("n", "n" * 138):
        source.write_bytes(make(weights, note))
        found.append(hashing.hash_file(source, "a"))
    new = [
        size for size, name in zip(found[1].chunk_sizes, found[1].chunks, strict=True) if name not in found[0].chunks
    ]
    assert 137 <= sum(new) < 2_000
