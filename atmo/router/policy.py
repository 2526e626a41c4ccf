"""The routing decision: a pure function of the request, the offers, what they mean, what was observed, and the time.

First the model (`router.choice`), then the node: the shortest expected finish time among this machine and three others
drawn at random. Comparing all would send every gateway to the same node (the greedy minimum herds); of ten unequal
nodes with gossip a second old, three choices by finish time came within a factor of two of an oracle at p99. Who stands
in when the chosen node fails is drawn, too, for the same reason. So a decision looks at a handful of nodes, and takes
about 50 microseconds with ten offers as with ten thousand.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random
from types import MappingProxyType

from atmo.identity import NodeId
from atmo.router import decision as rules
from atmo.router.capability import (
    ANOMALY,
    CHAT,
    CLASSIFY,
    CLUSTER,
    COMPLETIONS,
    EMBEDDINGS,
    FORECAST,
    IMAGES,
    SPEECH,
    TRANSCRIPTION,
    key_of,
)
from atmo.router.choice import THRESHOLD, Choice, Known, Scores, choose_model, ruled_out
from atmo.router.decision import Candidate, Decision, Failure, RouteRequest
from atmo.router.offer import Offer
from atmo.router.offers import Offers
from atmo.router.table import HALF_OPEN, OPEN, NodeTable, Seen, queue_factor


@dataclass(frozen=True, slots=True)
class PolicyConfig:
    """Numbers of the decision.

    Attributes:
        threshold: Similarity from which a specialist wins. Source: see `choice.THRESHOLD`.
        choices: Remote nodes that are compared. Source: measured, three choices against two and all.
        fallbacks: Who else may be asked when the chosen node fails.
        candidates_shown: Candidates that a decision keeps where it is explained.
        unknown_rtt_s: Taken for a link whose round-trip time is not known yet. Source: guess.
        near_factor: This machine wins unless another finishes this many times earlier, and
        near_s: this many seconds earlier. Source: guess; sending a request away costs both ends work.
        forget_s: Half-life of an observed service time, so that a node that was slow is tried again. Source: guess.
        priority_factor: An offer of high priority is taken to finish this many times earlier; one of low priority
            stands in only. Source: guess; seed 003 wants the one preferred and the other as a fallback.
    """

    threshold: float = THRESHOLD
    choices: int = 3
    fallbacks: int = 4
    candidates_shown: int = 64
    unknown_rtt_s: float = 0.05
    near_factor: float = 1.25
    near_s: float = 0.005
    forget_s: float = 60.0
    priority_factor: float = 2.0


SERVICE_PRIOR_S = {
    CHAT: 3.0,
    COMPLETIONS: 3.0,
    EMBEDDINGS: 0.02,
    IMAGES: 10.0,
    TRANSCRIPTION: 5.0,
    SPEECH: 3.0,
    CLASSIFY: 0.01,
    ANOMALY: 0.01,
    CLUSTER: 0.01,
    FORECAST: 0.02,
}
"""Expected time of a request before anything was observed, in seconds. Source: guess."""

_DEFAULTS = PolicyConfig()


@dataclass(frozen=True, slots=True)
class _Rated:
    """An offer, and when it would be done with the request.

    Attributes:
        lot: Decides between two of which the same is known: a small one is drawn the more often, the more requests the
            node runs at once. An order by node would send all gateways that know nothing yet to the same nodes.
        worth_s: The expected time, less where the offer has priority.
    """

    offer: Offer
    tier: int
    seen: Seen
    load: int
    service_s: float
    finish_s: float
    lot: float
    worth_s: float

    @property
    def group(self) -> tuple[bool, int, bool]:
        return (self.seen.breaker == OPEN, self.tier, self.offer.capability.priority == "low")


def _order(one: _Rated) -> tuple[bool, int, bool, float, float, float, bytes]:
    """Sorts best first; an open breaker comes after everything else, ties are broken by use, then by lot."""
    busy = one.load / max(1, one.offer.capability.concurrency)
    return (*one.group, one.worth_s, busy, one.lot, one.offer.node)


def decide(
    request: RouteRequest,
    offers: Offers,
    scores: Scores | None,
    table: NodeTable,
    now: float,
    known: Known = MappingProxyType({}),
    config: PolicyConfig = _DEFAULTS,
    *,
    explain: bool = True,
) -> Decision:
    """Decides who runs `request`.

    Args:
        request: The operation, the model asked for, constraints and a random draw.
        offers: Every capability of every live node, this machine's too.
        scores: Similarity of the request with what the capabilities do, None where it has no words.
        table: Outcomes that this node observed.
        now: Monotonic seconds.
        known: Models that exist somewhere though nobody offers them now: they are unavailable, not unknown; with the
            kind of those that cannot run.
        config: Numbers of the decision.
        explain: Whether those are told, too, that played no part, which takes longer the more there are. Who is chosen
            and who stands in is the same.
    """
    choice = choose_model(request, offers, scores, known, config.threshold)
    if isinstance(choice, Failure):
        return _refuse(request, choice, offers, scores, config)
    moment = _Moment(offers, table, now, config)
    ranked = _rank(_panel(choice, moment, Random(request.draw)), config)
    most_s = request.constraints.max_finish_s
    if most_s is not None:
        soon = [one for one in ranked if one.finish_s <= most_s]
        if not soon:
            return _refuse(request, _too_slow(min(one.finish_s for one in ranked), most_s), offers, scores, config)
        ranked = soon
    chosen, fallbacks = ranked[0], ranked[1 : 1 + config.fallbacks]
    why = _why_chosen(chosen, ranked[1:])
    if explain:
        ranked += _rest(choice, moment, ranked)
    candidates = _explain(ranked, why, scores, config)
    room = config.candidates_shown - len(candidates) if explain else 0
    others = _others(request, choice, offers, scores, room)
    able = len(offers.doing(request.operation))
    return Decision(
        request,
        choice.rule,
        f"{choice.reason}; {why}",
        chosen=chosen.offer,
        fallbacks=tuple(rated.offer for rated in fallbacks),
        candidates=(*candidates, *others),
        omitted=able - len(candidates) - len(others),
    )


def _too_slow(soonest_s: float, most_s: float) -> Failure:
    message = (
        f"No node is expected to finish within {_time(most_s)}, the soonest takes about {_time(soonest_s)}: "
        "allow more time, or add a faster node."
    )
    return Failure(503, message, "constraints_not_met", "atmosphere.max_latency_ms", kind="api_error")


def _refuse(
    request: RouteRequest, failure: Failure, offers: Offers, scores: Scores | None, config: PolicyConfig
) -> Decision:
    looked_at = offers.doing(request.operation).offers
    refused = [
        Candidate(
            offer,
            rules.RULED_OUT,
            ruled_out(offer, request) or "not what the request names",
            _similarity(offer, scores),
        )
        for offer in map(offers.fresh, looked_at[: config.candidates_shown])
    ]
    return Decision(
        request,
        rules.RULE_NONE,
        failure.message,
        candidates=tuple(refused),
        omitted=len(looked_at) - len(refused),
        failure=failure,
    )


@dataclass(frozen=True, slots=True)
class _Moment:
    """What a decision goes by."""

    offers: Offers
    table: NodeTable
    now: float
    config: PolicyConfig

    def seen(self, offer: Offer) -> Seen:
        return self.table.seen(offer.node, offer.capability.id, self.now)


def _panel(choice: Choice, moment: _Moment, rng: Random) -> list[_Rated]:
    """Returns this machine and as many others, drawn at random, as are compared and stand in."""
    panel: list[_Rated] = []
    lacking = max(moment.config.choices, 1 + moment.config.fallbacks)
    for number, tier in enumerate(choice.tiers):
        looked_at = [(offer, moment.seen(offer)) for offer in tier.here]
        drawn = _drawn(rng, tier.away)
        while lacking and (offer := next(drawn, None)) is not None:
            seen = moment.seen(offer)
            looked_at.append((offer, seen))
            lacking -= seen.breaker != OPEN
        panel += _rate(number, looked_at, moment, rng)
    return panel


def _drawn(rng: Random, offers: Sequence[Offer]) -> Iterator[Offer]:
    """Yields all of `offers` in random order; who takes few of many pays for few."""
    count, moved = len(offers), dict[int, int]()
    for at in range(count):
        picked = at + int(rng.random() * (count - at))
        yield offers[moved.get(picked, picked)]
        moved[picked] = moved.get(at, at)


def _rate(
    tier: int, looked_at: Sequence[tuple[Offer, Seen]], moment: _Moment, rng: Random | None = None
) -> list[_Rated]:
    observed = [seen.service_s for _, seen in looked_at if seen.service_s is not None]
    of_these = sum(observed) / len(observed) if observed else None
    rated = []
    for lasting, seen in looked_at:
        offer, config = moment.offers.fresh(lasting), moment.config
        capability = offer.capability
        prior = moment.table.usual_s(capability.id)
        if prior is None:
            prior = SERVICE_PRIOR_S.get(capability.operation, 1.0) if of_these is None else of_these
        service = prior
        if seen.service_s is not None:
            service += (seen.service_s - prior) * 0.5 ** (seen.age_s / config.forget_s)
        load = max(offer.load, seen.in_flight)
        rtt = 0.0 if offer.local else config.unknown_rtt_s if offer.rtt_s is None else offer.rtt_s
        doubt = 1 if seen.breaker == HALF_OPEN else 1 + seen.failures
        finish = rtt + queue_factor(load, capability.concurrency) * service * doubt
        lot = rng.expovariate(max(1, capability.concurrency)) if rng else 0.0
        worth = finish / config.priority_factor if capability.priority == "high" else finish
        rated.append(_Rated(offer, tier, seen, load, service, finish, lot, worth))
    return rated


def _rank(panel: list[_Rated], config: PolicyConfig) -> list[_Rated]:
    """Returns all of the panel, the chosen one first, then those that were compared with it, then the rest."""
    group = min(one.group for one in panel)
    here = [one for one in panel if one.group == group and one.offer.local]
    away = [one for one in panel if one.group == group and not one.offer.local][: config.choices]
    compared = sorted(here + away, key=_order)
    best, own = compared[0], min(here, key=_order, default=None)
    if own is not None and own is not best and _near(own, best, config):
        compared.remove(own)
        compared.insert(0, own)
    first = {id(one) for one in compared}
    return compared + sorted((one for one in panel if id(one) not in first), key=_order)


def _rest(choice: Choice, moment: _Moment, panel: Sequence[_Rated]) -> list[_Rated]:
    """Returns all that were not drawn, best first."""
    drawn = {_name(one.offer) for one in panel}
    rated: list[_Rated] = []
    for number, tier in enumerate(choice.tiers):
        rest = [offer for offer in tier if _name(offer) not in drawn]
        rated += _rate(number, [(offer, moment.seen(offer)) for offer in rest], moment)
    return sorted(rated, key=_order)


def _name(offer: Offer) -> tuple[NodeId, str]:
    return offer.node, offer.capability.id


def _near(here: _Rated, best: _Rated, config: PolicyConfig) -> bool:
    return here.worth_s <= best.worth_s * config.near_factor + config.near_s


def _explain(ranked: Sequence[_Rated], why: str, scores: Scores | None, config: PolicyConfig) -> list[Candidate]:
    best = ranked[0]
    candidates = []
    for place, one in enumerate(ranked[: config.candidates_shown]):
        if place == 0:
            verdict, reason = rules.CHOSEN, why
        else:
            verdict = rules.FALLBACK if place <= config.fallbacks else rules.PASSED
            reason = _why_not(one, best)
        candidates.append(
            Candidate(
                one.offer,
                verdict,
                reason,
                _similarity(one.offer, scores),
                one.load,
                one.service_s,
                one.finish_s,
                one.seen.failures,
                one.seen.breaker,
            )
        )
    return candidates


def _why_chosen(best: _Rated, others: Sequence[_Rated]) -> str:
    where = "this machine" if best.offer.local else best.offer.node_name
    if best.seen.deferred_s:
        return f"{where} asked to wait for {_time(best.seen.deferred_s)}, but nobody else is left"
    if best.seen.breaker == OPEN:
        return f"{where} failed {best.seen.failures} times in a row, but nobody else is left"
    if best.seen.breaker == HALF_OPEN:
        return f"{where} is on trial after {best.seen.failures} failures in a row"
    rivals = [one for one in others if one.group == best.group]
    if not rivals:
        return f"{where} is the only node that can run it now"
    if best.offer.local and any(one.worth_s < best.worth_s for one in rivals):
        return f"this machine finishes in about {_time(best.finish_s)}, and nobody is much faster"
    if best.offer.capability.priority == "high" and any(one.finish_s < best.finish_s for one in rivals):
        return f"{where} has high priority and finishes in about {_time(best.finish_s)}"
    return f"{where} finishes first, in about {_time(best.finish_s)}"


def _why_not(one: _Rated, best: _Rated) -> str:
    if one.seen.deferred_s:
        return f"takes no more for {_time(one.seen.deferred_s)}, as it said"
    if one.seen.breaker == OPEN:
        return f"failed {one.seen.failures} times in a row, asked again after a pause"
    if one.tier != best.tier:
        return "stands in when the better model cannot"
    if one.offer.capability.priority == "low" != best.offer.capability.priority:
        return "has low priority: it stands in only"
    if one.finish_s < best.finish_s and best.offer.capability.priority == "high":
        return "has no such priority as the chosen one"
    if one.finish_s < best.finish_s:
        return (
            "hardly faster than this machine"
            if best.offer.local
            else "not among the nodes drawn for comparison this time"
        )
    return f"would finish in about {_time(one.finish_s)}, the chosen one in {_time(best.finish_s)}"


def _others(request: RouteRequest, choice: Choice, offers: Offers, scores: Scores | None, room: int) -> list[Candidate]:
    others: list[Candidate] = []
    if room <= 0:
        return others
    taken = {_name(offer) for tier in choice.tiers for offer in tier}
    for lasting in offers.doing(request.operation).offers:
        if len(others) >= room:
            break
        if _name(lasting) not in taken:
            offer = offers.fresh(lasting)
            reason = ruled_out(offer, request) or choice.why_not(offer)
            others.append(Candidate(offer, rules.RULED_OUT, reason, _similarity(offer, scores), offer.load))
    return others


def _similarity(offer: Offer, scores: Scores | None) -> float | None:
    return None if scores is None else scores.get(key_of(offer.capability))


def _time(seconds: float) -> str:
    return f"{seconds * 1_000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"
