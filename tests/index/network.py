"""A small deterministic network of index engines alone: latencies between cities, dials, deaths, newcomers and liars.

`python -m tests.index.network 10000 1800 0 1000 10` prints figures of a larger one.
"""

from __future__ import annotations

import heapq
import json
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from random import Random
from typing import Any

from atmo.clock import Now
from atmo.engine import Address, Ask, Contact, Emit, Misbehaved, Send
from atmo.identity import NodeId, Signer
from atmo.index import Index, IndexConfig, LookupDone, NodeFound, ProviderFound, open_provider_untrusted
from atmo.index.keys import position, to_int
from atmo.index.messages import FindNode, FindProviders, Found, Provide, Provided
from atmo.index.records import SealedProvider

MESH = b"m" * 32
START_S = 1_700_000_000.0
CERTIFICATE = b"c" * 300

RTT_MS = (
    (2, 34, 31, 123, 113, 119, 150, 186, 143, 146),
    (34, 2, 19, 93, 82, 108, 168, 215, 162, 129),
    (31, 19, 2, 91, 75, 87, 172, 214, 164, 118),
    (123, 93, 91, 2, 13, 29, 232, 250, 233, 198),
    (113, 83, 75, 13, 2, 27, 244, 261, 243, 188),
    (122, 106, 88, 29, 27, 2, 257, 275, 258, 209),
    (150, 169, 172, 231, 243, 257, 2, 122, 9, 293),
    (186, 214, 214, 249, 261, 275, 122, 2, 115, 328),
    (143, 162, 166, 233, 244, 256, 9, 115, 2, 284),
    (144, 128, 119, 196, 187, 208, 291, 328, 283, 2),
)
"""Round trips between ten cities. Source: ../shared/data/city-rtt.csv, which is IBM Cloud's table of August 2024, with
2 ms within a city."""

DIAL_S = 5.0
"""A dial of a dead node fails after this."""

IDLE_S = 30.0
"""A link without a message for so long is closed."""


@cache
def opened(envelope: bytes, mesh: bytes) -> SealedProvider:
    """Returns what `open_provider_untrusted` does, once for all engines of a process."""
    return open_provider_untrusted(envelope, mesh)


def anyone(now: Now, node: NodeId, certificate: bytes, issuer: bytes | None) -> bool:
    """A rule by which everyone is a member."""
    return True


@dataclass(eq=False)
class Node:
    """One node of the network."""

    index: Index
    contact: Contact
    city: int
    alive: bool = True
    liar: bool = False
    wake: float = float("inf")
    links: dict[NodeId, float] = field(default_factory=dict)


@dataclass
class Outcome:
    """How one lookup went."""

    node: Node
    accept: Callable[[Contact], bool]
    began: float
    took_s: float | None = None
    hops: int = 0
    asked: int = 0
    done_s: float | None = None


