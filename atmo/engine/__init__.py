"""The interface of protocol engines: told what happened and when, they answer with effects.

No I/O, no clock, no logging.
"""

from atmo.engine.base import (
    CancelFetch,
    Dial,
    Effect,
    Emit,
    Engine,
    FetchChunk,
    Hangup,
    Message,
    Misbehaved,
    Outbox,
    Send,
    Store,
)
from atmo.wire.address import Address

__all__ = [
    "Address",
    "CancelFetch",
    "Dial",
    "Effect",
    "Emit",
    "Engine",
    "FetchChunk",
    "Hangup",
    "Message",
    "Misbehaved",
    "Outbox",
    "Send",
    "Store",
]
