"""Holds what a model needs against what a node has: in words, so that people see what is missing."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain

from packaging.markers import Marker, UndefinedComparison, UndefinedEnvironmentName
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from atmo.transfer.manifest import Manifest

MIB = 1024 * 1024

_ARCHITECTURES = (
    ("x86_64", "amd64", "x64", "x86-64"),
    ("arm64", "aarch64", "armv8", "armv8l"),
    ("x86", "i386", "i486", "i586", "i686"),
    ("armv7", "armv7l", "armhf"),
)
"""Names of one architecture: those of `uname`, of Debian, of Windows and of the makers."""

_SAME = {name: names[0] for names in _ARCHITECTURES for name in names}


@dataclass(frozen=True, slots=True)
class Profile:
    """What a node says that it has; what is empty or 0 is not known, and does not stand against anything.

    Attributes:
        memory_mb, cpu_cores, architecture: Of the machine.
        gpu: Its name, None where there is none.
        system: `linux`, `darwin`, `windows`.
        python_version: Such as `3.11.2`.
        packages: Installed Python packages, each as `name==version`.
        interests: Capabilities of models that its owner wants to have here.
        max_model_size_mb: Larger models (MiB) are not wanted; 0 means no limit.
        max_models: Nor more than so many; 0 means no limit.
    """

    memory_mb: int = 0
    cpu_cores: int = 0
    architecture: str = ""
    gpu: str | None = None
    system: str = ""
    python_version: str = ""
    packages: tuple[str, ...] = ()
    interests: tuple[str, ...] = ()
    max_model_size_mb: int = 0
    max_models: int = 0


def unmet(manifest: Manifest, profile: Profile, models: int = 0) -> tuple[str, ...]:
    """Says what a node lacks for a model, each in a few words; nothing where it lacks nothing.

    Args:
        manifest: Of the model.
        profile: Of the node.
        models: It has so many already.
    """
    return tuple(
        chain(unwanted(manifest.size_bytes, profile, models), _machine(manifest, profile), packages(manifest, profile))
    )


def unfit(manifest: Manifest, profile: Profile, models: int = 0) -> tuple[str, ...]:
    """Says the same but of packages, which a model that is only data may do without."""
    return (*unwanted(manifest.size_bytes, profile, models), *_machine(manifest, profile))


def unwanted(size_bytes: int, profile: Profile, models: int = 0) -> tuple[str, ...]:
    """Says why a node wants no model of that size, or none at all."""
    found = []
    if profile.max_model_size_mb and size_bytes > profile.max_model_size_mb * MIB:
        found.append(f"has {-(-size_bytes // MIB)} MiB, and models of at most {profile.max_model_size_mb} are wanted")
    if profile.max_models and models >= profile.max_models:
        found.append(f"would be one more than the {profile.max_models} models that are wanted")
    return tuple(found)


def _machine(manifest: Manifest, profile: Profile) -> tuple[str, ...]:
    needs, found = manifest.node_requirements, []
    wanted = {_same(name) for name in needs.architectures}
    if wanted and profile.architecture and _same(profile.architecture) not in wanted:
        found.append(f"runs on {', '.join(needs.architectures)}, and this is {profile.architecture}")
    if profile.memory_mb and needs.min_memory_mb > profile.memory_mb:
        found.append(f"needs {needs.min_memory_mb} MB of memory, and there are {profile.memory_mb}")
    if profile.cpu_cores and needs.min_cpu_cores > profile.cpu_cores:
        found.append(f"needs {needs.min_cpu_cores} processor cores, and there are {profile.cpu_cores}")
    if needs.gpu_required and profile.gpu is None:
        found.append("needs a GPU, and there is none")
    return tuple(found)


def packages(manifest: Manifest, profile: Profile) -> tuple[str, ...]:
    """Says which Python packages that a model asks for a node does not have; nothing where it told of none."""
    if not profile.packages:
        return ()
    there: dict[str, str] = {}
    for line in profile.packages:
        name, _, version = line.partition("==")  # one without a version says nothing
        there[canonicalize_name(name)] = version
    found = []
    for text in manifest.requirements:
        needed = Requirement(text)
        if needed.marker is not None and not _holds(needed.marker, profile):
            continue
        version = there.get(canonicalize_name(needed.name), "")
        if not version:
            found.append(f"asks for {needed.name}{needed.specifier}, which is not known to be installed")
        elif not needed.specifier.contains(version, prereleases=True):
            found.append(f"asks for {needed.name}{needed.specifier}, and {version} is installed")
    return tuple(found)


def _same(architecture: str) -> str:
    name = architecture.casefold()
    return _SAME.get(name, name)


def _holds(marker: Marker, profile: Profile) -> bool:
    """Evaluates a marker for the node, and not for the machine on which this runs: every variable is given.

    One that compares what cannot be compared, or names what only lock files know, holds: better told than hidden.
    """
    try:
        return marker.evaluate(_environment(profile))
    except (UndefinedComparison, UndefinedEnvironmentName):
        return True


def _environment(profile: Profile) -> dict[str, str]:
    python = profile.python_version or "3.11.0"
    return {
        "extra": "",
        "implementation_name": "cpython",
        "implementation_version": python,
        "os_name": "nt" if profile.system == "windows" else "posix",
        "platform_machine": profile.architecture,
        "platform_python_implementation": "CPython",
        "platform_release": "",
        "platform_system": profile.system.capitalize(),
        "platform_version": "",
        "python_full_version": python,
        "python_version": ".".join(python.split(".")[:2]),
        "sys_platform": "win32" if profile.system == "windows" else profile.system,
    }
