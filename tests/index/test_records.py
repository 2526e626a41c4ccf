"""Provider records: what is signed, what is refused, what is kept."""

from __future__ import annotations

from typing import Any

import pytest

from atmo.engine import Address, Contact
from atmo.errors import WireError
from atmo.index import IndexConfig, open_provider_untrusted
from atmo.index.messages import PROVIDER_BYTES
from atmo.index.records import DOMAIN, LIFETIME_MOST_S, Provider, ProviderStore, seal_provider
from atmo.wire import limits
from atmo.wire.envelope import seal
from atmo.wire.schema import pack
from tests.index.kit import KEY, MESH, START_S, provider, sealed, signer

LATER = START_S + 1_000.0


def test_a_record_comes_back_as_it_was_signed() -> None:
    record = sealed(signer(1))
    assert record.author == signer(1).node_id
    assert record.provider == provider()
    assert record.contact == Contact(record.author, provider().addresses)
    assert record.expires_s(60.0) == START_S + 1_260


@pytest.mark.parametrize("fields", [{"key": b"short"}, {"lifetime_s": LIFETIME_MOST_S + 1}, {"key": b"k" * 33}])
def test_what_breaks_the_form_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(WireError):
        sealed(signer(1), **fields)


def test_other_domains_and_meshes_are_refused() -> None:
    for envelope in (
        seal(signer(1), "atmo/record/1", MESH, pack(provider())),
        seal_provider(signer(1), b"x", provider()),
    ):
        with pytest.raises(WireError):
            open_provider_untrusted(envelope, MESH)
    assert open_provider_untrusted(seal(signer(1), DOMAIN, MESH, pack(provider())), MESH)


def test_the_largest_record_fits() -> None:
    certificate = bytes(limits.CERTIFICATE_BYTES)
    address = Address("2001:db8:1111:2222:3333:4444:5555:6666%abcdef", 65_535)
    largest = Provider(KEY, (address,) * 4, 2**40, LIFETIME_MOST_S, 2**53, 2**53, certificate, certificate)
    envelope = seal_provider(signer(1), MESH, largest)
    assert len(envelope) <= PROVIDER_BYTES
    assert open_provider_untrusted(envelope, MESH).provider == largest


def test_the_newest_record_of_an_author_wins() -> None:
    store = ProviderStore(IndexConfig())
    old, new, other = sealed(signer(1), version=(1, 9)), sealed(signer(1), version=(2, 1)), sealed(signer(2))
    for record in (old, new, other):
        assert store.put(record, LATER, cached=False)
    assert not store.put(old, LATER, cached=False)
    assert store.put(new, LATER - 5, cached=False), "it is kept already"
    forged = sealed(signer(1), version=(2, 1), lifetime_s=1_000)
    assert not store.put(forged, LATER, cached=False)
    assert store.of(KEY, START_S) == [other, new]
    assert store.of(b"none" * 8, START_S) == []
    assert store.held(KEY) == len(store) == 2


def test_a_record_without_addresses_takes_back() -> None:
    store = ProviderStore(IndexConfig())
    store.put(sealed(signer(1)), LATER, cached=False)
    assert store.put(sealed(signer(1), version=(1, 2), addresses=()), LATER, cached=False)
    assert store.of(KEY, START_S) == []
    assert not store.put(sealed(signer(1)), LATER, cached=False)


def test_what_expired_is_not_answered_and_swept() -> None:
    store = ProviderStore(IndexConfig())
    store.put(sealed(signer(1)), LATER, cached=True)
    store.put(sealed(signer(2)), LATER + 9, cached=False)
    assert store.held(KEY) == 1, "a copy does not count"
    store.put(sealed(signer(2), key=b"l" * 32), LATER, cached=False)
    assert len(store.of(KEY, LATER + 1)) == 1
    store.sweep(LATER + 1)
    assert len(store) == store.held(KEY) == 1
    store.sweep(LATER + 10)
    assert len(store) == store.held(KEY) == 0


def test_an_author_can_be_dropped() -> None:
    store = ProviderStore(IndexConfig())
    for number, key in ((1, KEY), (1, b"l" * 32), (2, KEY)):
        store.put(sealed(signer(number), key=key), LATER, cached=False)
    store.drop_author(signer(1).node_id)
    assert len(store) == 1


@pytest.mark.parametrize(
    "config",
    [
        IndexConfig(records=3),
        IndexConfig(author_records=1),
        IndexConfig(key_records=1),
        IndexConfig(record_bytes=700),
        IndexConfig(cached=3),
    ],
)
def test_the_store_is_bounded(config: IndexConfig) -> None:
    store = ProviderStore(config)
    taken = 0
    for number in range(1, 4):
        for key in (KEY, b"l" * 32):
            taken += store.put(sealed(signer(number), key=key), LATER, cached=True)
    assert 2 <= taken <= 3
    assert taken == len(store)
    first = store.of(KEY, START_S)[-1]
    newer = sealed(signer(1), version=(1, 2))
    assert first.author == newer.author
    assert store.put(newer, LATER, cached=True), "what replaces another needs no room"
    assert len(store) == taken
