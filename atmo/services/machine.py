"""What this machine is and has, as its records tell the mesh (docs/manifest.md)."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Sequence
from pathlib import Path

from atmo.gossip.records import Hardware, ProfileBody
from atmo.storage.eviction import Limits
from atmo.transfer.requirements import MIB

PACKAGES = (
    "accelerate",
    "catboost",
    "ctransformers",
    "diffusers",
    "faiss-cpu",
    "gguf",
    "hnswlib",
    "huggingface-hub",
    "jax",
    "joblib",
    "keras",
    "lightgbm",
    "llama-cpp-python",
    "mlx",
    "mlx-lm",
    "numpy",
    "onnx",
    "onnxruntime",
    "onnxruntime-gpu",
    "opencv-python",
    "pandas",
    "peft",
    "pillow",
    "safetensors",
    "scikit-learn",
    "scipy",
    "sentence-transformers",
    "sentencepiece",
    "skl2onnx",
    "spacy",
    "tensorflow",
    "tokenizers",
    "torch",
    "torchaudio",
    "torchvision",
    "transformers",
    "ultralytics",
    "vllm",
    "xgboost",
)
"""Packages that manifests of models ask for. Source: the requirements of models of the common formats."""

_NVIDIA = Path("/proc/driver/nvidia/gpus")
_DRM = Path("/sys/class/drm")
_AMD = "0x1002"
GPU_CHARS = 128


def this_hardware() -> Hardware:
    """Describes this machine for its node record."""
    try:
        memory_mb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // MIB
    except (ValueError, OSError):
        memory_mb = 0
    return Hardware(memory_mb, os.cpu_count() or 0, platform.machine().lower(), find_gpu())


def find_gpu(nvidia: Path = _NVIDIA, drm: Path = _DRM) -> str | None:
    """Returns the name of a GPU that models can use, None where none is found.

    NVIDIA's driver tells names under `/proc`; of AMD's cards those count that have memory of their own; Apple's
    processors have one.
    """
    if platform.system() == "Darwin":
        return "Apple GPU" if platform.machine() == "arm64" else None
    for information in sorted(nvidia.glob("*/information")):
        for line in _read(information).splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "Model" and value.strip():
                return value.strip()[:GPU_CHARS]
    for device in sorted(drm.glob("card*/device")):
        if _read(device / "vendor").strip() == _AMD and _read(device / "mem_info_vram_total").strip() not in ("", "0"):
            return "AMD GPU"
    return None


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")[:4_096]
    except OSError:
        return ""


def this_profile(interests: Sequence[str] = (), limits: Limits = Limits()) -> ProfileBody:
    """Describes what is installed here and which models are wanted, for the `profile` record; reads the disk."""
    return ProfileBody(
        system=platform.system().lower()[:32],
        python_version=platform.python_version()[:32],
        packages=tuple(found for name in PACKAGES if (found := _installed(name))),
        interests=tuple(interests),
        max_model_size_mb=max(1, limits.max_model_bytes // MIB) if limits.max_model_bytes else 0,
        max_models=limits.max_models or 0,
    )


def _installed(name: str) -> str:
    try:
        return f"{name}=={importlib.metadata.version(name)}"[:128]
    except importlib.metadata.PackageNotFoundError:
        return ""
