"""The mesh as a person rules it: create, invite, join, revoke, hand over, and who is there.

The same service works in a running node and, with a peer that is not connected to anything, on a home whose node does
not run.
"""

from __future__ import annotations

import logging
import math
import secrets
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import trio

from atmo.engine import Store
from atmo.errors import UserError, WireError
from atmo.identity import NodeId, Signer
from atmo.net.ports import DurablePort, MeshPort, RequestStream
from atmo.peer import NodeView
from atmo.peer.rights import CodeState, RedeemedTwice, Succeeded
from atmo.services.joining import Dialler, Joiner, JoinGrant, JoinRefusal, JoinRequest, pack_answer
from atmo.services.members import member_row
from atmo.storage.database import Database
from atmo.storage.invites import Redemption
from atmo.storage.meshstate import MeshCredentials, MeshState
from atmo.trust.certificate import ADMIN, CERTIFICATE_S, Certificate, issue, valid_name, valid_role
from atmo.trust.genesis import found, mesh_id
from atmo.trust.joincode import OTHERS_MOST, SECRET_BYTES, JoinCode, parse_join_code, secret_hash
from atmo.wire import limits
from atmo.wire.address import Address, Contact
from atmo.wire.schema import from_wire_untrusted

log = logging.getLogger(__name__)

MOST_INVITE_S = 30 * 86_400
_RECORDS_IN_GRANT = 16
_OTHERS_ADDRESSES = 2  # of each further admin in a code, which people copy


class Network(Dialler, Protocol):
    """What the service needs of the node around it."""

    def addresses(self) -> tuple[Address, ...]:
        """Returns where other machines reach this one; empty when it is not known."""

    def home_relay(self) -> str | None:
        """Returns the URL of the relay at which this one is found."""

    async def attach(self, credentials: MeshCredentials) -> None:
        """Starts the peer of the mesh just founded or joined."""


_NAMED = 5  # members in one message


