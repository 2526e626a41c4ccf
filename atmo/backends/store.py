"""What the backends need to know of a model in the local store, and of whoever embeds text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

RUN_FORMAT = "onnx"
RUN_TYPES = ("classifier", "anomaly_detector", "embedder")
"""What the nodes of this version run of the models in their stores; the others are kept and shared only."""


def why_not_run(model_format: str, model_type: str) -> str:
    """Returns of what kind a stored model is that this version cannot run; empty where it can."""
    if model_format != RUN_FORMAT:
        return f"the format {model_format or 'unknown'}"
    return "" if model_type in RUN_TYPES else f"the type {model_type or 'unknown'}"


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
