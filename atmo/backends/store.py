"""What the backends need to know of a model in the local store, and of whoever embeds text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    # Commands that ask what can run need not wait for numpy.
    import numpy as np
    from numpy.typing import NDArray

ONNX, GGUF = "onnx", "gguf"
RUN_TYPES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {ONNX: ("classifier", "anomaly_detector", "clusterer", "forecaster", "embedder"), GGUF: ("llm", "embedder")}
)
"""What the nodes of this version run of the models in their stores, by format; the others are kept and shared only."""

EXTRAS: Mapping[str, tuple[str, str]] = MappingProxyType({GGUF: ("xllamacpp", "atmosphere-mesh[gguf]")})
"""What has to be installed for a format: the package that runs it, and what to install."""


def why_not_run(model_format: str, model_type: str) -> str:
    """Returns of what kind a stored model is that this version cannot run; empty where it can."""
    types = RUN_TYPES.get(model_format)
    if types is None:
        return f"the format {model_format or 'unknown'}"
    return "" if model_type in types else f"the type {model_type or 'unknown'}"


def what_to_install(model_format: str) -> str:
    """Returns what this machine lacks to run models of a format, for `pip install`; empty where it lacks nothing."""
    package, extra = EXTRAS.get(model_format, ("", ""))
    return extra if package and find_spec(package) is None else ""


class StoredModel(Protocol):
    """One model version whose file lies whole and verified on this machine's disk.

    Attributes:
        name: The name a request uses.
        version: PEP 440 version.
        type: `classifier`, `anomaly_detector`, `embedder` or another type of the manifest.
        format: `onnx`, `sklearn`, `gguf`, ...
        capabilities: What the author says it does, such as `network_monitoring`.
        config: The manifest's `config` map; the keys that matter are listed in `atmo.backends.ml_model`.
        path: The plain file.
        description: One or two sentences for people and for routing by meaning; may be empty.
    """

    @property
    def name(self) -> str: ...
    @property
    def version(self) -> str: ...
    @property
    def type(self) -> str: ...
    @property
    def format(self) -> str: ...
    @property
    def capabilities(self) -> Sequence[str]: ...
    @property
    def config(self) -> Mapping[str, Any]: ...
    @property
    def path(self) -> Path: ...
    @property
    def description(self) -> str: ...


class TextEmbedder(Protocol):
    """Whatever turns texts into unit vectors; `atmo.backends.embedder.Embedder` is one."""

    async def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Returns float32[len(texts), d]."""
        ...