class Network:
    """Engines, links and time.

    Args:
        seed: Of everything.
        config: Of the engines.
        loss: Share of messages that come 0.2 seconds later.
    """

    def __init__(self, seed: int, config: IndexConfig = IndexConfig(), loss: float = 0.0) -> None:
        self.rng = Random(f"{seed}/network")
        self.config = config
        self.loss = loss
        self.now = 0.0
        self.nodes: dict[NodeId, Node] = {}
        self.living: list[Node] = []
        self.liars: list[Node] = []
        self.outcomes: dict[tuple[NodeId, int], Outcome] = {}
        self.misbehaved: list[Misbehaved] = []
        self.messages = 0
        self.dials = 0
        self._heap: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._counter = 0

    def clock(self) -> Now:
        return Now(self.now, START_S + self.now)

    def at(self, when: float, action: Callable[..., None], *arguments: Any) -> None:
        """Plans something."""
        self._counter += 1
        heapq.heappush(self._heap, (when, self._counter, action, arguments))

    def run(self, until: float) -> None:
        """Lets time pass."""
        while self._heap and self._heap[0][0] <= until:
            self.now, _, action, arguments = heapq.heappop(self._heap)
            action(*arguments)
        self.now = until

    # --- nodes --------------------------------------------------------------------------------------------------------

    def join(self, *, liar: bool = False, friends: int = 5) -> Node:
        """A new node comes and knows a few living ones."""
        number = len(self.nodes)
        signer = Signer(number.to_bytes(32, "big"))
        index = Index(self.config, signer, MESH, 1, Random(f"{self.rng.random()}/{number}"), anyone, opened)
        address = Address(f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}", 11_450)
        node = Node(index, Contact(signer.node_id, (address,)), self.rng.randrange(len(RTT_MS)), liar=liar)
        index.contact, index.certificate = node.contact, CERTIFICATE
        self.nodes[signer.node_id] = node
        if self.living:
            for friend in self.rng.choices(self.living, k=friends):
                index.learn(self.clock(), friend.contact)
        self.living.append(node)
        if liar:
            self.liars.append(node)
        self.perform(node)
        return node

    def kill(self, node: Node) -> None:
        """A node dies without a word."""
        node.alive = False
        self.living.remove(node)

    def replace(self, node: Node, session: Callable[[], float]) -> None:
        """A node dies, another comes and will die in its turn."""
        if node.alive:
            self.kill(node)
            self.at(self.now + session(), self.replace, self.join(), session)

    # --- lookups ------------------------------------------------------------------------------------------------------

    def find(self, node: Node, key: bytes, accept: Callable[[Contact], bool]) -> Outcome:
        """Looks for providers; the first one that `accept` takes is what counts."""
        query = node.index.find_providers(self.clock(), key)
        outcome = self.outcomes[node.contact.node, query] = Outcome(node, accept, self.now)
        self.perform(node)
        return outcome

    def find_node(self, node: Node, target: NodeId) -> Outcome:
        """Looks for a node."""
        query = node.index.find_node(self.clock(), target)
        contact = self.nodes[target].contact
        outcome = self.outcomes[node.contact.node, query] = Outcome(node, lambda found: found == contact, self.now)
        self.perform(node)
        return outcome

    def is_living(self, contact: Contact) -> bool:
        """Says whether an honest provider is there."""
        node = self.nodes[contact.node]
        return node.alive and not node.liar

    # --- the world ----------------------------------------------------------------------------------------------------

    def perform(self, node: Node) -> None:
        """Does what an engine asks for and plans its timer."""
        for effect in node.index.drain():
            match effect:
                case Ask(contact, message):
                    self.ask(node, contact, message)
                case Send(to, message):
                    self.deliver(node, self.nodes[to], message, 0.5)
                case Emit(event):
                    self.observe(node, event)
                case Misbehaved():
                    self.misbehaved.append(effect)
        due = node.index.next_timer()
        if due < node.wake:
            node.wake = due
            self.at(max(due, self.now), self.timer, node, due)

    def timer(self, node: Node, due: float) -> None:
        if node.alive and node.wake == due:
            node.wake = float("inf")
            node.index.handle_timer(self.clock())
            self.perform(node)

    def observe(self, node: Node, event: Any) -> None:
        outcome = self.outcomes.get((node.contact.node, getattr(event, "query", 0)))
        if isinstance(event, ProviderFound | NodeFound):
            if outcome is None:
                self.early(node, event)
            elif outcome.took_s is None and outcome.accept(event.contact):
                outcome.took_s, outcome.hops = event.took_s, event.hops
        elif isinstance(event, LookupDone) and outcome is not None:
            outcome.done_s, outcome.asked = event.took_s, event.asked

    def early(self, node: Node, event: Any) -> None:
        raise AssertionError(f"{event} of nobody's lookup")

    def round_trip(self, one: Node, other: Node) -> float:
        return RTT_MS[one.city][other.city] / 1_000

    def ask(self, node: Node, contact: Contact, message: Any) -> None:
        target = self.nodes[contact.node]
        linked = self.now - node.links.get(contact.node, -IDLE_S) < IDLE_S
        if not linked:
            self.dials += 1
            if not target.alive or target.contact.addresses != contact.addresses:
                self.at(self.now + DIAL_S, self.unreachable, node, contact.node)
                return
        self.deliver(node, target, message, 0.5 if linked else 1.5)

    def unreachable(self, node: Node, target: NodeId) -> None:
        if node.alive:
            node.index.failed(self.clock(), target)
            self.perform(node)

    def deliver(self, source: Node, target: Node, message: Any, trips: float) -> None:
        self.messages += 1
        source.links[target.contact.node] = target.links[source.contact.node] = self.now
        late = 0.2 if self.loss and self.rng.random() < self.loss else 0.0
        self.at(self.now + trips * self.round_trip(source, target) + late, self.arrive, source, target, message)

    def arrive(self, source: Node, target: Node, message: Any) -> None:
        if not target.alive:
            return
        if target.liar and isinstance(message, FindNode | FindProviders | Provide):
            self.deliver(target, source, self.lie(target, message), 0.5)
            return
        target.index.receive(self.clock(), source.contact.node, message)
        self.perform(target)

    def lie(self, liar: Node, message: Any) -> Any:
        """What a liar answers: other liars, no providers, and that it keeps what it throws away."""
        if isinstance(message, Provide):
            return Provided(message.token, 1_200)
        place = to_int(message.key if isinstance(message, FindProviders) else message.target)
        near = heapq.nsmallest(20, self.liars, key=lambda node: position(MESH, node.contact.node) ^ place)
        return Found(message.token, tuple(node.contact for node in near))


