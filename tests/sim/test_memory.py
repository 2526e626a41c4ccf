"""What one node has opened no other has to open again."""

from __future__ import annotations

import pytest

from atmo.errors import WireError
from atmo.sim.memory import Remembers


def test_results_and_refusals_are_remembered_and_the_oldest_go() -> None:
    calls: list[bytes] = []

    def opens(envelope: bytes, mesh: bytes) -> bytes:
        calls.append(envelope)
        if envelope == b"bad":
            raise WireError("it is bad")
        return envelope * 2

    remembers = Remembers(opens, most=2)
    assert [remembers(b"a", b"m") for _ in range(3)] == [b"aa"] * 3
    for _ in range(2):
        with pytest.raises(WireError, match="it is bad"):
            remembers(b"bad", b"m")
    assert calls == [b"a", b"bad"]
    remembers(b"c", b"m")
    remembers(b"a", b"m")
    assert calls == [b"a", b"bad", b"c", b"a"]
    assert remembers.opened == 4
