"""The messages of the index on the wire: the largest ones fit, and only what has a form is read."""

from __future__ import annotations

from typing import Any

import pytest

from atmo.engine import Address, Contact
from atmo.errors import WireError
from atmo.index import ITEMS, MESSAGES
from atmo.index.messages import (
    CONTACTS_MOST,
    PROVIDER_BYTES,
    FindNode,
    FindProviders,
    Found,
    Provide,
    Provided,
)
from atmo.wire import codec, limits
from atmo.wire.schema import from_wire_untrusted, to_wire
from tests.index.kit import KEY, node

LONG = Contact(node(1), (Address("2001:db8:1111:2222:3333:4444:5555:6666%abcdef", 65_535),) * 4)
LARGEST = [
    FindNode(2**53, KEY, LONG),
    FindProviders(2**53, KEY, LONG),
    Found(2**53, (LONG,) * CONTACTS_MOST, (bytes(PROVIDER_BYTES),) * 6, 2**32),
    Provide(2**53, bytes(PROVIDER_BYTES)),
    Provided(2**53, 2**32),
]


@pytest.mark.parametrize("message", LARGEST, ids=lambda message: type(message).__name__)
def test_the_largest_ones_fit(message: Any) -> None:
    (name,) = (name for name, cls in MESSAGES.items() if cls is type(message))
    data = codec.encode([name, to_wire(message)])
    assert len(data) <= limits.MESSAGE_BYTES
    _, fields = codec.decode_untrusted(data, limits.MESSAGE_BYTES, max_items=ITEMS.get(name, 64))
    assert from_wire_untrusted(MESSAGES[name], fields) == message


@pytest.mark.parametrize(
    "message", [FindNode(1, KEY + b"x"), Found(1, (LONG,) * 21), Found(1, (), (b"",) * 17), Provide(1, bytes(6_145))]
)
def test_what_is_over_a_limit_is_not_read(message: Any) -> None:
    with pytest.raises(WireError):
        from_wire_untrusted(type(message), to_wire(message))
