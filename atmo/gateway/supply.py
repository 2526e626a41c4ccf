"""What this machine and the others offer, as one."""

from __future__ import annotations

from dataclasses import replace

from atmo.backends.pool import BackendPool
from atmo.gateway.remote import Mesh
from atmo.identity import NodeId
from atmo.router.capability import Capability
from atmo.router.offer import Offer
from atmo.router.offers import Offers

_NOTHING = Offers()


class Supply:
    """Puts both together, anew only when one of them changed.

    Args:
        node: This machine.
        node_name: Its name.
        pool: What runs on it.
        mesh: The running peer; None while this machine belongs to no mesh.
    """

    def __init__(self, node: NodeId, node_name: str, pool: BackendPool, mesh: Mesh) -> None:
        self._node = node
        self._node_name = node_name
        self._pool = pool
        self._mesh = mesh
        self._own: list[Capability] = []
        self._others = self._all = _NOTHING

    def offers(self) -> Offers:
        """Returns every capability of every live node; the same object for as long as that is the same."""
        mesh, own = self._mesh(), self._pool.capabilities()
        others = _NOTHING if mesh is None else mesh.peer.offers(mesh.now())
        if others is not self._others or own != self._own:
            self._others, self._own = others, own
            local = [Offer(self._node, self._node_name, one, True, 0.0, 0, "local") for one in own]
            away = [offer for offer in others.lasting if offer.node != self._node]
            self._all = Offers((*local, *away), lambda offer: self._fresh(offer, others))
        return self._all

    def _fresh(self, offer: Offer, others: Offers) -> Offer:
        return replace(offer, load=self._pool.in_flight) if offer.local else others.fresh(offer)
