"""A model's manifest: everything about a model but its bytes, signed by who published it.

The fields are those of `model-manifest.yaml` (docs/manifest.md), plus the files with their SHA-256 and the BLAKE3 names
of their chunks. A `Manifest` that exists is valid: its constructor checks it. The manifest's own name, by which nodes
ask for it, is the BLAKE3 hash of the sealed bytes.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, Any

from blake3 import blake3
from packaging.requirements import InvalidRequirement, Requirement

from atmo.errors import WireError
from atmo.identity import NodeId, Signer
from atmo.transfer import names
from atmo.transfer.terms import Access, Base
from atmo.wire import envelope, limits, schema
from atmo.wire.schema import Most

DOMAIN = "atmo/manifest/1"
HASH_BYTES = 32

CHUNK_BYTES = 1024 * 1024
"""About what we cut files into. Source: docs/measurements.md, "Size of chunks"."""

LEAST_CHUNK_BYTES = 64 * 1024
"""Of a chunk in a file whose chunks have one size, and of the average chunk where each has its own."""

SPARE_CHUNKS = 8
"""Chunks that a file may have beyond what that average admits: heads and tails of small files. Source: guess."""

SIZE_FIELD_BYTES = 4
ENVELOPE_BYTES = 1_024
"""More than what a signature adds to its payload."""

BASE_BYTES = 1024 * 1024
"""Of a manifest without its lists of chunks: config, names, paths, and the spare chunks of many small files.
Source: guess."""

FILES = 1_024
SIZE_BYTES = 2**53
"""Sizes stay exact in every language's numbers."""

CONFIG_DEPTH = 8
CONFIG_ITEMS = 8_192

REQUIREMENT_BRACKETS = 32
"""Opening brackets in one requirement: whoever reads or evaluates it descends into each. Source: guess; nobody needs
more than two or three."""

PRIORITIES = ("critical", "high", "normal", "low")

Name = Annotated[str, Most(limits.NAME_CHARS)]
Word = Annotated[str, Most(64)]
Size = Annotated[int, Most(SIZE_BYTES)]
Count = Annotated[int, Most(2**31)]
Hash = Annotated[bytes, Most(HASH_BYTES)]


def most_chunks(size_bytes: int) -> int:
    """Returns into how many chunks of listed sizes a file may be cut."""
    return size_bytes // LEAST_CHUNK_BYTES + SPARE_CHUNKS


def chunk_hash(data: bytes | bytearray | memoryview) -> bytes:
    """Returns the name of a chunk: its BLAKE3 hash, 32 bytes."""
    return blake3(data).digest()