class MeshService:
    """Commands on the mesh of one node.

    Args:
        signer: The node's key.
        name: The node's name.
        state: What is kept over restarts.
        database: Where open invitations are.
        network: The node around it.
        mesh: Returns the running peer, None where there is no mesh.
        wall: Reads the wall clock, in Unix seconds.
    """

    def __init__(
        self,
        signer: Signer,
        name: str,
        state: MeshState,
        database: Database,
        network: Network,
        mesh: Callable[[], DurablePort | None],
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._signer = signer
        self._name = name
        self._state = state
        self._database = database
        self._network = network
        self._mesh = mesh
        self._wall = wall
        self._joining = trio.Lock()
        self._joiner = Joiner(signer, name, network, wall)

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
            return [member_row(me, None)]
        neighbours, trust = port.peer.neighbours(), port.peer.trust
        return [
            member_row(view, port.path(node), founder=trust.is_founder(node), neighbour=node in neighbours)
            for view in port.peer.nodes(port.now())
            for node in (view.node,)
        ]

    def peers(self) -> list[dict[str, Any]]:
        """Returns the rows of those to whom there is a link."""
        return [row for row in self.nodes() if row["path"] and not row["self"]]

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
            now = int(self._wall())
            genesis = found(self._signer, name, now, secrets.token_bytes(16))
            certificate = self._issue(mesh_id(genesis), self._signer.node_id, ADMIN, self._name, now)
            await self._begin(MeshCredentials(genesis, certificate, None))
        return {"id": mesh_id(genesis).hex(), "name": name}

    async def invite(self, role: str = "edge", expires_s: float = 86_400) -> dict[str, Any]:
        """Makes a join code that lets one machine in, here or at another admin.

        Raises:
            UserError: There is no mesh, this node is no admin, the role or the time is unfit, or nobody could reach it.
        """
        port = self._require_admin("invite")
        if role == ADMIN and not port.peer.trust.is_founder(self._signer.node_id):
            raise UserError("Only a founder can make admins: nobody would believe this node's.", "Ask a founder.")
        if not valid_role(role):
            raise UserError(f"{role!r} is no role's name.", "Use lower-case letters, digits and '-', such as edge.")
        if not 1 <= expires_s <= MOST_INVITE_S:
            raise UserError("A code lasts from one second to 30 days.", "Try --expires 24h.")
        addresses = self._network.addresses()
        if not addresses:
            hint = "Start it with `atmo node`; one whose mode is standalone listens at none."
            raise UserError("It is not known at which port this node listens.", hint)
        secret = secrets.token_bytes(SECRET_BYTES)
        now = self._wall()
        expires_at = int(now + expires_s)
        try:
            await trio.to_thread.run_sync(self._database.invite_add, secret_hash(secret), role, expires_at, now)
        except ValueError as error:
            raise UserError(f"No more codes can be made: {error}.", "Wait until some expire.") from error
        told = port.peer.publish_invite(port.now(), secret_hash(secret), role, expires_at)
        port.kick()
        code = JoinCode(
            port.peer.trust.mesh_id,
            self._signer.node_id,
            secret,
            addresses[: limits.ADDRESSES],
            expires_at,
            self._other_admins(port, role) if told else (),
            self._network.home_relay(),
        )
        return {"code": code.text(), "role": role, "expires_at": expires_at}

    async def join(self, code: str) -> dict[str, Any]:
        """Brings this machine into the mesh of a join code.

        Raises:
            UserError: The code is unfit, expired or refused, or this node belongs to a mesh.
            RemoteError: No admin of the code answers.
        """
        try:
            invitation = parse_join_code(code)
        except WireError as error:
            raise UserError(f"{error}.", "Ask for a new code with `atmo mesh invite`.") from error
        if self._wall() > invitation.expires_s:
            raise UserError("The code has expired.", "Ask for a new one with `atmo mesh invite`.")
        if invitation.inviter == self._signer.node_id:
            raise UserError("This code was made by this very node.", "Use it on the machine that shall join.")
        async with self._joining:
            self._refuse_second_mesh()
            joined = await self._joiner.join(invitation)
            await self._begin(joined.credentials, joined.stores)
        trust = joined.trust
        return {"id": trust.mesh_id.hex(), "name": trust.genesis.name, "roles": list(trust.roles(self._signer.node_id))}

    async def revoke(self, node: str, *, force: bool = False) -> dict[str, Any]:
        """Puts a member out of the mesh, for good.

        Args:
            node: Its id, the beginning of its id, or its name.
            force: Also where others go with it, as it let them in.

        Raises:
            UserError: This node is no admin, it is not clear or not allowed who is meant, or others would go with it.
        """
        port = self._require_admin("revoke a member")
        view = self._find(port, node)
        let_in = [other.name for other in port.peer.nodes(port.now()) if _issuer(port, other.node) == view.node]
        if let_in and not force and not port.peer.trust.is_founder(view.node):
            names = ", ".join(let_in[:_NAMED]) + (" and others" if len(let_in) > _NAMED else "")
            raise UserError(
                f"{view.name} let {names} in: they would be put out with it.",
                "Wait until their memberships are renewed by another admin, or use --force.",
            )
        try:
            port.peer.revoke(port.now(), view.node)
        except WireError as error:
            raise UserError(f"{view.name} stays: {error}.") from error
        port.kick()
        await port.flush()
        return {"id": str(view.node), "name": view.name, "with": let_in}

    async def hand_over(self, node: str) -> dict[str, Any]:
        """Gives this founder's rights to another member, for good.

        Args:
            node: Its id, the beginning of its id, or its name.

        Raises:
            UserError: This node is no founder, or it is not clear or not allowed who is meant.
        """
        port = self._require_mesh()
        if not port.peer.trust.is_founder(self._signer.node_id):
            raise UserError("Only a founder of the mesh can hand over.", "Run this on such a node.")
        view = self._find(port, node)
        try:
            port.peer.hand_over(port.now(), view.node)
        except WireError as error:
            raise UserError(f"Cannot hand over to {view.name}: {error}.") from error
        port.kick()
        await port.flush()
        return {"id": str(view.node), "name": view.name}

    # --- the inviter's side ---------------------------------------------------------------------------------------

    def attach(self, port: MeshPort) -> None:
        """Tells the mesh of codes that are open or were used, should it not know: as after a kill at a bad moment."""
        peer, now = port.peer, port.now()
        if not peer.trust.is_admin(now.wall, self._signer.node_id):
            return
        for invite in self._database.invites_open(now.wall):
            if invite.used_by is None:
                peer.publish_invite(now, invite.secret_hash, invite.role, invite.expires_at)
            else:
                peer.publish_redemption(now, invite.secret_hash, NodeId(invite.used_by), invite.expires_at)

    def on_event(self, event: Any) -> None:
        """Takes every event that the peer emits; those that its people should know of are logged."""
        port = self._mesh()
        if port is None:
            return
        name = port.peer.name
        if isinstance(event, RedeemedTwice):
            nodes = " and ".join(f"{name(node)} ({node.short})" for node in event.nodes)
            log.warning("one join code let in %s: revoke who is no guest with `atmo mesh revoke`", nodes)
        elif isinstance(event, Succeeded):
            founder, successor = name(event.founder), name(event.successor)
            log.warning("%s handed a founder's rights over to %s (%s)", founder, successor, event.successor.short)

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
        redemption = await self._use(port, joiner, secret_hash(request.secret))
        if redemption.role is None:
            return JoinRefusal(redemption.reason)
        port.kick()
        own = peer.member(self._signer.node_id)
        assert own is not None
        by_founder = peer.trust.is_founder(self._signer.node_id)
        until_s = math.inf if by_founder else own.expires_s  # an expired admin's certificates count no more
        certificate = self._issue(peer.trust.mesh_id, joiner, redemption.role, request.name, int(now.wall), until_s)
        records = tuple(peer.node_records())[:_RECORDS_IN_GRANT]
        proof = None if by_founder else own.sealed
        return JoinGrant(peer.trust.genesis_sealed, certificate, proof, records, peer.successions())

    async def _use(self, port: MeshPort, joiner: NodeId, secret: bytes) -> Redemption:
        """Uses a code of this node, or of another admin of which the records tell, and tells the others."""
        peer, now = port.peer, port.now()
        state = peer.invitations.state(now.wall, secret.hex(), joiner)
        if state.reason == "used":
            return Redemption(None, "used")
        if state.role == ADMIN and not peer.trust.is_founder(self._signer.node_id):
            return Redemption(None, "not founder")
        shared = state.role is not None
        if shared and not peer.may_redeem():
            return Redemption(None, "busy")
        redemption = await trio.to_thread.run_sync(self._database.invite_redeem, secret, joiner, now.wall)
        if redemption.reason == "unknown" and shared:
            redemption = await self._take(secret, state, joiner, now.wall)
        elif redemption.reason == "unknown" and state.reason == "expired":
            redemption = Redemption(None, "expired")
        if redemption.role is not None and shared:
            peer.publish_redemption(port.now(), secret, joiner, state.expires_s)
        return redemption

    async def _take(self, secret: bytes, state: CodeState, joiner: NodeId, wall: float) -> Redemption:
        assert state.role is not None
        try:
            return await trio.to_thread.run_sync(
                self._database.invite_take, secret, state.role, state.expires_s, joiner, wall
            )
        except ValueError:
            return Redemption(None, "busy")

    def _other_admins(self, port: MeshPort, role: str) -> tuple[Contact, ...]:
        """Returns further admins who can redeem a code: those who are linked or were seen last come first."""
        trust, wall = port.peer.trust, port.now().wall
        views = [
            view
            for view in port.peer.nodes(port.now())
            if view.path != "self"
            and view.addresses
            and (trust.is_founder(view.node) or (role != ADMIN and trust.is_admin(wall, view.node)))
        ]
        views.sort(key=lambda view: (not view.path, view.last_seen_s))
        return tuple(Contact(view.node, view.addresses[:_OTHERS_ADDRESSES]) for view in views[:OTHERS_MOST])

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

    def _refuse_second_mesh(self) -> None:
        if mesh := self.mesh():
            raise UserError(f"This node belongs to the mesh {mesh['name']!r}.", "Use another --home for another mesh.")

    def _require_mesh(self) -> DurablePort:
        port = self._mesh()
        if port is None:
            raise UserError("This node belongs to no mesh.", "Create one with `atmo mesh create NAME`.")
        return port

    def _require_admin(self, deed: str) -> DurablePort:
        port = self._require_mesh()
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


def _issuer(port: MeshPort, node: NodeId) -> NodeId | None:
    """Returns who let a member in; a founder let itself in."""
    member = port.peer.member(node)
    issuer = member.certificate.issuer if member else None
    return None if issuer == node else issuer
