"""Requests in, routed execution, parts out: the same path whether this machine or another runs a request."""

from __future__ import annotations

import math
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

import trio

from atmo.backends.base import STREAMED, Call, Part
from atmo.backends.pool import BackendPool, BackendState
from atmo.errors import AtmoError, RemoteError, RequestError
from atmo.gateway.asking import ANYBODY, Asking
from atmo.gateway.budget import ByteBudget
from atmo.gateway.checks import model_of
from atmo.gateway.elsewhere import Seek, keys_of, serves, worth_seeking
from atmo.gateway.execution import Attempt, Execution, Tried, final, last_error, told_as
from atmo.gateway.ghostwriter import Ghostwriter
from atmo.gateway.jsontext import write_object
from atmo.gateway.known import KnownModels
from atmo.gateway.listing import CatalogRow, list_models
from atmo.gateway.meaning import Embed, Meaning
from atmo.gateway.needs import needs_of
from atmo.gateway.prompt import constraints_of, forwarded, query_text
from atmo.gateway.remote import PROTOCOL, Mesh, Outgoing, open_remote
from atmo.gateway.serving import ExecuteServer, ServerConfig
from atmo.gateway.supply import Supply
from atmo.gateway.terms import Terms
from atmo.gateway.tracing import NO_TRACER, Tracer, note_decision, note_offer
from atmo.identity import NodeId
from atmo.net.ports import MeshPort
from atmo.router.capability import CHAT, Capability
from atmo.router.choice import BY_MEANING
from atmo.router.decision import Decision, RouteRequest
from atmo.router.offer import Offer
from atmo.router.offers import Offers
from atmo.router.policy import decide
from atmo.router.table import NodeTable

_DEADLINE_MARGIN_S = 1.0
"""The other node and the stream to it get this much longer than we wait, so that who is late is told by us."""


@dataclass(frozen=True, slots=True)
class GatewayConfig:
    """Limits of the gateway.

    Attributes:
        tries: Nodes that one request is sent to at most, one after the other.
        answer_s: Within which an answer must be complete. Source: OpenAI's clients wait 600 s.
        reach_s: A node that cannot be reached by then is passed over where there is another: it may be dead, which the
            mesh knows after half a minute only. Source: guess; a dial and its handshakes over 0.3 s take 1 s.
        names: Model names that are remembered after nobody offers them any more, for `names_s` seconds.
        serving: Limits for requests of other nodes.
    """

    tries: int = 3
    answer_s: float = 600.0
    reach_s: float = 2.5
    names: int = 4_096
    names_s: float = 600.0
    serving: ServerConfig = field(default_factory=ServerConfig)


@dataclass(frozen=True, slots=True)
class Company:
    """Who is there.

    Attributes:
        nodes: Members believed to live, this one included.
        peers: Those of them with which this one has a link.
        neighbours: Those of these with which it exchanges the state of the mesh; a handful, however large the mesh is.
    """

    nodes: int
    peers: int
    neighbours: int


@dataclass(frozen=True, slots=True)
class _Job:
    """A request, whoever runs it; `deadline` is on trio's clock."""

    operation: str
    body: Mapping[str, Any]
    stream: bool
    deadline: float
    request_id: str
    trace: str


@dataclass(slots=True)
class GatewayStats:
    """Counters of requests that came in here."""

    requests: int = 0
    answered: int = 0
    errors: int = 0
    failovers: int = 0
    sent_away: int = 0
    abandoned: int = 0
    routed_by_meaning: int = 0