def grown(
    seed: int,
    count: int,
    *,
    config: IndexConfig = IndexConfig(),
    liars: float = 0.0,
    loss: float = 0.0,
    over_s: float = 180.0,
) -> Network:
    """Returns a network into which `count` nodes came one after the other, and which then had some time to settle."""
    network = Network(seed, config, loss)

    def join(number: int) -> None:
        network.join(liar=number > 4 and number * 7_919 % 100 < liars * 100)

    for number in range(count):
        network.at(over_s * number / count, join, number)
    network.run(over_s + 80.0)
    return network


def figures(outcomes: list[Outcome]) -> dict[str, float]:
    """Returns the figures of some lookups; those whose asker died before they ended do not count."""
    outcomes = [outcome for outcome in outcomes if outcome.done_s is not None]
    found = [outcome for outcome in outcomes if outcome.took_s is not None]
    times = sorted(outcome.took_s or 0.0 for outcome in found)
    hops = sorted(outcome.hops for outcome in found)
    done = sorted(outcome.done_s or 0.0 for outcome in outcomes)
    return {
        "lookups": len(outcomes),
        "found_share": len(found) / len(outcomes),
        "hops_median": hops[len(hops) // 2],
        "took_median_s": round(times[len(times) // 2], 3),
        "took_p95_s": round(times[len(times) * 95 // 100], 3),
        "done_p95_s": round(done[len(done) * 95 // 100], 3),
        "asked_mean": sum(outcome.asked for outcome in outcomes) / len(outcomes),
    }


def main() -> None:
    """Prints the figures of a network: nodes, mean session in seconds (0: nobody dies), share of liars, lookups, and
    minutes before them."""
    count, session_s, liars, lookups, minutes = (float(argument) for argument in sys.argv[1:6])
    measure(int(count), session_s, liars, int(lookups), int(minutes))


def measure(count: int, session_s: float, liars: float, lookups: int, minutes: int) -> None:
    """Prints the same of given arguments."""
    began = time.monotonic()
    network = grown(1, count, liars=liars, loss=0.01)
    print(
        "grown",
        round(time.monotonic() - began, 1),
        "s,",
        network.messages,
        "messages",
        network.dials,
        "dials",
        flush=True,
    )
    print("peak MiB", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024, flush=True)
    keys = [bytes([number // 256, number % 256]) * 16 for number in range(min(count // 4, 200))]
    honest = [node for node in network.living if not node.liar]
    fixed = network.rng.sample(honest, len(keys) * 2)
    for number, node in enumerate(fixed):
        node.index.provide(network.clock(), keys[number % len(keys)])
        network.perform(node)
    if session_s:
        stay = dict.fromkeys(node.contact.node for node in fixed[: len(keys)])

        def session() -> float:
            return network.rng.weibullvariate(session_s / 1.5, 0.6)

        for node in list(network.living):
            if node.contact.node not in stay and not node.liar:
                network.at(network.now + session(), network.replace, node, session)
    network.run(network.now + 60)
    before, at = (network.messages, network.dials), network.now
    network.run(at + minutes * 60)
    per_node = (network.messages - before[0]) / minutes / count, (network.dials - before[1]) / minutes / count
    print("idle messages, dials per node and minute", per_node, round(time.monotonic() - began, 1), "s", flush=True)
    outcomes = []
    for number in range(lookups):
        network.run(network.now + 0.05)
        node = network.rng.choice([node for node in network.living if not node.liar and not node.index.provided()])
        outcomes.append(network.find(node, keys[number % len(keys)], network.is_living))
    network.run(network.now + 20)
    print(json.dumps(figures(outcomes)), round(time.monotonic() - began, 1), "s")
    sizes = sorted(node.index.size_estimate() for node in network.living if not node.liar)
    print("size estimates", [sizes[len(sizes) * part // 100] for part in (5, 50, 95)])
    tables = sorted(len(node.index.contacts()) for node in network.living)
    dead = [sum(not network.nodes[c.node].alive for c in node.index.contacts()) for node in network.living[::7]]
    print("tables", tables[len(tables) // 2], "dead in them", sum(dead) / len(dead))
    held = sorted(node.index.held() for node in network.living)
    print("held", held[len(held) // 2], held[-1])


if __name__ == "__main__":
    main()
