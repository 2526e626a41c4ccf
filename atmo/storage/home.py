"""A node's folder: its key, its lock, and what a running node tells other processes of this machine."""

from __future__ import annotations

import base64
import binascii
import fcntl
import json
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from atmo.errors import UserError
from atmo.identity import Signer
from atmo.storage.files import write_atomically

_KEY_PREFIX = "atmosphere-ed25519-seed:"
_LOCK_POLL_S = 0.05


class Home:
    """The layout of one node's folder.

    Args:
        path: The folder; made, readable by its owner alone, by `prepare`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.run = path / "run"
        self.key_path = path / "identity.key"
        self.database_path = path / "atmosphere.db"
        self.info_path = self.run / "node.json"
        self._lock_path = self.run / "lock"

    def prepare(self) -> None:
        """Makes the folders.

        Raises:
            UserError: They cannot be made or written.
        """
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.run.mkdir(mode=0o700, exist_ok=True)
            self.database_path.touch(mode=0o600)  # SQLite gives its other files the mode of this one
        except OSError as error:
            raise UserError(
                f"{self.path}: this home cannot be made or written: {error.strerror}.", "Give another with --home DIR."
            ) from error
        if not os.access(self.path, os.W_OK):
            raise UserError(f"{self.path}: this home cannot be written.", "Give another with --home DIR.")

    def load_signer(self) -> Signer:
        """Returns this node's key, made on the first call.

        Raises:
            UserError: The key file is damaged, or others may read it.
        """
        try:
            text = self.key_path.read_text()
        except FileNotFoundError:
            seed = secrets.token_bytes(32)
            write_atomically(self.key_path, (_KEY_PREFIX + base64.b64encode(seed).decode() + "\n").encode(), 0o600)
            return Signer(seed)
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{self.key_path}: the key cannot be read: {error}.") from error
        if self.key_path.stat().st_mode & 0o077:
            raise UserError(f"{self.key_path}: others may read this node's key.", f"Run: chmod 600 {self.key_path}")
        try:
            seed = base64.b64decode(text.strip().removeprefix(_KEY_PREFIX), validate=True)
        except binascii.Error:
            seed = b""
        if len(seed) != 32 or not text.startswith(_KEY_PREFIX):
            raise UserError(
                f"{self.key_path}: this is no Atmosphere key.",
                "Restore it from a backup; without it this machine is a new node.",
            )
        return Signer(seed)

    @contextmanager
    def lock(self, wait_s: float = 0.0) -> Iterator[None]:
        """Holds the home for one process, until the block ends or the process dies.

        Args:
            wait_s: How long to wait for another process to let go; blocks the thread.

        Raises:
            UserError: Another process holds it.
        """
        descriptor = os.open(self._lock_path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            deadline = time.monotonic() + wait_s
            while True:
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() >= deadline:
                        raise UserError(
                            f"{self.path}: another atmo process uses this home.",
                            "Stop it, or give another home with --home DIR.",
                        ) from None
                time.sleep(_LOCK_POLL_S)
            yield
        finally:
            os.close(descriptor)

    def _is_locked(self) -> bool:
        try:
            descriptor = os.open(self._lock_path, os.O_RDWR)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
        return False

    def node_info(self) -> dict[str, Any] | None:
        """Returns `run/node.json` of the node that runs on this home, None when none runs."""
        try:
            info = json.loads(self.info_path.read_text())
        except (FileNotFoundError, NotADirectoryError, ValueError):
            return None
        except OSError as error:
            raise UserError(f"{self.info_path}: cannot be read: {error.strerror}.") from error
        return info if isinstance(info, dict) and self._is_locked() else None

    def write_node_info(self, info: dict[str, Any]) -> None:
        """Tells other processes of this user how to reach the running node; holds a secret token, so 0600."""
        write_atomically(self.info_path, json.dumps(info, indent=2).encode() + b"\n", 0o600)

    def remove_node_info(self) -> None:
        """Forgets the running node."""
        with suppress(FileNotFoundError):
            self.info_path.unlink()
