"""The interface of protocol engines: told what happened and when, they answer with effects.

No I/O, no clock, no logging.
"""

from atmo.engine.base import (
    Ask,
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
from atmo.wire.address import Address, Contact

__all__ = [
    "Address",
    "Ask",
    "CancelFetch",
    "Contact",
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
