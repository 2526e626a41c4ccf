"""Helpers for tests of the index: engines, contacts and provider records in one line."""

from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import Any, TypeVar

from atmo.clock import Now
from atmo.engine import Address, Ask, Contact, Effect, Emit
from atmo.identity import NodeId, Signer
from atmo.index import Index, IndexConfig, open_provider_untrusted
from atmo.index.keeping import Admit
from atmo.index.keys import bucket_of, position
from atmo.index.messages import Found, Provide, Provided
from atmo.index.records import Provider, SealedProvider, seal_provider

MESH = b"m" * 32
START_S = 1_700_000_000
OWN = Signer(bytes(32))
KEY = b"k" * 32
QUIET = IndexConfig(probe_s=1e6, settle_s=1e6, k=4, alpha=2, paths=1, publish_paths=1, cache=False)
"""Nothing but what a test asks for."""

E = TypeVar("E")


def at(seconds: float, skew_s: float = 0.0) -> Now:
    """Returns the clocks `seconds` after the beginning."""
    return Now(seconds, START_S + seconds + skew_s)


def node(number: int) -> NodeId:
    """Returns a node id that nobody has the key of."""
    return NodeId(number.to_bytes(32, "big"))


def contact(number: int, host: str = "10.0.0.1") -> Contact:
    """Returns a contact of `node(number)`."""
    return Contact(node(number), (Address(host, 1 + number),))


def signer(number: int) -> Signer:
    """Returns one of many keys."""
    return Signer(number.to_bytes(32, "big"))


def in_bucket(index: int, count: int, host: str = "10.0.0.1") -> list[Contact]:
    """Returns contacts in one bucket of `OWN`'s table."""
    own = position(MESH, OWN.node_id)
    numbers = (number for number in range(1, 100_000) if bucket_of(position(MESH, node(number)) ^ own) == index)
    return [contact(next(numbers), host) for _ in range(count)]


def by_distance(target: int, count: int, among: int = 2_000) -> list[Contact]:
    """Returns contacts sorted by their distance from a position, the closest of many."""
    numbers = sorted(range(1, among), key=lambda number: position(MESH, node(number)) ^ target)
    return [contact(number) for number in numbers[:count]]


def provider(key: bytes = KEY, version: tuple[int, int] = (1, 1), **fields: Any) -> Provider:
    """Returns what a provider says in its first second."""
    made = Provider(key, (Address("10.1.1.1", 7),), START_S, 1_200, *version, b"certificate")
    return replace(made, **fields)


def sealed(author: Signer, *args: Any, **fields: Any) -> SealedProvider:
    """Returns a sealed provider record; arguments as for `provider`."""
    return open_provider_untrusted(seal_provider(author, MESH, provider(*args, **fields)), MESH)


def anyone(now: Now, author: NodeId, certificate: bytes, issuer: bytes | None) -> bool:
    """A rule by which everyone is a member."""
    return True


def engine(config: IndexConfig = IndexConfig(), admit: Admit = anyone, epoch: int = 1) -> Index:
    """Returns an engine of `OWN` that listens and has a certificate."""
    index = Index(config, OWN, MESH, epoch, Random(1), admit)
    index.contact, index.certificate = Contact(OWN.node_id, (Address("10.9.9.9", 9),)), b"own certificate"
    return index


def of(effects: list[Effect], kind: type[E]) -> list[E]:
    """Returns the effects of one kind."""
    return [effect for effect in effects if isinstance(effect, kind)]


def events(effects: list[Effect], kind: type[E]) -> list[E]:
    """Returns the events of one kind."""
    return [effect.event for effect in effects if isinstance(effect, Emit) and isinstance(effect.event, kind)]


def asks(effects: list[Effect], kind: type[E]) -> list[tuple[NodeId, E]]:
    """Returns whom was asked what, of one kind of request."""
    return [
        (effect.contact.node, effect.message)
        for effect in effects
        if isinstance(effect, Ask) and isinstance(effect.message, kind)
    ]


def run(index: Index, until: float, start: float = 0.0) -> list[Effect]:
    """Serves the timer until a moment; returns all effects."""
    effects = index.drain()
    for _ in range(10_000):
        due = index.next_timer()
        if due > until:
            return effects
        start = max(start, due)
        index.handle_timer(at(start))
        effects += index.drain()
    raise AssertionError("the timer spins")


def known(config: IndexConfig = QUIET, count: int = 3) -> Index:
    """Returns an engine that knows the nodes 1 to `count`."""
    index = engine(config)
    for number in range(1, count + 1):
        index.learn(at(0), contact(number))
    return index


def answer(index: Index, now: Now, *, silent: tuple[int, ...] = (), **fields: object) -> int:
    """Answers all requests that are under way, as often as new ones come; returns how many."""
    count = 0
    while requests := of(index.drain(), Ask):
        for request in requests:
            source, message = request.contact.node, request.message
            if source in [node(number) for number in silent]:
                continue
            count += 1
            if isinstance(message, Provide):
                index.receive(now, source, Provided(message.token, 1_200))
            else:
                index.receive(now, source, Found(message.token, **fields))  # type: ignore[arg-type]
    return count
