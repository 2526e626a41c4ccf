"""A node's folder: its key, its lock, and what a running node tells other processes."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from atmo.errors import UserError
from atmo.storage.files import write_atomically
from atmo.storage.home import Home


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path / "home")
    home.prepare()
    return home


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_the_key_is_made_once_and_only_its_owner_may_read_it(home: Home) -> None:
    signer = home.load_signer()
    assert mode(home.key_path) == 0o600
    assert mode(home.path) == 0o700
    assert mode(home.database_path) == 0o600
    assert home.load_signer().node_id == signer.node_id
    assert signer.seed not in home.key_path.read_bytes()


def test_a_key_that_others_may_read_is_refused_with_the_command_that_mends_it(home: Home) -> None:
    home.load_signer()
    home.key_path.chmod(0o644)
    with pytest.raises(UserError, match="chmod 600"):
        home.load_signer()


@pytest.mark.parametrize(
    "damage", [b"", b"\xff\xfe", b"atmosphere-ed25519-seed:AAAA\n", b"atmosphere-ed25519-seed:!\n", b"A" * 44]
)
def test_a_damaged_key_is_never_replaced(home: Home, damage: bytes) -> None:
    home.load_signer()
    home.key_path.write_bytes(damage)
    home.key_path.chmod(0o600)
    with pytest.raises(UserError, match=r"identity\.key"):
        home.load_signer()
    assert home.key_path.read_bytes() == damage


def test_one_process_holds_a_home_at_a_time(home: Home) -> None:
    program = (
        "import sys; from pathlib import Path; from atmo.storage.home import Home\n"
        "with Home(Path(sys.argv[1])).lock(): print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(home.path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(UserError, match="another atmo process"), home.lock(0.1):
            pass
        home.write_node_info({"pid": other.pid, "token": "secret"})
        assert mode(home.info_path) == 0o600
        assert home.node_info() == {"pid": other.pid, "token": "secret"}
        other.kill()
    assert home.node_info() is None, "what a killed node left behind counts no more"
    with home.lock():
        pass


def test_broken_node_info_is_nobody(home: Home) -> None:
    assert home.node_info() is None
    home.info_path.write_text("{")
    assert home.node_info() is None
    home.info_path.write_text("[]")
    with home.lock():
        assert home.node_info() is None
    home.remove_node_info()
    home.remove_node_info()
    assert not home.info_path.exists()


def test_a_home_that_cannot_be_made_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="--home"):
        Home(tmp_path / "file" / "home").prepare()


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "file"
    write_atomically(target, b"old")

    def fail(descriptor: int) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        write_atomically(target, b"new")
    assert target.read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