class Gateway:
    """Routes requests and runs them.

    Args:
        node: This machine.
        node_name: Its name.
        pool: What runs on this machine.
        embed: Texts to vectors, for routing by meaning.
        mesh: The running peer; None while this machine belongs to no mesh.
        stored: The models in the stores of the mesh.
        config: Limits.
        random: Draws which nodes are compared.
        seek: Looks in the index for what no known node offers; None where there is none.
        terms: What is sent to others, and what is run for them.
        tracer: Records what each request takes, here and for others.

    Attributes:
        on_asked: Told of each model of another machine that a request was sent to.
        on_routed: Told of each decision that a request follows, with the request's id.
    """

    def __init__(
        self,
        node: NodeId,
        node_name: str,
        pool: BackendPool,
        embed: Embed,
        mesh: Mesh,
        *,
        stored: Callable[[], Iterable[CatalogRow]],
        config: GatewayConfig | None = None,
        random: Random | None = None,
        seek: Seek | None = None,
        terms: Terms | None = None,
        tracer: Tracer = NO_TRACER,
    ) -> None:
        self.tracer = tracer
        self.stats = GatewayStats()
        self.table = NodeTable()
        self.meaning = Meaning(embed)
        self.budget = ByteBudget()
        self._terms = terms or Terms()
        self.server = ExecuteServer(pool, (config or GatewayConfig()).serving, self._terms, tracer)
        self._node = node
        self._pool = pool
        self._mesh = mesh
        self._stored = stored
        self._config = config or GatewayConfig()
        self._random = random or Random(secrets.randbits(64))
        self._seek = seek if self._terms.routes_away else None
        self._known = KnownModels(stored, self._config.names, self._config.names_s)
        self.on_asked: Callable[[str], None] = lambda model: None
        self.on_routed: Callable[[Decision, str], None] = lambda decision, request_id: None
        self._supply = Supply(node, node_name, pool, mesh if self._terms.routes_away else lambda: None)
        self.ghostwriter = Ghostwriter(self.execute, lambda: bool(self.offers().doing(CHAT).general))

    def attach(self, mesh: MeshPort) -> None:
        """Answers other nodes' requests from now on, where any are accepted."""
        if self._terms.accepts:
            mesh.handle(PROTOCOL, self.server.serve)

    def offered(self) -> list[Capability]:
        """Returns what the mesh is told that this machine can run."""
        return self._terms.offered(self._pool.capabilities())

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Embeds what new capabilities do in the background, and carries what `ghostwriter` asks, until cancelled."""
        async with trio.open_nursery() as nursery:
            await nursery.start(self.ghostwriter.run)
            nursery.start_soon(self.meaning.run)
            self.offers_changed()
            task_status.started()

    def offers_changed(self) -> None:
        """Has the texts of new capabilities embedded ahead of the first request; call it when offers came or went."""
        self.meaning.track(self.offers())

    @property
    def in_flight(self) -> int:
        """Requests that this machine is running, its own and those of others."""
        return self._pool.in_flight

    @property
    def waiting(self) -> int:
        """Requests that wait for their turn on this machine."""
        return self._pool.waiting

    def backends(self) -> list[BackendState]:
        """Returns how the backends of this machine are."""
        return self._pool.states()

    def company(self) -> Company:
        """Returns how many nodes the mesh has, as far as is known, and with how many of them this one is connected."""
        mesh = self._mesh()
        if mesh is None:
            return Company(1, 0, 0)
        peer = mesh.peer
        alive = sum(view.present for view in peer.nodes(mesh.now()))
        return Company(alive, len(peer.linked()), len(peer.neighbours()))

    def offers(self) -> Offers:
        """Returns every capability of every live node; the same object for as long as that is the same."""
        offers = self._supply.offers()
        self._known.remember(offers.models, trio.current_time())
        return offers

    def _path(self, offer: Offer) -> str:
        """Returns the kind of path to a node; the link may have been made for the request."""
        mesh = None if offer.local else self._mesh()
        report = mesh.path(offer.node) if mesh else None
        return report.path if report else offer.path

    def models(self) -> list[dict[str, Any]]:
        """Returns the objects of `/v1/models`: every model of the mesh."""
        return list_models(self.offers(), self._stored())

    async def route(
        self, operation: str, body: Mapping[str, Any], models: tuple[str, ...] = (), *, explain: bool = True
    ) -> Decision:
        """Decides who would run a request; `execute` follows the same decision.

        Args:
            operation: One of `capability.OPERATIONS`.
            body: The client's JSON, checked by `gateway.checks`.
            models: Patterns of the models that whoever asks may use; empty for all.
            explain: Whether those are told, too, that played no part.

        Raises:
            RequestError: 400, the model or a constraint cannot be read.
        """
        constraints = constraints_of(body)
        if models:
            constraints = replace(constraints, models=models)
        needs = needs_of(operation, body)
        request = RouteRequest(operation, model_of(body), constraints, self._random.getrandbits(32), needs)
        offers = self.offers()
        decision = await self._decide(request, body, offers, explain)
        if self._seek is not None and worth_seeking(decision, offers):
            await self._seek(keys_of(request), lambda: serves(request, self.offers()))
            decision = await self._decide(request, body, self.offers(), explain)
        return decision

    async def _decide(self, request: RouteRequest, body: Mapping[str, Any], offers: Offers, explain: bool) -> Decision:
        scores = None
        by_meaning = request.auto and request.operation in BY_MEANING
        if by_meaning and len(offers.doing(request.operation).models) > 1:
            scores = await self.meaning.scores(query_text(body), offers)
        now = trio.current_time()
        decision = decide(request, offers, scores, self.table, now, explain=explain)
        if decision.failure is not None and decision.failure.status == 404:
            decision = decide(request, offers, scores, self.table, now, self._known.kinds(now))
        return decision

    @asynccontextmanager
    async def execute(
        self, operation: str, body: Mapping[str, Any], asking: Asking = ANYBODY
    ) -> AsyncGenerator[Execution, None]:
        """Runs a request on the node that the router chooses, on another when that one fails before it says anything.

        The block gets the execution once the first part is here, or without `stream` the whole answer, so the client
        can still be told of every failure by a status. Leaving the block early stops the work, wherever it is.

        Args:
            operation: One of `capability.OPERATIONS`.
            body: The client's JSON, checked by `gateway.checks`.
            asking: How it is to be run, and for whom.

        Raises:
            RequestError: Nobody can do it, or everybody who was asked failed.
        """
        self.stats.requests += 1
        done = False
        try:
            with self.tracer.span("route", asking.trace) as span:
                decision = await self.route(operation, body, asking.models, explain=False)
                note_decision(span, decision)
            self.on_routed(decision, asking.request_id)
            self.stats.routed_by_meaning += decision.rule == "meaning"
            if decision.failure is not None or decision.chosen is None:
                assert decision.failure is not None
                raise decision.failure.error()
            if not decision.chosen.local:
                self.on_asked(decision.chosen.capability.model)
            async with self._answered(decision, self._job(operation, body, asking)) as execution:
                yield execution
            self.stats.answered += 1
            done = True
        except AtmoError:
            self.stats.errors += 1
            done = True
            raise
        finally:
            self.stats.abandoned += not done

    def _job(self, operation: str, body: Mapping[str, Any], asking: Asking) -> _Job:
        deadline, request_id = trio.current_time() + self._config.answer_s, asking.request_id or secrets.token_hex(8)
        sent = forwarded(body, asking.stream and operation in STREAMED)
        return _Job(operation, sent, asking.stream, deadline, request_id, asking.trace)

    @asynccontextmanager
    async def _answered(self, decision: Decision, job: _Job) -> AsyncGenerator[Execution, None]:
        assert decision.chosen is not None
        offers = self._candidates(decision.chosen, decision.fallbacks)
        tried: list[Tried] = []
        for offer in offers:
            began = False
            reach_s = math.inf if offer is offers[-1] else self._config.reach_s
            try:
                async with AsyncExitStack() as stack:
                    try:
                        attempt, first = await self._attempt(stack, offer, job, reach_s)
                    except RequestError as error:
                        tried.append(Tried(offer, error))
                    else:
                        began = True
                        yield Execution(decision, attempt, first, tuple(tried), job.request_id, self._path(offer))
                        return
            except RemoteError as error:  # told only when the stream to the node was closed
                told = told_as(error, offer)
                if began:
                    raise told from error
                tried.append(Tried(offer, told))
            if final(offer, tried[-1].error):
                break
            self.stats.failovers += 1
        raise last_error(tried)

    def _candidates(self, chosen: Offer, fallbacks: Sequence[Offer]) -> list[Offer]:
        """Returns whom to ask; this machine is among them where it can, whoever stands before it."""
        offers = [chosen, *fallbacks]
        asked, rest = offers[: self._config.tries], offers[self._config.tries :]
        if not any(offer.local for offer in asked):
            asked += [offer for offer in rest if offer.local][:1]
        return asked

    async def _attempt(
        self, stack: AsyncExitStack, offer: Offer, job: _Job, reach_s: float
    ) -> tuple[Attempt, list[Part]]:
        """Sends the request to `offer` and waits for the first part; without `stream` for the whole answer."""
        now = trio.current_time()
        ticket = self.table.begin(
            offer.node,
            offer.capability.id,
            now,
            rtt_s=offer.rtt_s or 0.0,
            load=offer.load,
            concurrency=offer.capability.concurrency,
        )
        attempt = Attempt(self.table, ticket, offer, job.deadline, job.stream)
        stack.callback(attempt.cancel)
        span = stack.enter_context(self.tracer.span("attempt", job.trace, "internal" if offer.local else "client"))
        note_offer(span, offer)
        try:
            try:
                attempt.source = await self._open(stack, attempt, job, span.traceparent, reach_s)
            except Exception as error:
                raise attempt.failed(error) from error
            parts = [part for part in (await attempt.next(),) if part is not None]
            if not job.stream:
                await attempt.next()
        except RequestError as error:
            span.fail(error.code or error.kind)
            raise
        return attempt, parts

    async def _open(
        self, stack: AsyncExitStack, attempt: Attempt, job: _Job, trace: str, reach_s: float
    ) -> AsyncIterator[Part]:
        offer = attempt.offer
        if offer.node == self._node:
            asked = "" if job.operation == offer.capability.operation else job.operation
            run = stack.enter_context(self.tracer.span("run", trace))
            call = Call(offer.capability, job.body, job.stream, job.request_id, asked, run.traceparent, attempt.begun)
            return await stack.enter_async_context(aclosing(self._pool.execute(call)))
        mesh = self._mesh()
        if mesh is None:
            message = "This node has just left the mesh: send the request again."
            raise RequestError(503, message, kind="api_error", code="no_mesh")
        self.stats.sent_away += 1
        content = await write_object(job.body)
        seconds = job.deadline - trio.current_time() + _DEADLINE_MARGIN_S
        outgoing = Outgoing(
            offer, job.operation, content, job.stream, seconds, job.request_id, reach_s, trace, attempt.begun
        )
        return await stack.enter_async_context(open_remote(mesh, outgoing))
