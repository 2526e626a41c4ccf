"""All messages between neighbours, from every room, and their bytes."""

from __future__ import annotations

from typing import Any, Final

from atmo.errors import WireError
from atmo.gossip import messages as gossip
from atmo.index import messages as index
from atmo.peer import renewal, rights, routes
from atmo.transfer import messages as transfer
from atmo.wire import codec, limits
from atmo.wire.schema import from_wire_untrusted, to_wire

MESSAGES: Final[dict[str, type]] = {
    **gossip.MESSAGES,
    **index.MESSAGES,
    **renewal.MESSAGES,
    **rights.MESSAGES,
    **routes.MESSAGES,
    **transfer.MESSAGES,
}

MESSAGE_ITEMS = 64
"""Elements over all arrays and maps of one message: the largest without lists has 20, the rest is for newer peers."""

_ITEMS: Final[dict[str, int]] = {**gossip.ITEMS, **index.ITEMS, **transfer.ITEMS}
_NAMES = {cls: name for name, cls in MESSAGES.items()}

_HEADS = {codec.encode([name, 0])[:-1]: name for name in MESSAGES}
"""How the bytes of each message begin, as one value has one encoding: its limits are known before it is decoded."""


def encode_message(message: Any) -> bytes:
    """Returns the wire form of a neighbour message: the CBOR array [name, fields]."""
    return codec.encode([_NAMES[type(message)], to_wire(message)])


def decode_message_untrusted(data: bytes) -> Any:
    """Reads a neighbour message.

    Raises:
        WireError: It is none of `MESSAGES`.
    """
    for head, name in _HEADS.items():
        if data.startswith(head):
            items = _ITEMS.get(name, MESSAGE_ITEMS)
            _, fields = codec.decode_untrusted(data, limits.MESSAGE_BYTES + 1_024, max_items=items)
            return from_wire_untrusted(MESSAGES[name], fields)
    raise WireError("a message of no known name")
