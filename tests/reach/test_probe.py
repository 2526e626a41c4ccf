"""Probes: what one end seals the other opens, and nothing else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atmo.errors import WireError
from atmo.reach import probe
from atmo.reach.probe import MARK, PADDED_BYTES, PROBE, PROBE_BYTES, REPLY, Key, Probe, open_probe_untrusted, seal_probe
from atmo.wire.address import Address

KEY = Key(b"session1", b"k" * 32)
NONCE = b"12345678"


def secret_of(session: bytes) -> bytes | None:
    return KEY.secret if session == KEY.session else None


@pytest.mark.parametrize("observed", [None, Address("192.0.2.7", 1), Address("2001:db8::1", 65_535)])
@pytest.mark.parametrize("kind", [PROBE, REPLY])
def test_what_was_sealed_is_read(kind: int, observed: Address | None) -> None:
    data = seal_probe(KEY, kind, NONCE, observed)
    assert len(data) == PROBE_BYTES
    assert data[0] & 0x40 == 0
    assert open_probe_untrusted(data, secret_of) == Probe(KEY.session, kind, NONCE, observed)


@given(st.integers(PROBE_BYTES, PADDED_BYTES))
def test_a_probe_may_be_padded_and_a_reply_may_not(size: int) -> None:
    data = seal_probe(KEY, PROBE, NONCE, size=size)
    assert len(data) == size
    assert open_probe_untrusted(data, secret_of) == Probe(KEY.session, PROBE, NONCE)
    with pytest.raises(WireError):
        open_probe_untrusted(data[:-1], secret_of)
    with pytest.raises(WireError):
        open_probe_untrusted(data[:-16] + b"\0" + data[-16:], secret_of)
    with pytest.raises(WireError):
        open_probe_untrusted(seal_probe(KEY, REPLY, NONCE, size=size + 1), secret_of)


def test_the_scope_of_a_link_local_address_stays_at_home() -> None:
    data = seal_probe(KEY, REPLY, NONCE, Address("fe80::1%eth0", 7))
    assert open_probe_untrusted(data, secret_of).observed == Address("fe80::1", 7)


@given(st.integers(0, PROBE_BYTES - 1), st.integers(1, 255))
def test_no_byte_can_be_changed(place: int, change: int) -> None:
    data = bytearray(seal_probe(KEY, PROBE, NONCE))
    data[place] ^= change
    with pytest.raises(WireError):
        open_probe_untrusted(bytes(data), secret_of)


@given(st.binary(max_size=2 * PROBE_BYTES))
def test_garbage_is_refused(data: bytes) -> None:
    with pytest.raises(WireError):
        open_probe_untrusted(bytes([MARK]) + data, secret_of)


@pytest.mark.parametrize(("kind", "family", "reason"), [(4, 0, "kind 4"), (PROBE, 5, "family 5")])
def test_who_has_the_key_still_has_to_keep_the_form(kind: int, family: int, reason: str) -> None:
    body = probe._BODY.pack(MARK, kind, KEY.session, NONCE, family, bytes(16), 9)
    with pytest.raises(WireError, match=reason):
        open_probe_untrusted(body + probe._tag(KEY.secret, body), secret_of)


def test_a_probe_of_another_connection_is_refused() -> None:
    with pytest.raises(WireError, match="no connection"):
        open_probe_untrusted(seal_probe(Key(b"session2", KEY.secret), PROBE, NONCE), secret_of)
    with pytest.raises(WireError, match="wrong tag"):
        open_probe_untrusted(seal_probe(Key(KEY.session, b"x" * 32), PROBE, NONCE), secret_of)
