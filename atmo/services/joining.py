"""The join exchange, `atmo/join/1`: a one-time secret for a certificate.

The joiner connects to the inviter by node id, so nobody else learns the secret; where the inviter does not answer, to
the further admins that the code names. It sends one `JoinRequest`; the answer is one `JoinGrant` or one `JoinRefusal`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Protocol

from atmo.engine import Store
from atmo.errors import RemoteError, UserError, WireError
from atmo.gossip.entry import open_record_untrusted
from atmo.gossip.records import NODE
from atmo.gossip.sync import store_key
from atmo.identity import NodeId, Signer
from atmo.net.quic import Connection
from atmo.net.requests import open_request
from atmo.peer.rights import SUCCESSIONS_MOST
from atmo.peer.rules import apply_successions_untrusted
from atmo.storage.meshstate import MeshCredentials
from atmo.trust.genesis import mesh_id
from atmo.trust.joincode import SECRET_BYTES, JoinCode
from atmo.trust.mesh import MeshTrust
from atmo.trust.records import SUCCESSION
from atmo.wire import codec, limits
from atmo.wire.address import Address
from atmo.wire.schema import Most, from_wire_untrusted, to_wire

PROTOCOL = "atmo/join/1"
REFUSALS = {
    "unknown": "the code is not one of this node's: it may have been made for another mesh or on another machine",
    "expired": "the code has expired",
    "used": "the code was used already: a code lets one machine in",
    "not admin": "the node that made this code may no longer let anyone in",
    "name": "this machine's name has characters that no name may have",
    "revoked": "this machine was put out of the mesh",
    "busy": "the node has let in as many machines as it can account for at once: try again later",
    "not founder": "the code makes an admin, and only a founder can do that",
}

_ELSEWHERE = ("unknown", "not admin", "busy", "not founder")
"""Refusals after which another admin is asked: it may know or be able to do more."""

_JOIN_S = 10.0


@dataclass(frozen=True, slots=True)
class JoinRequest:
    """What the joiner sends; its node id is the connection's.

    Attributes:
        mesh: The mesh id of the code.
        secret: Of the code.
        name: What the machine is called.
    """

    mesh: Annotated[bytes, Most(32)]
    secret: Annotated[bytes, Most(SECRET_BYTES)]
    name: Annotated[str, Most(limits.NAME_CHARS)]


@dataclass(frozen=True, slots=True)
class JoinGrant:
    """Membership, and who else is there.

    Attributes:
        genesis: Sealed.
        certificate: The joiner's, sealed.
        issuer_certificate: The inviter's own, where it is not a founder.
        records: Sealed node records of members to connect to.
        successions: Sealed records of hand-overs: who has a founder's rights now.
    """

    genesis: Annotated[bytes, Most(limits.MESSAGE_BYTES)]
    certificate: Annotated[bytes, Most(limits.CERTIFICATE_BYTES)]
    issuer_certificate: Annotated[bytes, Most(limits.CERTIFICATE_BYTES)] | None = None
    records: Annotated[tuple[Annotated[bytes, Most(limits.MESSAGE_BYTES)], ...], Most(64)] = ()
    successions: Annotated[
        tuple[Annotated[bytes, Most(limits.MESSAGE_BYTES)], ...],
        Most(SUCCESSIONS_MOST),
    ] = ()


@dataclass(frozen=True, slots=True)
class JoinRefusal:
    """Why not: a key of `REFUSALS`."""

    reason: Annotated[str, Most(64)]


def pack_answer(answer: JoinGrant | JoinRefusal) -> bytes:
    """Returns the frame's body."""
    return codec.encode(["grant" if isinstance(answer, JoinGrant) else "refusal", to_wire(answer)])


def unpack_answer_untrusted(data: bytes) -> JoinGrant | JoinRefusal:
    """Reads the inviter's answer.

    Raises:
        WireError: It is neither a grant nor a refusal.
    """
    match codec.decode_untrusted(data, limits.FRAME_BYTES):
        case ["grant", fields]:
            return from_wire_untrusted(JoinGrant, fields)
        case ["refusal", fields]:
            return from_wire_untrusted(JoinRefusal, fields)
        case _:
            raise WireError("an answer to a join request that is neither grant nor refusal")


class Dialler(Protocol):
    """What joining needs of the node around it."""

    def connect(self, address: Address, node: NodeId) -> AbstractAsyncContextManager[Connection]:
        """Opens a connection to a node that may be a stranger; closes it with the block."""

    def connect_relayed(self, url: str, node: NodeId) -> AbstractAsyncContextManager[Connection]:
        """Opens one to a node that is found at a relay."""


