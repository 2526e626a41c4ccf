"""What a model needs, held against what a node has: every kind of lack is named, and nothing unknown is one."""

from __future__ import annotations

import pytest

from atmo.transfer.manifest import NodeRequirements
from atmo.transfer.requirements import MIB, Profile, packages, unfit, unmet, unwanted
from tests.transfer.samples import manifest_of

PI = Profile(
    memory_mb=4_096,
    cpu_cores=4,
    architecture="aarch64",
    system="linux",
    python_version="3.11.2",
    packages=("scikit-learn==1.4.0", "Numpy==1.26.0", "torch==2.1.0+cpu", "odd==not a version", "bare"),
    max_model_size_mb=1,
    max_models=10,
)


def test_a_node_that_has_everything_lacks_nothing() -> None:
    needs = NodeRequirements(512, 4, False, ("x86_64", "arm64"))
    wanted = ("scikit_learn>=1.0", "numpy>=1.20", "torch==2.1.*", "winlib; sys_platform == 'win32'")
    assert unmet(manifest_of(node_requirements=needs, requirements=wanted), PI, models=9) == ()


@pytest.mark.parametrize(
    ("needs", "said"),
    [
        (NodeRequirements(min_memory_mb=8_192), "needs 8192 MB of memory, and there are 4096"),
        (NodeRequirements(min_cpu_cores=8), "needs 8 processor cores, and there are 4"),
        (NodeRequirements(gpu_required=True), "needs a GPU, and there is none"),
        (NodeRequirements(architectures=("amd64", "i686")), "runs on amd64, i686, and this is aarch64"),
    ],
)
def test_what_the_machine_lacks(needs: NodeRequirements, said: str) -> None:
    manifest = manifest_of(node_requirements=needs)
    assert unmet(manifest, PI) == unfit(manifest, PI) == (said,)


@pytest.mark.parametrize(
    ("here", "named"),
    [
        ("x86_64", "AMD64"),
        ("amd64", "x64"),
        ("arm64", "aarch64"),
        ("i686", "x86"),
        ("armv7l", "armhf"),
        ("riscv64",) * 2,
    ],
)
def test_architectures_have_several_names(here: str, named: str) -> None:
    needs = NodeRequirements(architectures=(named,))
    assert unmet(manifest_of(node_requirements=needs), Profile(architecture=here)) == ()


def test_a_gpu_that_is_there_will_do() -> None:
    needs = NodeRequirements(gpu_required=True)
    assert unmet(manifest_of(node_requirements=needs), Profile(gpu="RTX 4090")) == ()


def test_what_is_not_known_stands_against_nothing() -> None:
    needs = NodeRequirements(1, 1, False, ("x86_64",))
    assert unmet(manifest_of(node_requirements=needs, requirements=("torch>=2",)), Profile(), models=10**6) == ()


def test_what_the_owner_does_not_want() -> None:
    assert unwanted(MIB, PI, 9) == ()
    assert unwanted(MIB + 1, PI, 10) == (
        "has 2 MiB, and models of at most 1 are wanted",
        "would be one more than the 10 models that are wanted",
    )


def test_packages_that_are_missing_or_have_another_version() -> None:
    wanted = ("torch>=3", "tensorflow", "odd>=1", "odd", "bare>=1", "joblib; python_version < '3.8'", "a; extra == 'b'")
    assert packages(manifest_of(requirements=wanted), PI) == (
        "asks for torch>=3, and 2.1.0+cpu is installed",
        "asks for tensorflow, which is not known to be installed",
        "asks for odd>=1, and not a version is installed",
        "asks for bare>=1, which is not known to be installed",
    )


@pytest.mark.parametrize(
    ("system", "marker", "holds"),
    [
        ("windows", "os_name == 'nt' and sys_platform == 'win32'", True),
        ("linux", "os_name == 'posix' and platform_system == 'Linux'", True),
        ("darwin", "sys_platform == 'linux'", False),
        ("linux", "platform_machine == 'aarch64' and python_version >= '3.11'", True),
    ],
)
def test_markers_are_those_of_the_node(system: str, marker: str, holds: bool) -> None:
    node = Profile(system=system, architecture="aarch64", packages=("numpy==1",))
    assert bool(packages(manifest_of(requirements=(f"torch; {marker}",)), node)) is holds


@pytest.mark.parametrize("marker", ["sys_platform ~= 'x'", "'x' in extras", "dependency_groups == 'x'"])
def test_a_marker_without_meaning_is_told_and_raises_nothing(marker: str) -> None:
    manifest = manifest_of(requirements=(f"lib; {marker}",))
    assert packages(manifest, PI) == ("asks for lib, which is not known to be installed",)