@dataclass(frozen=True, slots=True)
class ModelFile:
    """One file of a model and the chunks it is made of.

    Attributes:
        path: Relative, with `/` between parts.
        size_bytes: Of the file.
        sha256: 32 bytes.
        chunk_bytes: Every chunk but the last has this size; where `sizes` are given, none is larger.
        hashes: The chunks' BLAKE3 hashes, 32 bytes each, one after the other: one string stays within the codec's limit
            of items and costs 32 bytes per chunk in memory.
        sizes: Of each chunk, four bytes, the highest first; empty where all but the last have `chunk_bytes`.
    """

    path: Annotated[str, Most(names.PATH_CHARS)]
    size_bytes: Size
    sha256: Hash
    chunk_bytes: Annotated[int, Most(limits.CHUNK_BYTES)]
    hashes: Annotated[bytes, Most(limits.MANIFEST_BYTES)]
    sizes: Annotated[bytes, Most(limits.MANIFEST_BYTES)] = b""

    def __post_init__(self) -> None:
        names.check_path(self.path)
        _check_hash("sha256", self.sha256)
        if self.size_bytes < 0:
            raise ValueError(f"the size of {self.path} is negative")
        if self.chunk_bytes < LEAST_CHUNK_BYTES:
            raise ValueError(f"chunks of {self.chunk_bytes} bytes are smaller than {LEAST_CHUNK_BYTES}")
        if self.sizes:
            self._check_sizes()
            return
        expected = -(-self.size_bytes // self.chunk_bytes)
        if len(self.hashes) != expected * HASH_BYTES:
            raise ValueError(
                f"{self.path} of {self.size_bytes} bytes has {expected} chunks, the list is for another size"
            )

    def _check_sizes(self) -> None:
        count, rest = divmod(len(self.sizes), SIZE_FIELD_BYTES)
        if rest or count * HASH_BYTES != len(self.hashes):
            raise ValueError(
                f"the chunks of {self.path} have {len(self.sizes)} bytes of sizes and another list of hashes"
            )
        if count > most_chunks(self.size_bytes):
            raise ValueError(f"{count} chunks are too many for {self.path} of {self.size_bytes} bytes")
        sizes = self.chunk_sizes
        if min(sizes) == 0 or max(sizes) > self.chunk_bytes:
            raise ValueError(f"{self.path} has an empty chunk, or one of more than {self.chunk_bytes} bytes")
        if sum(sizes) != self.size_bytes:
            raise ValueError(f"the chunks of {self.path} have {sum(sizes)} bytes and the file has {self.size_bytes}")

    @property
    def chunk_sizes(self) -> Sequence[int]:
        """The size of each chunk in bytes, in order."""
        if self.sizes:
            return struct.unpack(f">{len(self.sizes) // SIZE_FIELD_BYTES}I", self.sizes)
        whole, rest = divmod(self.size_bytes, self.chunk_bytes)
        return [self.chunk_bytes] * whole + [rest] * (rest > 0)

    @property
    def chunks(self) -> tuple[bytes, ...]:
        """The BLAKE3 hash of each chunk, in order."""
        return tuple(self.hashes[at : at + HASH_BYTES] for at in range(0, len(self.hashes), HASH_BYTES))


@dataclass(frozen=True, slots=True)
class ChunkPlace:
    """Where one chunk of a model lies.

    Attributes:
        file: Index into the manifest's files.
        offset: Bytes from the start of the file.
        size: In bytes.
        hash: BLAKE3, 32 bytes.
    """

    file: int
    offset: int
    size: int
    hash: bytes


@dataclass(frozen=True, slots=True)
class NodeRequirements:
    """What a node must have to run the model."""

    min_memory_mb: Count = 0
    min_cpu_cores: Count = 0
    gpu_required: bool = False
    architectures: Annotated[tuple[Word, ...], Most(16)] = ()

    def __post_init__(self) -> None:
        if self.min_memory_mb < 0 or self.min_cpu_cores < 0:
            raise ValueError("node_requirements cannot be negative")


@dataclass(frozen=True, slots=True)
class Deployment:
    """Where the model should go: 0 replicas means everywhere capable, no regions means all."""

    priority: Word = "normal"
    replicas: Count = 0
    regions: Annotated[tuple[Name, ...], Most(64)] = ()
    roles: Annotated[tuple[Word, ...], Most(16)] = ()

    def __post_init__(self) -> None:
        if self.priority not in PRIORITIES:
            raise ValueError(f"deployment.priority is one of {', '.join(PRIORITIES)}")
        if self.replicas < 0:
            raise ValueError("deployment.replicas cannot be negative")


@dataclass(frozen=True, slots=True)
class Manifest:
    """Everything about one version of a model but its bytes.

    Attributes:
        name: `[owner/]name[:tag]`.
        version: PEP 440, in normal form.
        type: What kind of model: `anomaly_detector`, `classifier`, `embedder`, `router`, `llm`, ...
        file: The path of the main file among `files`.
        format: `onnx`, `gguf`, `safetensors`, `pytorch`, `sklearn`, `tensorflow`, `mlx`, ...
        size_bytes: Of all files together.
        checksum_sha256: Of the main file, 32 bytes.
        files: All files of the model.
        description: What it is, for people and for routing by meaning.
        trained_on: When it was trained, ISO 8601, or None.
        training_data_domain: Such as `network-traffic`.
        training_node: Where it was trained.
        requirements: Python requirements by PEP 508.
        capabilities: What it can do.
        config: Settings of the model; plain values only.
        node_requirements: What a node must have to run it.
        deployment: Where it should go.
        access: Who may have it.
        base: What it was made from.

    Raises:
        ValueError: A field breaks its rules; the message names it.
    """

    name: Name
    version: Annotated[str, Most(names.VERSION_CHARS)]
    type: Word
    file: Annotated[str, Most(names.PATH_CHARS)]
    format: Annotated[str, Most(32)]
    size_bytes: Size
    checksum_sha256: Hash
    files: Annotated[tuple[ModelFile, ...], Most(FILES)]
    description: str = ""
    trained_on: Word | None = None
    training_data_domain: Name = ""
    training_node: Name = ""
    requirements: Annotated[tuple[Annotated[str, Most(512)], ...], Most(256)] = ()
    capabilities: Annotated[tuple[Name, ...], Most(16)] = ()
    config: dict[str, Any] = field(default_factory=dict)
    node_requirements: NodeRequirements = field(default_factory=NodeRequirements)
    deployment: Deployment = field(default_factory=Deployment)
    access: Access = field(default_factory=Access)
    base: Base | None = None

    def __post_init__(self) -> None:
        names.check_name(self.name)
        if names.check_version(self.version) != self.version:
            raise ValueError(f"version {self.version!r} is not in normal form")
        for label, word in (
            ("type", self.type),
            ("format", self.format),
            *(("capability", c) for c in self.capabilities),
        ):
            _check_word(label, word)
        _check_trained_on(self.trained_on)
        _check_requirements(self.requirements)
        _check_plain(self.config, "config", [CONFIG_ITEMS])
        self._check_files()

    def _check_files(self) -> None:
        folded = [file.path.casefold() for file in self.files]
        taken = set(folded)
        if len(taken) != len(folded):
            raise ValueError("two files have one path")
        for path in folded:
            parents = path.split("/")[:-1]
            if any("/".join(parents[: depth + 1]) in taken for depth in range(len(parents))):
                raise ValueError(f"{path} lies inside another file")
        if sum(file.size_bytes for file in self.files) != self.size_bytes:
            raise ValueError("size_bytes is not the sum of the files' sizes")
        if self.main.sha256 != self.checksum_sha256:
            raise ValueError("checksum_sha256 is not the main file's")

    @property
    def main(self) -> ModelFile:
        """The file that `file` names."""
        for file in self.files:
            if file.path == self.file:
                return file
        raise ValueError(f"the main file {self.file[:80]!r} is not among the files")

    def chunk_places(self) -> Iterator[ChunkPlace]:
        """Yields the chunks of all files in order; their positions are the indices of a transfer."""
        for number, file in enumerate(self.files):
            offset = 0
            for size, name in zip(file.chunk_sizes, file.chunks, strict=True):
                yield ChunkPlace(number, offset, size, name)
                offset += size


def seal_manifest(signer: Signer, manifest: Manifest) -> bytes:
    """Signs a manifest; the signer is its publisher. It belongs to no mesh, so it can travel between them.

    Raises:
        ValueError: A field is over its limit, so that nobody would accept the manifest.
    """
    try:
        payload = schema.pack(manifest)
        _check_size(len(payload) + ENVELOPE_BYTES, manifest.size_bytes)
        schema.unpack_untrusted(
            Manifest, payload, limits.MANIFEST_BYTES - ENVELOPE_BYTES, max_items=limits.MANIFEST_ITEMS
        )
    except WireError as error:
        raise ValueError(str(error)) from error
    return envelope.seal(signer, DOMAIN, envelope.NO_MESH, payload)


def open_manifest_untrusted(sealed: bytes) -> tuple[Manifest, NodeId]:
    """Checks signature and content of a sealed manifest; returns it with its publisher.

    Raises:
        WireError: It is too long, also for its model, malformed, not signed rightly, or contradicts itself.
    """
    opened = envelope.open_untrusted(sealed, DOMAIN, envelope.NO_MESH, limits.MANIFEST_BYTES)
    manifest = schema.unpack_untrusted(Manifest, opened.payload, limits.MANIFEST_BYTES, max_items=limits.MANIFEST_ITEMS)
    _check_size(len(sealed), manifest.size_bytes)
    return manifest, opened.author


def most_bytes(size_bytes: int) -> int:
    """Returns how long the sealed manifest of a model of `size_bytes` may be: room for the smallest chunks."""
    each = HASH_BYTES + SIZE_FIELD_BYTES
    return min(BASE_BYTES + each * (size_bytes // LEAST_CHUNK_BYTES), limits.MANIFEST_BYTES)


def _check_size(length: int, size_bytes: int) -> None:
    if length > most_bytes(size_bytes):
        raise WireError(f"a manifest of {length} bytes is too long for a model of {size_bytes} bytes")


def manifest_id(sealed: bytes) -> bytes:
    """Returns the name of a sealed manifest: its BLAKE3 hash, 32 bytes."""
    return blake3(sealed).digest()


def _check_hash(label: str, value: bytes) -> None:
    if len(value) != HASH_BYTES:
        raise ValueError(f"{label} has {len(value)} bytes, not {HASH_BYTES}")


def _check_word(label: str, word: str) -> None:
    if not word or not all(letter.isascii() and (letter.isalnum() or letter in "._-+:/") for letter in word):
        raise ValueError(f"{label} {word[:80]!r} is not one word of letters, digits, '.', '_', '-', '+', ':' and '/'")


def _check_trained_on(text: str | None) -> None:
    if text is not None:
        try:
            datetime.fromisoformat(text)
        except ValueError:
            raise ValueError(f"trained_on {text!r} is not an ISO 8601 time") from None


def _check_requirements(requirements: tuple[str, ...]) -> None:
    for text in requirements:
        if text.count("(") > REQUIREMENT_BRACKETS:
            raise ValueError(f"requirement {text[:80]!r} has more than {REQUIREMENT_BRACKETS} brackets")
        try:
            Requirement(text)
        except InvalidRequirement:
            raise ValueError(f"requirement {text[:80]!r} is not of PEP 508") from None


def _check_plain(value: Any, where: str, budget: list[int], depth: int = 0) -> None:
    """Checks that `value` is made of what CBOR and JSON both know, within a budget of items."""
    budget[0] -= 1
    if budget[0] < 0 or depth > CONFIG_DEPTH:
        raise ValueError("config is too large or nested too deep")
    if isinstance(value, dict):
        for key, item in value.items():
            if type(key) is not str:
                raise ValueError(f"{where} has the key {key!r}, which is no text")
            _check_plain(item, f"{where}.{key}", budget, depth + 1)
    elif isinstance(value, list):
        for item in value:
            _check_plain(item, where, budget, depth + 1)
    elif isinstance(value, bool | str | None):
        pass
    elif isinstance(value, int):
        if not -(2**63) <= value < 2**63:
            raise ValueError(f"{where} is beyond 64 bits")
    elif not isinstance(value, float) or not math.isfinite(value):
        raise ValueError(f"{where} is not a plain value: text, number, list or map")
