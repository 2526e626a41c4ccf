"""The tools say in one line what is missing, and know what they hold to 100 % coverage."""

from __future__ import annotations

import configparser
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LIB = ROOT / "tools" / "lib"


def run(command: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.parametrize("tool", ["test", "check", "demo"])
def test_without_python_one_line_says_so(tool: str, tmp_path: Path) -> None:
    (tmp_path / "dirname").symlink_to("/usr/bin/dirname")
    result = run(["/bin/sh", str(ROOT / "tools" / tool)], PATH=str(tmp_path))
    assert result.returncode == 1
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("Python 3.11 or later is missing")


def test_without_a_compiler_one_line_says_so_and_nothing_is_made(tmp_path: Path) -> None:
    venv = tmp_path / "venv"
    result = run([sys.executable, str(LIB / "make_env.py")], PATH=str(tmp_path), ATMO_VENV=str(venv))
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert line == "A C++ compiler is missing: install it first (Debian: apt-get install g++)."
    assert not venv.exists()
    assert run([sys.executable, str(LIB / "make_env.py"), "--missing"], PATH=str(tmp_path)).stdout == "g++\n"


def test_a_ready_environment_is_left_alone(tmp_path: Path) -> None:
    venv = tmp_path / "venv"
    make_env = LIB / "make_env.py"
    script = f"import runpy; print(runpy.run_path({str(make_env)!r})['fingerprint']())"
    fingerprint = run([sys.executable, "-c", script], ATMO_VENV=str(venv)).stdout.strip()
    assert len(fingerprint) == 64
    (venv / "bin").mkdir(parents=True)
    (venv / "bin" / "python").touch()
    (venv / ".atmosphere-installed").write_text(fingerprint)
    result = run([sys.executable, str(make_env)], ATMO_VENV=str(venv), PATH=os.defpath)
    assert (result.returncode, result.stdout, result.stderr) == (0, f"{venv}/bin/python\n", "")


def test_coverage_is_demanded_of_every_room_without_io() -> None:
    """tools/test and the import contract name the same modules."""
    module = runpy.run_path(str(LIB / "run_tests.py"))
    contract = configparser.ConfigParser()
    contract.read(ROOT / "setup.cfg")
    named = contract["importlinter:contract:no-io"]["source_modules"].split()
    assert sorted(named) == sorted(f"atmo.{name}" for name in (*module["ROOMS"], *module["MODULES"]))


def test_constraints_pin_every_dependency() -> None:
    lines = (ROOT / "tools" / "constraints.txt").read_text().splitlines()
    pinned = [line.partition("==")[0].lower().replace("_", "-") for line in lines if not line.startswith("#")]
    assert len(set(pinned)) == len(pinned)
    assert all("==" in line and " " not in line and "/" not in line for line in lines if not line.startswith("#"))
    project = (ROOT / "pyproject.toml").read_text()
    for name in ("aioquic", "cbor2", "hnswlib", "setuptools", "pybind11", "openai", "ruff"):
        assert name in pinned
        assert name in project or name == "pybind11"
