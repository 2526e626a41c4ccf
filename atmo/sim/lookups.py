"""Lookups in the index, and whether they find who lives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from atmo.clock import Now
from atmo.index.events import LookupDone, ProviderFound
from atmo.index.keys import model_key
from atmo.peer import Peer, PeerConfig
from atmo.sim.machine import Node
from atmo.sim.report import percentile, share
from atmo.sim.scenario import Scenario, Stage
from atmo.sim.spread import model


@dataclass(frozen=True, kw_only=True)
class LargeMesh(Scenario):
    """A mesh too large for everyone to know everyone, where nodes look for holders of models.

    Attributes:
        census: Up to so many nodes everyone knows everyone; 0 for a quarter of all, so that few are a large mesh.
        models: That are looked for.
        holders: Of each.
        settle_s: After the last join.
        lookups_per_s: In the whole mesh.
    """

    census: int = 0
    models: int = 50
    holders: int = 5
    settle_s: float = 60.0
    lookups_per_s: float = 10.0

    least_nodes: ClassVar = 20

    def config(self) -> PeerConfig:
        usual = PeerConfig()
        return replace(usual, scale=replace(usual.scale, census=self.census or self.nodes // 4))

    def provide(self, lookups: Lookups, nodes: Sequence[Node]) -> None:
        """Lets some of the nodes hold the models."""
        lookups.provide([f"model-{number}" for number in range(self.models)], nodes, self.holders)

    def look(self, stage: Stage, lookups: Lookups, lookers: Callable[[], Sequence[Node]]) -> None:
        """Lets one of the lookers after the other look for a model, for the length of the main act.

        Who has just started and is linked with nobody yet has nobody to ask.
        """
        looker, gap_s = stage.streams.shared("looker"), 1.0 / self.lookups_per_s
        for _ in range(int(self.duration_s * self.lookups_per_s)):
            linked = [node for node in lookers() if node.running.linked()]
            lookups.look(looker.choice(linked))
            stage.world.run(gap_s)


@dataclass(slots=True)
class Lookup:
    """One lookup.

    Attributes:
        asker, life: Who looks, and in which of its lives.
        key_name: Of the model that is looked for.
        began_at: Virtual seconds.
        found_s: After how long the first live provider was found.
        found_hops: Answers that led to it.
        dead: Providers found that do not live.
        done: It is over.
    """

    asker: Node
    life: int
    key_name: str
    began_at: float
    found_s: float | None = None
    found_hops: int = 0
    dead: int = 0
    done: bool = False

    @property
    def counts(self) -> bool:
        """False where the asker went off before it had an answer: nobody misses one then."""
        alive = self.asker.peer is not None and self.asker.life == self.life
        return self.done or self.found_s is not None or alive


class Lookups:
    """Lets nodes provide models and look for them.

    Args:
        stage: Of the run.
        counts: Says whether a provider is a right answer; by default who runs.
    """

    def __init__(self, stage: Stage, counts: Callable[[Node], bool] | None = None) -> None:
        self._stage = stage
        self._world = stage.world
        self._counts = counts or (lambda node: True)
        self._providers: dict[str, list[Node]] = {}
        self._running: dict[tuple[str, int, int], Lookup] = {}  # by node, life and query
        self.lookups: list[Lookup] = []
        self._world.watch.setdefault(ProviderFound, []).append(self._found)
        self._world.watch.setdefault(LookupDone, []).append(self._done)

    def provide(self, names: Sequence[str], nodes: Sequence[Node], each: int) -> None:
        """Lets some nodes hold each of the models; they say so again whenever they start."""
        choose = self._stage.streams.shared("providers")
        for name in names:
            self._providers[name] = choose.sample(nodes, min(each, len(nodes)))
        for node in nodes:
            self.publish(node)

    def publish(self, node: Node) -> None:
        """Lets a node tell which models it holds."""
        own = [model(name) for name, nodes in self._providers.items() if node in nodes]
        if own and node.peer is not None:
            self._world.command(node, lambda peer, now: peer.publish_models(now, own))

    def look(self, node: Node, since_s: float = 30.0) -> Lookup | None:
        """Lets a node look for a model of which some provider has been on for a while; None where there is none."""
        now, choose = self._world.loop.now, self._stage.streams.shared("looks")
        alive = [
            name
            for name, nodes in self._providers.items()
            if node not in nodes
            and any(other.peer and now - other.started_at >= since_s and self._counts(other) for other in nodes)
        ]
        if not alive:
            return None
        lookup = Lookup(node, node.life, choose.choice(alive), now)
        self._world.command(node, lambda peer, now: self._ask(node, lookup, peer, now))
        self.lookups.append(lookup)
        return lookup

    def _ask(self, node: Node, lookup: Lookup, peer: Peer, now: Now) -> None:
        query = peer.find_providers(now, model_key(lookup.key_name))
        self._running[node.name, node.life, query] = lookup

    def _found(self, node: Node, event: ProviderFound) -> None:
        lookup = self._running.get((node.name, node.life, event.query))
        if lookup is None or lookup.found_s is not None:
            return
        provider = self._world.node(event.contact.node)
        right = provider is not None and provider in self._providers[lookup.key_name] and self._counts(provider)
        if right and provider is not None and provider.peer is not None:
            lookup.found_s = self._world.loop.now - lookup.began_at
            lookup.found_hops = event.hops
        else:
            lookup.dead += 1

    def _done(self, node: Node, event: LookupDone) -> None:
        lookup = self._running.pop((node.name, node.life, event.query), None)
        if lookup is not None:
            lookup.done = True

    # --- what came out --------------------------------------------------------------------------------------------

    def found(self) -> float:
        """Returns the share of lookups that found a live provider."""
        counted = [lookup for lookup in self.lookups if lookup.counts]
        return share(sum(lookup.found_s is not None for lookup in counted), len(counted))

    def median_hops(self) -> float:
        """Returns the median of the answers that led to the first live provider."""
        return percentile([lookup.found_hops for lookup in self.lookups if lookup.found_s is not None], 50)

    def time_s(self, percent: float) -> float:
        """Returns a percentile of the time to the first live provider."""
        return percentile([lookup.found_s for lookup in self.lookups if lookup.found_s is not None], percent)
