"""Whose models may come here: the settings' policy, and what a person decided on each publisher.

The publisher is who signed the manifest. Nothing is asked of one's own models, of those whom the settings name, and of
those with a role that the settings trust; of everybody else a person decides once.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import trio

from atmo.errors import UserError, WireError
from atmo.identity import NodeId
from atmo.net.ports import MeshPort
from atmo.storage.decisions import Decision, Decisions, TrustPolicy

MODELS_SHOWN = 20
ROWS_SHOWN = 1_000

Audit = Callable[[NodeId, str, bool], None]
"""Told of each decision: the publisher, its name, and whether it is trusted now; runs in a worker thread."""


class ConsentNeeded(UserError):
    """A person has to say whether the models of a publisher may come here.

    Attributes:
        about: What is known of the publisher, for the question: `node`, `name`, `roles`, `fingerprint`, `models`.
    """

    code = "consent_needed"

    def __init__(self, message: str, hint: str = "", about: dict[str, Any] | None = None) -> None:
        super().__init__(message, hint)
        self.about = about or {}


class Consent:
    """Decides on publishers.

    Args:
        decisions: What was decided before.
        own: This node.
        mesh: Returns the running peer, None where there is none.
        policy: Of the settings.
        wall: Unix seconds.

    Attributes:
        audit: Told of each decision.
    """

    def __init__(
        self,
        decisions: Decisions,
        own: NodeId,
        mesh: Callable[[], MeshPort | None],
        policy: TrustPolicy = TrustPolicy(),
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._decisions = decisions
        self._own = own
        self._mesh = mesh
        self._policy = policy
        self._wall = wall
        self.audit: Audit | None = None

    def check(self, publisher: NodeId, label: str) -> None:
        """Refuses, or asks about, a publisher that is not trusted.

        Args:
            publisher: Who signed the manifest.
            label: What it published, for the message.

        Raises:
            ConsentNeeded: Nobody has decided yet.
            UserError: It is not trusted, by a decision or by the settings.
        """
        if publisher == self._own:
            return
        name, mesh = self.name(publisher), self._mesh()
        if mesh is not None and mesh.peer.trust.is_revoked(publisher):
            raise UserError(
                f"{label} was published by {name}, who was put out of the mesh.",
                "Have another member look at it and publish it anew.",
            )
        decision = self._decisions.publishers.get(publisher)
        if decision is not None and not decision.trusted:
            raise UserError(
                f"{label} was published by {name}, whose models were refused here.",
                f"To change that: atmo model trust {publisher}.",
            )
        if decision is not None or self._allows(publisher):
            return
        if self._policy.first_time == "refuse":
            raise UserError(
                f"{label} was published by {name}, who is none of the publishers that this node trusts.",
                f'Name it under "trust": "publishers" in the settings, or: atmo model trust {publisher}.',
            )
        raise ConsentNeeded(
            f"{label} was published by {name} ({fingerprint(publisher)}), from whom nothing came here before.",
            "Pull it with --trust if you know that publisher.",
            self.about(publisher),
        )

    def _allows(self, publisher: NodeId) -> bool:
        policy, mesh = self._policy, self._mesh()
        if policy.first_time == "allow" or str(publisher) in policy.publishers:
            return True
        if mesh is None:
            return False
        roles = mesh.peer.standing(mesh.now(), publisher)
        if not roles.isdisjoint(policy.roles):
            return True
        member = mesh.peer.member(publisher)  # a certificate's name was signed by an admin, a record's was not
        named = member is not None and member.certificate.name in policy.publishers
        return named and mesh.peer.trust.is_member(mesh.now().wall, publisher)

    def about(self, publisher: NodeId) -> dict[str, Any]:
        """Returns what is known of a publisher, as plain values."""
        mesh = self._mesh()
        roles: list[str] = sorted(mesh.peer.standing(mesh.now(), publisher)) if mesh else []
        offers = mesh.peer.models(mesh.now()) if mesh else []
        models = dict.fromkeys(sorted(offer.record.name for offer in offers if offer.record.publisher == publisher))
        return {
            "node": str(publisher),
            "name": self.name(publisher),
            "roles": roles,
            "member": mesh is not None and mesh.peer.trust.is_member(mesh.now().wall, publisher),
            "fingerprint": fingerprint(publisher),
            "models": list(models)[:MODELS_SHOWN],
        }

    def name(self, publisher: NodeId) -> str:
        """Returns what a publisher is called, else the start of its id."""
        mesh, decision = self._mesh(), self._decisions.publishers.get(publisher)
        known = mesh.peer.name(publisher) if mesh else publisher.short
        return decision.name if decision is not None and known == publisher.short else known

    # --- decisions ------------------------------------------------------------------------------------------------

    async def decide(self, who: NodeId | str, *, trusted: bool) -> dict[str, Any]:
        """Remembers that a publisher's models may come here, or may not.

        Args:
            who: A node, its id, the start of its id, or its name.
            trusted: Whether they may.

        Raises:
            UserError: Nobody, or more than one, is called so.
        """
        node = self._find(who)
        decision = Decision(trusted, self.name(node), self._wall())
        await trio.to_thread.run_sync(self._decisions.decide, node, decision)
        if self.audit is not None:
            await trio.to_thread.run_sync(self.audit, node, decision.name, trusted)
        return self._row(node, decision)

    async def forget(self, who: NodeId | str) -> dict[str, Any]:
        """Takes a decision back: the publisher is a first-time one again.

        Raises:
            UserError: Nobody decided on anybody who is called so.
        """
        node = self._find(who)
        decision = self._decisions.publishers.get(node)
        if decision is None:
            raise UserError(f"Nothing was decided on {self.name(node)}.", "See `atmo model publishers`.")
        await trio.to_thread.run_sync(self._decisions.forget, node)
        return self._row(node, decision)

    def rows(self) -> list[dict[str, Any]]:
        """Lists all decisions, the latest first."""
        rows = sorted(self._decisions.publishers.items(), key=lambda row: (-row[1].decided_at, row[0]))
        return [self._row(node, decision) for node, decision in rows[:ROWS_SHOWN]]

    def _row(self, node: NodeId, decision: Decision) -> dict[str, Any]:
        return {**self.about(node), "trusted": decision.trusted, "decided_at": decision.decided_at}

    def _find(self, who: NodeId | str) -> NodeId:
        if isinstance(who, NodeId):
            return who
        try:
            return NodeId.parse(who)
        except WireError:
            pass
        mesh = self._mesh()
        known = set(self._decisions.publishers) | (set(mesh.peer.known()) if mesh else set())
        fits = sorted(
            node for node in known if self.name(node) == who or (len(who) >= 6 and str(node).startswith(who.casefold()))
        )
        if len(fits) == 1:
            return fits[0]
        if not fits:
            raise UserError(f"No node is called {who!r}.", "Give its node id; see `atmo mesh nodes`.")
        raise UserError(f"{len(fits)} nodes are called {who!r}.", f"Give a node id, such as {fits[0]}.")


def fingerprint(node: NodeId) -> str:
    """Returns the start of a node's id in groups, to be compared by eye or by voice: 80 bits of its key."""
    text = str(node)[:16]
    return "-".join(text[at : at + 4] for at in range(0, 16, 4))
