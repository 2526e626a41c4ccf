"""The mesh as a person rules it: create, invite, join, revoke, and who is there.

The same service works in a running node and, with a peer that is not connected to anything, on a home whose node does
not run.
"""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

import trio

from atmo.engine import Store
from atmo.errors import RemoteError, UserError, WireError
from atmo.gossip.records import DOMAIN, NODE, Record
from atmo.gossip.sync import store_key
from atmo.identity import NodeId, Signer
from atmo.net.ports import DurablePort, MeshPort, RequestStream
from atmo.net.quic import Connection
from atmo.net.requests import open_request
from atmo.peer import NodeView
from atmo.services.joining import (
    PROTOCOL,
    REFUSALS,
    JoinGrant,
    JoinRefusal,
    JoinRequest,
    pack_answer,
    unpack_answer_untrusted,
)
from atmo.storage.database import Database
from atmo.storage.meshstate import MeshCredentials, MeshState
from atmo.trust.certificate import ADMIN, Certificate, issue, valid_name, valid_role
from atmo.trust.genesis import found, mesh_id
from atmo.trust.joincode import SECRET_BYTES, JoinCode, parse_join_code, secret_hash
from atmo.trust.mesh import MeshTrust
from atmo.wire import limits
from atmo.wire.address import Address
from atmo.wire.envelope import open_untrusted
from atmo.wire.schema import from_wire_untrusted, to_wire, unpack_untrusted

CERTIFICATE_S = 365 * 86_400
"""How long a membership lasts. Source: choice; renewal before expiry comes with delegated admins."""

MOST_INVITE_S = 30 * 86_400
_JOIN_S = 10.0
_RECORDS_IN_GRANT = 16


class Network(Protocol):
    """What the service needs of the node around it."""

    def connect(self, address: Address, node: NodeId) -> AbstractAsyncContextManager[Connection]:
        """Opens a connection to a node that may be a stranger; closes it with the block."""

    def addresses(self) -> tuple[Address, ...]:
        """Returns where other machines reach this one; empty when it is not known."""

    async def attach(self, credentials: MeshCredentials) -> None:
        """Starts the peer of the mesh just founded or joined."""


