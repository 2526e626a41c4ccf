"""Pure functions with a memory: what one node has opened no other has to open again, nor to keep a second time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from atmo.errors import WireError
from atmo.gossip.entry import open_record_untrusted
from atmo.index.records import open_provider_untrusted
from atmo.peer import Crypto
from atmo.trust.certificate import open_certificate_untrusted

T = TypeVar("T")

MOST = 1 << 17
"""Results kept of each function, of which the oldest go. Source: ten thousand nodes with ten records each."""


class Remembers(Generic[T]):
    """A function of a sealed envelope and a mesh that raises `WireError` or returns what never changes.

    Args:
        opens: The function.
        most: Results kept.
    """

    def __init__(self, opens: Callable[[bytes, bytes], T], most: int = MOST) -> None:
        self._opens = opens
        self._most = most
        self._known: dict[bytes, T | WireError] = {}
        self.opened = 0

    def __call__(self, envelope: bytes, mesh: bytes) -> T:
        known = self._known.get(envelope)
        if known is None:
            known = self._open(envelope, mesh)
        if isinstance(known, WireError):
            raise WireError(str(known))
        return known

    def _open(self, envelope: bytes, mesh: bytes) -> T | WireError:
        self.opened += 1
        result: T | WireError
        try:
            result = self._opens(envelope, mesh)
        except WireError as error:
            result = error.with_traceback(None)
        if len(self._known) >= self._most:
            del self._known[next(iter(self._known))]
        self._known[envelope] = result
        return result


class Memory:
    """What the nodes of one world share.

    Attributes:
        crypto: For their peers.
        open_certificate: For their trust.
    """

    def __init__(self) -> None:
        self.crypto = Crypto(Remembers(open_record_untrusted), Remembers(open_provider_untrusted))
        self.open_certificate = Remembers(open_certificate_untrusted)