@dataclass(frozen=True, slots=True)
class Joined:
    """What a redeemed code made of this node.

    Attributes:
        trust: The rules of the mesh, with this node as a member.
        credentials: What is kept of that.
        stores: How to reach the others and who has a founder's rights, to be kept together with it.
    """

    trust: MeshTrust
    credentials: MeshCredentials
    stores: tuple[Store, ...]


class Joiner:
    """The side of the machine that wants to get in.

    Args:
        signer: Its key.
        name: Its name.
        dialler: Reaches the admins.
        wall: Reads the wall clock, in Unix seconds.
    """

    def __init__(self, signer: Signer, name: str, dialler: Dialler, wall: Callable[[], float] = time.time) -> None:
        self._wall = wall
        self._signer = signer
        self._name = name
        self._dialler = dialler

    async def join(self, code: JoinCode) -> Joined:
        """Redeems a code at the first of its admins who does.

        Raises:
            UserError: The mesh refused.
            RemoteError: No admin answers, or what came is broken.
        """
        grant = await self._redeem(code)
        try:
            if mesh_id(grant.genesis) != code.mesh:
                raise WireError("its genesis is another mesh's")
            trust = MeshTrust(grant.genesis)
            successions = apply_successions_untrusted(trust, grant.successions)
            trust.admit_untrusted(self._wall(), self._signer.node_id, grant.certificate, grant.issuer_certificate)
            stores = _kept_untrusted(trust.mesh_id, (*successions, *grant.records))
        except WireError as error:  # an inviter may lie: this has to be the mesh of the code, with this node in it
            raise RemoteError(f"the inviting node's answer is broken: {error}") from error
        return Joined(trust, MeshCredentials(grant.genesis, grant.certificate, grant.issuer_certificate), stores)

    async def _redeem(self, code: JoinCode) -> JoinGrant:
        """Asks one admin after the other, each at one address after the other."""
        failures: list[str] = []
        refusals: list[str] = []
        admins = [(code.inviter, code.addresses), *((other.node, other.addresses) for other in code.others)]
        for node, addresses in admins:
            relay = code.relay if node == code.inviter else None
            answer = await self._redeem_at(code, node, addresses, relay, failures)
            if isinstance(answer, JoinGrant):
                return answer
            if answer is not None:
                refusals.append(answer.reason)
                if answer.reason not in _ELSEWHERE:
                    break
        if refusals:
            reason = REFUSALS.get(refusals[-1], refusals[-1])
            raise UserError(f"The mesh refused: {reason}.", "Ask for a new code with `atmo mesh invite`.")
        whom = f"the inviting node {code.inviter.short} does not answer"
        if code.others:
            whom = f"neither the inviting node {code.inviter.short} nor the other admins of the code answer"
        raise RemoteError(f"{whom} ({'; '.join(failures)}): check that they run and that UDP reaches them")

    async def _redeem_at(
        self, code: JoinCode, node: NodeId, addresses: Sequence[Address], relay: str | None, failures: list[str]
    ) -> JoinGrant | JoinRefusal | None:
        ways: dict[str, Callable[[], AbstractAsyncContextManager[Connection]]] = {
            str(address): partial(self._dialler.connect, address, node) for address in addresses
        }
        if relay is not None:
            ways[relay.partition("#")[0]] = partial(self._dialler.connect_relayed, relay, node)
        for where, connect in ways.items():
            try:
                async with connect() as connection:
                    return await self._ask(connection, code)
            except RemoteError as error:
                failures.append(f"{where}: {error}")
        return None

    async def _ask(self, connection: Connection, code: JoinCode) -> JoinGrant | JoinRefusal:
        header = to_wire(JoinRequest(code.mesh, code.secret, self._name))
        async with open_request(connection, PROTOCOL, header, _JOIN_S) as stream:
            await stream.finish()
            body = await stream.receive()
        if body is None:
            raise RemoteError("it closed the stream without an answer")
        try:
            return unpack_answer_untrusted(body)
        except WireError as error:
            raise RemoteError(f"its answer is broken: {error}") from error


def _kept_untrusted(mesh: bytes, records: Sequence[bytes]) -> tuple[Store, ...]:
    """Returns where to keep the records of a grant, so that a node killed right after joining finds its mesh.

    Raises:
        WireError: They are no records of this mesh.
    """
    entries = [open_record_untrusted(envelope, mesh) for envelope in records]
    return tuple(
        Store(store_key(entry.slot), entry.envelope)
        for entry in entries
        if entry.record.kind in (NODE, SUCCESSION)  # whatever else a grant may carry is judged when it is heard
    )