class MeshService:
    """Commands on the mesh of one node.

    Args:
        signer: The node's key.
        name: The node's name.
        state: What is kept over restarts.
        database: Where open invitations are.
        network: The node around it.
        mesh: Returns the running peer, None where there is no mesh.
    """

    def __init__(
        self,
        signer: Signer,
        name: str,
        state: MeshState,
        database: Database,
        network: Network,
        mesh: Callable[[], DurablePort | None],
    ) -> None:
        self._signer = signer
        self._name = name
        self._state = state
        self._database = database
        self._network = network
        self._mesh = mesh
        self._joining = trio.Lock()

    # --- queries --------------------------------------------------------------------------------------------------

    def mesh(self) -> dict[str, Any] | None:
        """Returns `{id, name, roles}` of this node's mesh."""
        port = self._mesh()
        if port is None:
            return None
        trust = port.peer.trust
        return {
            "id": trust.mesh_id.hex(),
            "name": trust.genesis.name,
            "roles": list(trust.roles(self._signer.node_id)),
        }

    def nodes(self) -> list[dict[str, Any]]:
        """Returns a row for each member, this node first; a node without a mesh is alone."""
        port = self._mesh()
        if port is None:
            me = NodeView(self._signer.node_id, self._name, (), "self", 0.0, 0.0, "", ())
            return [_row(me)]
        return [_row(view) for view in port.peer.nodes(port.now())]

    # --- commands -------------------------------------------------------------------------------------------------

    async def create(self, name: str) -> dict[str, Any]:
        """Founds a mesh with this node as its founder.

        Raises:
            UserError: The name is unfit, or this node belongs to a mesh.
        """
        name = name.strip()
        if not name or len(name) > limits.NAME_CHARS or not name.isprintable():
            raise UserError(f"A mesh's name has 1 to {limits.NAME_CHARS} printable characters.")
        async with self._joining:
            self._refuse_second_mesh()
            now = int(time.time())
            genesis = found(self._signer, name, now, secrets.token_bytes(16))
            certificate = self._issue(mesh_id(genesis), self._signer.node_id, ADMIN, self._name, now)
            await self._begin(MeshCredentials(genesis, certificate, None))
        return {"id": mesh_id(genesis).hex(), "name": name}

    async def invite(self, role: str = "edge", expires_s: float = 86_400) -> dict[str, Any]:
        """Makes a join code that lets one machine in.

        Raises:
            UserError: There is no mesh, this node is no admin, the role or the time is unfit, or nobody could reach it.
        """
        port = self._require_admin("invite")
        if role == ADMIN and self._signer.node_id not in port.peer.trust.genesis.founders:
            raise UserError("Only a founder can make admins: nobody would believe this node's.", "Ask a founder.")
        if not valid_role(role):
            raise UserError(f"{role!r} is no role's name.", "Use lower-case letters, digits and '-', such as edge.")
        if not 1 <= expires_s <= MOST_INVITE_S:
            raise UserError("A code lasts from one second to 30 days.", "Try --expires 24h.")
        addresses = self._network.addresses()
        if not addresses:
            raise UserError("It is not known at which port this node listens.", "Start it with `atmo node`.")
        secret = secrets.token_bytes(SECRET_BYTES)
        now = time.time()
        expires_at = int(now + expires_s)
        try:
            await trio.to_thread.run_sync(self._database.invite_add, secret_hash(secret), role, expires_at, now)
        except ValueError as error:
            raise UserError(f"No more codes can be made: {error}.", "Wait until some expire.") from error
        code = JoinCode(
            port.peer.trust.mesh_id, self._signer.node_id, secret, addresses[: limits.ADDRESSES], expires_at
        )
        return {"code": code.text(), "role": role, "expires_at": expires_at}

    async def join(self, code: str) -> dict[str, Any]:
        """Brings this machine into the mesh of a join code.

        Raises:
            UserError: The code is unfit, expired or refused, or this node belongs to a mesh.
            RemoteError: The inviter does not answer at any of its addresses.
        """
        try:
            invitation = parse_join_code(code)
        except WireError as error:
            raise UserError(f"{error}.", "Ask for a new code with `atmo mesh invite`.") from error
        if time.time() > invitation.expires_s:
            raise UserError("The code has expired.", "Ask for a new one with `atmo mesh invite`.")
        if invitation.inviter == self._signer.node_id:
            raise UserError("This code was made by this very node.", "Use it on the machine that shall join.")
        async with self._joining:
            self._refuse_second_mesh()
            grant = await self._redeem(invitation)
            trust = self._check_grant_untrusted(invitation, grant)
            credentials = MeshCredentials(grant.genesis, grant.certificate, grant.issuer_certificate)
            await self._begin(credentials, _kept_untrusted(trust.mesh_id, grant.records))
        return {"id": trust.mesh_id.hex(), "name": trust.genesis.name, "roles": list(trust.roles(self._signer.node_id))}

    async def revoke(self, node: str) -> dict[str, Any]:
        """Puts a member out of the mesh, for good.

        Args:
            node: Its id, the beginning of its id, or its name.

        Raises:
            UserError: This node is no admin, or it is not clear or not allowed who is meant.
        """
        port = self._require_admin("revoke a member")
        view = self._find(port, node)
        try:
            port.peer.revoke(port.now(), view.node)
        except WireError as error:
            raise UserError(f"{view.name} stays: {error}.") from error
        port.kick()
        await port.flush()
        return {"id": str(view.node), "name": view.name}

    # --- the inviter's side ---------------------------------------------------------------------------------------

    async def serve_join(self, stream: RequestStream) -> None:
        """Answers one `atmo/join/1` request of a stranger.

        Raises:
            WireError: The request is not one.
        """
        request = from_wire_untrusted(JoinRequest, dict(stream.header))
        await stream.send(pack_answer(await self._answer(stream.node_id, request)))

    async def _answer(self, joiner: NodeId, request: JoinRequest) -> JoinGrant | JoinRefusal:
        port = self._mesh()
        if port is None or request.mesh != port.peer.trust.mesh_id:
            return JoinRefusal("unknown")
        peer, now = port.peer, port.now()
        if not peer.trust.is_admin(now.wall, self._signer.node_id):
            return JoinRefusal("not admin")
        if peer.trust.is_revoked(joiner):
            return JoinRefusal("revoked")
        if not valid_name(request.name):
            return JoinRefusal("name")
        redemption = await trio.to_thread.run_sync(
            self._database.invite_redeem, secret_hash(request.secret), joiner, now.wall
        )
        if redemption.role is None:
            return JoinRefusal(redemption.reason)
        own = peer.member(self._signer.node_id)
        assert own is not None
        by_founder = self._signer.node_id in peer.trust.genesis.founders
        until_s = math.inf if by_founder else own.expires_s  # an expired admin's certificates count no more
        certificate = self._issue(peer.trust.mesh_id, joiner, redemption.role, request.name, int(now.wall), until_s)
        records = tuple(peer.node_records())[:_RECORDS_IN_GRANT]
        return JoinGrant(peer.trust.genesis_sealed, certificate, None if by_founder else own.sealed, records)

    # --- pieces ---------------------------------------------------------------------------------------------------

    def _issue(
        self, mesh: bytes, subject: NodeId, role: str, name: str, now_s: int, until_s: float = math.inf
    ) -> bytes:
        serial = secrets.token_bytes(16)
        expires_s = int(min(now_s + CERTIFICATE_S, until_s))
        certificate = Certificate(subject, self._signer.node_id, (role,), name, now_s, expires_s, serial)
        return issue(self._signer, mesh, certificate)

    async def _begin(self, credentials: MeshCredentials, stores: Sequence[Store] = ()) -> None:
        await trio.to_thread.run_sync(self._state.save, credentials, stores)
        await self._network.attach(credentials)

    async def _redeem(self, invitation: JoinCode) -> JoinGrant:
        """Asks the inviter at one address after the other."""
        failures = []
        for address in invitation.addresses:
            try:
                async with self._network.connect(address, invitation.inviter) as connection:
                    answer = await self._ask(connection, invitation)
            except RemoteError as error:
                failures.append(f"{address}: {error}")
                continue
            if isinstance(answer, JoinRefusal):
                reason = REFUSALS.get(answer.reason, answer.reason)
                raise UserError(f"The mesh refused: {reason}.", "Ask for a new code with `atmo mesh invite`.")
            return answer
        raise RemoteError(
            f"the inviting node {invitation.inviter.short} does not answer ({'; '.join(failures)}): "
            "check that it runs and that UDP reaches it"
        )

    async def _ask(self, connection: Connection, invitation: JoinCode) -> JoinGrant | JoinRefusal:
        header = to_wire(JoinRequest(invitation.mesh, invitation.secret, self._name))
        async with open_request(connection, PROTOCOL, header, _JOIN_S) as stream:
            await stream.finish()
            body = await stream.receive()
        if body is None:
            raise RemoteError("it closed the stream without an answer")
        try:
            return unpack_answer_untrusted(body)
        except WireError as error:
            raise RemoteError(f"its answer is broken: {error}") from error

    def _check_grant_untrusted(self, invitation: JoinCode, grant: JoinGrant) -> MeshTrust:
        """The inviter may lie too: what it gave must be the mesh of the code, and make this node a member."""
        try:
            if mesh_id(grant.genesis) != invitation.mesh:
                raise WireError("its genesis is another mesh's")
            trust = MeshTrust(grant.genesis)
            trust.admit_untrusted(time.time(), self._signer.node_id, grant.certificate, grant.issuer_certificate)
        except WireError as error:
            raise RemoteError(f"the inviting node's answer is broken: {error}") from error
        return trust

    def _refuse_second_mesh(self) -> None:
        if mesh := self.mesh():
            raise UserError(f"This node belongs to the mesh {mesh['name']!r}.", "Use another --home for another mesh.")

    def _require_admin(self, deed: str) -> DurablePort:
        port = self._mesh()
        if port is None:
            raise UserError("This node belongs to no mesh.", "Found one: atmo mesh create NAME")
        if not port.peer.trust.is_admin(port.now().wall, self._signer.node_id):
            raise UserError(f"Only a founder or an admin of the mesh can {deed}.", "Run this on such a node.")
        return port

    @staticmethod
    def _find(port: MeshPort, text: str) -> NodeView:
        """Finds the one member that an id, the beginning of an id or a name means."""
        views = port.peer.nodes(port.now())
        wanted = text.strip().lower()
        found = [view for view in views if str(view.node) == wanted]
        found = found or [view for view in views if view.name.lower() == wanted]
        found = found or [view for view in views if len(wanted) >= 4 and str(view.node).startswith(wanted)]
        if len(found) == 1:
            return found[0]
        if not found:
            raise UserError(f"No member is called {text!r}.", "See `atmo mesh nodes`.")
        ids = ", ".join(view.node.short for view in found)
        raise UserError(f"{text!r} means several members: {ids}.", "Use the id.")


def _kept_untrusted(mesh: bytes, records: Sequence[bytes]) -> list[Store]:
    """Returns where to keep the node records of a grant, so that a node killed right after joining finds its mesh.

    Raises:
        RemoteError: They are no records of this mesh.
    """
    stores = []
    for envelope in records:
        try:
            opened = open_untrusted(envelope, DOMAIN, mesh)
            record = unpack_untrusted(Record, opened.payload)
        except WireError as error:
            raise RemoteError(f"the inviting node's answer is broken: {error}") from error
        if record.kind == NODE:  # whatever else a grant may carry is judged when it is heard, not kept unheard
            stores.append(Store(store_key((opened.author, record.kind, record.key)), envelope))
    return stores


def _row(view: NodeView) -> dict[str, Any]:
    return {
        "id": str(view.node),
        "name": view.name,
        "roles": list(view.roles),
        "path": view.path,
        "rtt_ms": None if view.rtt_s is None else round(view.rtt_s * 1000, 3),
        "last_seen_s": round(view.last_seen_s, 1),
        "self": view.path == "self",
        "version": view.version,
        "addresses": [str(address) for address in view.addresses],
    }
