"""tools/torture in short: what it does in 10 rounds, and that it would notice."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))

from torture_store import Broken, Torture, Trial, opened

TOOLS = Path(__file__).resolve().parents[2] / "tools"


def command(folder: Path, *arguments: str) -> list[str]:
    return [sys.executable, str(TOOLS / "torture_main.py"), *arguments, "--folder", str(folder)]


@pytest.mark.e2e
def test_ten_rounds_lose_nothing(tmp_path: Path) -> None:
    done = subprocess.run(
        command(tmp_path, "store", "--rounds", "10", "--seed", "7"), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "--rounds 10 --seed 7" in done.stdout
    assert "10 of 10 kills" in done.stdout
    assert "Nothing was lost in 10 rounds; seed 7" in done.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.e2e
def test_interrupted_it_leaves_nothing(tmp_path: Path) -> None:
    process = subprocess.Popen(command(tmp_path, "store"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert "--seed" in process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (130, "Interrupted.\n")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("arguments", [("moon",), ("store", "--rounds", "0"), ("store", "--rounds", "x")])
def test_what_makes_no_sense_is_refused(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    done = subprocess.run(command(tmp_path, *arguments), capture_output=True, text=True, check=False)
    assert done.returncode == 2


@pytest.fixture
def torture(tmp_path: Path) -> Torture:
    torture = Torture(tmp_path, Random(1))
    for kind in ("import", "pull"):
        trial = torture.prepare(kind)
        trial.run()
        assert torture.check(trial)
    return torture


def nothing() -> Trial:
    return Trial("import", lambda: None)


def test_it_notices_what_is_lost(torture: Torture) -> None:
    with opened(torture.home) as store:
        store.remove("model-1", "1.0.0")
    with pytest.raises(Broken, match="model-1 was whole before and is lost"):
        torture.check(nothing())


def test_it_notices_damage(torture: Torture) -> None:
    with opened(torture.home) as store, store.models()[1].path.open("r+b") as file:
        file.write(b"rot")
    with pytest.raises(Broken, match="model-2 is damaged"):
        torture.check(nothing())


def test_it_notices_what_lies_about_and_what_nobody_noted(torture: Torture) -> None:
    (torture.home / "models" / "half a model").write_text("x")
    with pytest.raises(Broken, match="lying about: half a model"):
        torture.check(nothing())
    (torture.home / "models" / "half a model").unlink()
    (torture.home / "audit.jsonl").write_bytes((torture.home / "audit.jsonl").read_bytes().replace(b"ok", b"no", 1))
    with pytest.raises(Broken, match="the audit log"):
        torture.check(nothing())


def test_it_notices_a_store_that_does_not_open(torture: Torture) -> None:
    (torture.home / "incoming").rmdir()
    (torture.home / "incoming").write_text("x")
    with pytest.raises(Broken, match="does not open"):
        torture.check(nothing())


def test_every_action_does_what_it_says(torture: Torture) -> None:
    for kind in ("gc", "verify", "evict", "import", "remove"):
        trial = torture.prepare(kind)
        assert trial.kind == kind
        trial.run()
        assert torture.check(trial)
    assert torture.prepare("remove").kind == "remove"
    torture.held.clear()
    assert torture.prepare("verify").kind == "pull"
