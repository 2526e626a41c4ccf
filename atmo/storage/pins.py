"""Who uses a model right now: what is in use is neither evicted, nor collected, nor removed."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager


class Pins:
    """Counts of users by manifest; for any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users: dict[bytes, Counter[str]] = {}

    @contextmanager
    def hold(self, manifest_id: bytes, who: str) -> Iterator[None]:
        """Keeps a model while the block lasts.

        Args:
            manifest_id: Of the model, which need not be here yet.
            who: Uses it, as in "it is in use by a verification".
        """
        with self._lock:
            self._users.setdefault(manifest_id, Counter())[who] += 1
        try:
            yield
        finally:
            with self._lock:
                users = self._users[manifest_id]
                users[who] -= 1
                if not +users:
                    del self._users[manifest_id]

    def users(self, manifest_id: bytes) -> list[str]:
        """Returns who uses a model, in order of their names."""
        with self._lock:
            return sorted(+self._users.get(manifest_id, Counter()))
