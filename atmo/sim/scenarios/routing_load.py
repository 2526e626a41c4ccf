"""Requests over unequal nodes whose load is known late."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from atmo.router.capability import CHAT, Capability
from atmo.router.decision import RouteRequest
from atmo.router.offer import Offer
from atmo.router.policy import decide
from atmo.router.table import NodeTable
from atmo.sim.checks import SAFETY, watch_safety
from atmo.sim.machine import Node
from atmo.sim.report import percentile, share
from atmo.sim.scenario import Promise, Scenario, Stage

MODEL = "llama"


@dataclass(slots=True)
class _Worker:
    """What one node runs.

    Attributes:
        service_s: Mean time of a request.
        concurrency: Requests that it runs at once.
        running: Requests that it runs now.
        queue: Those that wait, each with what happens when it is done.
        busy_s: Seconds of work done.
    """

    node: Node
    service_s: float
    concurrency: int
    running: int = 0
    queue: deque[Callable[[], None]] = field(default_factory=deque)
    busy_s: float = 0.0


@dataclass(frozen=True, kw_only=True)
class RoutingLoad(Scenario):
    """Gateways send requests to workers of very unequal speed; what they know of the workers' load comes with pings.

    Attributes:
        gateways: Share of nodes that take requests; the others run them.
        load: Of what all workers together can do.
        settle_s: After the last join.
        fast_s, slow_s: Mean service times of workers lie between these, evenly on a logarithmic scale.
        concurrency_most: A worker runs from one to so many requests at once.
        timeout_s: A request that takes longer has failed.
        crash: Workers that lose power in the middle of it.
        p99_factor: The 99th percentile is at most so many mean service times of the slowest worker.
    """

    duration_s: float = 120.0
    gateways: float = 0.1
    load: float = 0.7
    settle_s: float = 30.0
    fast_s: float = 0.1
    slow_s: float = 0.8
    concurrency_most: int = 4
    timeout_s: float = 60.0
    crash: int = 2
    p99_factor: float = 15.0

    name: ClassVar = "routing-load"
    summary: ClassVar = "requests over unequal nodes whose load is known late"
    promise: ClassVar = Promise(
        safety=SAFETY,
        liveness={
            "requests_are_answered": "every request is answered, those on a node that crashed by another",
            "nobody_waits_for_long": "the 99th percentile stays within fifteen service times of the slowest worker",
        },
        figures={
            "requests": "how many",
            "answered": "share of requests",
            "p50_s": "time of a request",
            "p99_s": "time of a request",
            "p50_of_an_oracle_s": "the same, were every request sent where it ends first",
            "p99_of_an_oracle_s": "the same",
            "retried": "requests that were sent to another worker after the first one failed",
        },
    )
    least_nodes: ClassVar = 10

    def play(self, stage: Stage) -> None:
        world = stage.world
        watch_safety(world)
        nodes = stage.build()
        world.run(self.settle_s)
        count = max(1, int(len(nodes) * self.gateways))
        play = _Play(self, stage, nodes[:count], nodes[count:])
        world.run(20.0)
        play.begin()
        world.ticks.append(lambda world: stage.sample("requests under way", play.under_way))
        rng = stage.streams.shared("worker-crash")
        for worker in rng.sample(play.workers, min(self.crash, len(play.workers) // 4)):
            at = world.loop.now + rng.uniform(0.2, 0.8) * self.duration_s
            world.later(at, lambda worker=worker: play.crash(worker))  # type: ignore[misc]
        world.run(self.duration_s)
        play.stop()
        world.wait(lambda: play.under_way == 0, self.timeout_s + 10.0, 1.0)
        play.judge()

    def length_s(self) -> float:
        return self.nodes * self.join_gap_s + self.settle_s + 20.0 + self.duration_s + 10.0


class _Play:
    """The requests of one run."""

    def __init__(self, scenario: RoutingLoad, stage: Stage, gateways: list[Node], nodes: list[Node]) -> None:
        self._scenario = scenario
        self._stage = stage
        self._world = stage.world
        self._gateways = gateways
        rng = stage.streams.shared("workers")
        ratio = scenario.slow_s / scenario.fast_s
        self.workers = [
            _Worker(node, scenario.fast_s * ratio ** rng.random(), rng.randint(1, scenario.concurrency_most))
            for node in nodes
        ]
        self._by_node = {worker.node.id: worker for worker in self.workers}
        self._tables = {gateway.name: NodeTable() for gateway in gateways}
        self._rng = stage.streams.shared("requests")
        self._on = False
        self._times: list[float] = []
        self._oracle: list[float] = []
        by_id = sorted(self.workers, key=lambda worker: worker.node.id)
        self._oracle_slots = [worker for worker in by_id for _ in range(worker.concurrency)]
        self._oracle_service_s = np.array([worker.service_s for worker in self._oracle_slots])
        self._oracle_free = np.zeros(len(self._oracle_slots))
        self._failed = self._retried = self._sent = 0
        self.under_way = 0
        for worker in self.workers:
            self._offer(worker)

    def _offer(self, worker: _Worker) -> None:
        offer = Capability("llama", CHAT, MODEL, general=True, concurrency=worker.concurrency)
        self._world.command(worker.node, lambda peer, now: peer.publish_capabilities(now, [offer]))

    def begin(self) -> None:
        """From now on requests come."""
        self._on = True
        capacity = sum(worker.concurrency / worker.service_s for worker in self.workers)
        self._rate = self._scenario.load * capacity
        self._next()

    def stop(self) -> None:
        """No more requests come."""
        self._on = False

    def crash(self, worker: _Worker) -> None:
        """A worker loses power: its requests fail when its link is found to be dead, here after five seconds."""
        if worker.node.peer is not None:
            self._world.crash(worker.node)
            self._oracle_free[[owner is worker for owner in self._oracle_slots]] = np.inf

    def _next(self) -> None:
        if self._on:
            self._request()
            self._world.later(self._world.loop.now + self._rng.expovariate(self._rate), self._next)

    def _request(self) -> None:
        gateway = self._rng.choice(self._gateways)
        self._sent += 1
        self.under_way += 1
        work = self._rng.expovariate(1.0)
        self._ask_oracle(work)
        self._send(gateway, work, self._world.loop.now)

    def _ask_oracle(self, work: float) -> None:
        now = self._world.loop.now
        finishes = np.maximum(self._oracle_free, now) + work * self._oracle_service_s
        first = int(finishes.argmin())
        self._oracle_free[first] = finish = float(finishes[first])
        self._oracle.append(finish - now)

    def _send(self, gateway: Node, work: float, began: float) -> None:
        """Decides once, as a gateway does: who is chosen, and who stands in where that one fails."""
        now, table = self._world.loop.now, self._tables[gateway.name]
        offers = gateway.running.offers(self._world.now(gateway))
        request = RouteRequest(CHAT, MODEL, draw=self._rng.getrandbits(32))
        decision = decide(request, offers, None, table, now, explain=False)
        chosen = [decision.chosen] if decision.chosen is not None else []
        self._try(gateway, [*chosen, *decision.fallbacks], work, began)

    def _try(self, gateway: Node, offers: list[Offer], work: float, began: float) -> None:
        if not offers or self._world.loop.now - began > self._scenario.timeout_s:
            self._failed += 1
            self.under_way -= 1
            return
        self._run(gateway, offers, work, began)

    def _run(self, gateway: Node, offers: list[Offer], work: float, began: float) -> None:
        offer, worker = offers[0], self._by_node[offers[0].node]
        world, table = self._world, self._tables[gateway.name]
        capability, seen = offer.capability, table.seen(offer.node, offer.capability.id, world.loop.now)
        ticket = table.begin(
            offer.node,
            capability.id,
            world.loop.now,
            rtt_s=offer.rtt_s or 0.0,
            load=max(offer.load, seen.in_flight),
            concurrency=capability.concurrency,
        )
        way = self._stage.cities.route(world.loop.now, gateway.id, worker.node.id, 1_000)

        def answered() -> None:
            table.end(ticket, world.loop.now)
            self._times.append(world.loop.now - began)
            self.under_way -= 1

        def failed() -> None:
            table.fail(ticket, world.loop.now)
            self._retried += 1
            self._try(gateway, offers[1:], work, began)

        life = worker.node.life

        def over() -> None:
            self._loaded(worker, -1)
            if alive():
                world.later(world.loop.now + way, answered)
            else:
                failed()
            if worker.queue:
                worker.queue.popleft()()

        def begin() -> None:
            self._loaded(worker, 1)
            seconds = work * worker.service_s
            worker.busy_s += seconds
            world.later(world.loop.now + seconds, over)

        def alive() -> bool:
            return worker.node.peer is not None and worker.node.life == life

        def arrive() -> None:
            if not alive():
                world.later(world.loop.now + 5.0, failed)
            elif worker.running < worker.concurrency:
                begin()
            else:
                worker.queue.append(begin)
                self._tell_load(worker)

        world.later(world.loop.now + way, arrive)

    def _loaded(self, worker: _Worker, change: int) -> None:
        worker.running += change
        self._tell_load(worker)

    def _tell_load(self, worker: _Worker) -> None:
        if worker.node.peer is not None:
            worker.node.peer.set_load(worker.running + len(worker.queue))

    def judge(self) -> None:
        """Tells of figures and checks."""
        stage, scenario = self._stage, self._scenario
        answered = share(len(self._times), self._sent)
        p99 = percentile(self._times, 99)
        stage.figure("requests", self._sent)
        stage.figure("answered", answered)
        stage.figure("p50_s", percentile(self._times, 50))
        stage.figure("p99_s", p99)
        stage.figure("p50_of_an_oracle_s", percentile(self._oracle, 50))
        stage.figure("p99_of_an_oracle_s", percentile(self._oracle, 99))
        stage.figure("retried", self._retried)
        lost = self._sent - len(self._times)
        stage.check("requests_are_answered", lost == 0, f"{lost} of {self._sent} requests were not answered")
        most = scenario.p99_factor * scenario.slow_s
        stage.check("nobody_waits_for_long", p99 <= most, f"the 99th percentile is {p99:.1f} s")
