"""What nodes of the index say to each other. The peer puts `MESSAGES` into its registry."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Final

from atmo.index.keys import KEY_BYTES
from atmo.wire import limits
from atmo.wire.address import Contact
from atmo.wire.schema import Most

CONTACTS_MOST = 20
"""Contacts in one answer: k."""

PROVIDERS_MOST = 16
"""Provider records in one answer."""

PROVIDER_BYTES = 6 * 1024
"""One sealed provider record: two certificates of the largest size, four addresses and what is around them."""

Key = Annotated[bytes, Most(KEY_BYTES)]
Token = Annotated[int, Most(2**53)]


@dataclass(frozen=True, slots=True)
class FindNode:
    """Asks for the contacts closest to a position.

    Attributes:
        token: Comes back in the answer.
        target: 32 bytes.
        contact: The sender, where it listens.
    """

    token: Token
    target: Key
    contact: Contact | None = None


@dataclass(frozen=True, slots=True)
class FindProviders:
    """Asks for the provider records of a key, and for the contacts closest to it.

    Attributes:
        token, contact: As in `FindNode`.
        key: 32 bytes.
    """

    token: Token
    key: Key
    contact: Contact | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """Answers `FindNode` and `FindProviders`.

    Attributes:
        token: Of the request.
        contacts: The closest first.
        providers: Sealed provider records of the key; none in answer to `FindNode`.
        held: How many records of the key the sender has, as one of the closest to it: copies in passing do not count.
    """

    token: Token
    contacts: Annotated[tuple[Contact, ...], Most(CONTACTS_MOST)] = ()
    providers: Annotated[tuple[Annotated[bytes, Most(PROVIDER_BYTES)], ...], Most(PROVIDERS_MOST)] = ()
    held: Annotated[int, Most(2**32)] = 0


@dataclass(frozen=True, slots=True)
class Provide:
    """Asks to keep a provider record, whoever its author is.

    Attributes:
        token: Comes back in the answer.
        envelope: The sealed record.
    """

    token: Token
    envelope: Annotated[bytes, Most(PROVIDER_BYTES)]


@dataclass(frozen=True, slots=True)
class Provided:
    """Answers `Provide`.

    Attributes:
        token: Of the request.
        kept_s: For how long the record is kept; 0 when it is not.
    """

    token: Token
    kept_s: Annotated[int, Most(2**32)] = 0


MESSAGES: Final[dict[str, type]] = {
    "find-node": FindNode,
    "find-providers": FindProviders,
    "found": Found,
    "provide": Provide,
    "provided": Provided,
}

ITEMS: Final = {"found": 1_024}
"""Elements over all arrays and maps of the messages that have more than others: a full answer has about 700."""

assert PROVIDER_BYTES > 2 * limits.CERTIFICATE_BYTES
