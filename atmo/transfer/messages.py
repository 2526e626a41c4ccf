"""The messages of a swarm: what nodes that fetch or hold one model tell each other over their links.

A swarm is named by the id of the model's manifest, which also fixes how many chunks there are. Chunks themselves travel
on request streams.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Final

from atmo.wire.address import Contact
from atmo.wire.schema import Most

BITFIELD_BYTES = 48 * 1024
"""Of a `SwarmHello`, so that it stays within one message."""

CHUNKS_MOST = 8 * BITFIELD_BYTES
"""Chunks of a model that swarms are for: 384 GiB in chunks of 1 MiB. Larger ones come from whole holders alone."""

HAVES_MOST = 512
"""Chunks in one `SwarmHave`."""

ADVICE_MOST = 64
"""Chunks in one `SwarmSlot`; this version names 4 at most."""

PEERS_MOST = 50
"""Nodes in one `SwarmPeers`. Source: BEP 11, which has 50 in a message of peer exchange."""

Swarm = Annotated[bytes, Most(32)]
Index = Annotated[int, Most(CHUNKS_MOST - 1)]


@dataclass(frozen=True, slots=True)
class SwarmHello:
    """The sender is in a swarm and would exchange chunks with the receiver, who answers with its own.

    Attributes:
        swarm: The id of the manifest.
        count: Chunks of the model.
        has: Those that the sender has: bit `i % 8` of byte `i // 8`; zero bytes at the end may be left out.
        whole: It has all of them, whatever `has` says.
        serves: Others may fetch from it what it has.
        seeks: How many others of the swarm it would like to be told of.
        answer: This answers a hello, and wants no answer.
    """

    swarm: Swarm
    count: Annotated[int, Most(CHUNKS_MOST)]
    has: Annotated[bytes, Most(BITFIELD_BYTES)] = b""
    whole: bool = False
    serves: bool = False
    seeks: Annotated[int, Most(PEERS_MOST)] = 0
    answer: bool = False


@dataclass(frozen=True, slots=True)
class SwarmHave:
    """The sender has these chunks as well."""

    swarm: Swarm
    chunks: Annotated[tuple[Index, ...], Most(HAVES_MOST)]


@dataclass(frozen=True, slots=True)
class SwarmSlot:
    """The sender serves the receiver from now on, or no longer does.

    Attributes:
        swarm: The id of the manifest.
        open: Whether it does.
        chunks: The receiver should fetch only these, as others have others of it; any where it is empty.
    """

    swarm: Swarm
    open: bool
    chunks: Annotated[tuple[Index, ...], Most(ADVICE_MOST)] = ()


@dataclass(frozen=True, slots=True)
class SwarmPeer:
    """Somebody of the swarm.

    Attributes:
        contact: Who, and where it is said to listen.
        score: What the sender thinks of it, from 0 to 100: a claim.
    """

    contact: Contact
    score: Annotated[int, Most(100)] = 50


@dataclass(frozen=True, slots=True)
class SwarmPeers:
    """Others of the swarm, in answer to a `SwarmHello` that seeks them."""

    swarm: Swarm
    peers: Annotated[tuple[SwarmPeer, ...], Most(PEERS_MOST)]


@dataclass(frozen=True, slots=True)
class SwarmLeave:
    """The sender exchanges no chunks of this swarm with the receiver.

    Attributes:
        swarm: The id of the manifest.
        member: It is in the swarm, but has enough others; False where it knows no such swarm.
    """

    swarm: Swarm
    member: bool = False


SwarmMessage = SwarmHello | SwarmHave | SwarmSlot | SwarmPeers | SwarmLeave

MESSAGES: Final[dict[str, type]] = {
    "swarm-hello": SwarmHello,
    "swarm-have": SwarmHave,
    "swarm-slot": SwarmSlot,
    "swarm-peers": SwarmPeers,
    "swarm-leave": SwarmLeave,
}

ITEMS: Final = {"swarm-have": 576, "swarm-slot": 128, "swarm-peers": 1_536}
"""Elements over all arrays and maps of messages with lists: a full list of peers has about 1,100."""
