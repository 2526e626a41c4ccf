"""The routing decision: a pure function of the request, the offers, what they mean, what was observed, and the time.

First the model (`router.choice`), then the node: the shortest expected finish time among this machine and three others
drawn at random. Comparing all would send every gateway to the same node (the greedy minimum herds); of ten unequal
nodes with gossip a second old, three choices by finish time came within a factor of two of an oracle at p99.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from statistics import fmean
from types import MappingProxyType

from atmo.router import decision as rules
from atmo.router.capability import ANOMALY, CHAT, CLASSIFY, EMBEDDINGS
from atmo.router.choice import THRESHOLD, Choice, Known, Scores, choose_model, ruled_out
from atmo.router.decision import Candidate, Decision, Failure, RouteRequest
from atmo.router.offer import Offer
from atmo.router.semantic import key_of
from atmo.router.table import HALF_OPEN, OPEN, NodeTable, Seen, queue_factor


@dataclass(frozen=True, slots=True)
class PolicyConfig:
    """Numbers of the decision.

    Attributes:
        threshold: Similarity from which a specialist wins. Source: see `choice.THRESHOLD`.
        choices: Remote nodes that are compared. Source: measured, three choices against two and all.
        fallbacks: Who else may be asked when the chosen node fails.
        candidates_shown: Candidates that a decision keeps.
        unknown_rtt_s: Taken for a link whose round-trip time is not known yet. Source: guess.
        near_factor: This machine wins unless another finishes this many times earlier, and
        near_s: this many seconds earlier. Source: guess; sending a request away costs both ends work.
        forget_s: Half-life of an observed service time, so that a node that was slow is tried again. Source: guess.
    """

    threshold: float = THRESHOLD
    choices: int = 3
    fallbacks: int = 4
    candidates_shown: int = 64
    unknown_rtt_s: float = 0.05
    near_factor: float = 1.25
    near_s: float = 0.005
    forget_s: float = 60.0


SERVICE_PRIOR_S = {CHAT: 3.0, EMBEDDINGS: 0.02, CLASSIFY: 0.01, ANOMALY: 0.01}
"""Expected time of a request before anything was observed, in seconds. Source: guess."""

_DEFAULTS = PolicyConfig()


@dataclass(frozen=True, slots=True)
class _Rated:
    offer: Offer
    tier: int
    seen: Seen
    load: int
    service_s: float
    finish_s: float

    @property
    def order(self) -> tuple[bool, int, float, float, bytes]:
        """Sorts best first; an open breaker comes after everything else, ties are broken by use, then by id."""
        busy = self.load / max(1, self.offer.capability.concurrency)
        return (
            self.seen.breaker == OPEN,
            self.tier,
            self.finish_s,
            busy,
            self.offer.node,
        )

    @property
    def group(self) -> tuple[bool, int]:
        return (self.seen.breaker == OPEN, self.tier)


def decide(
    request: RouteRequest,
    offers: Sequence[Offer],
    scores: Scores | None,
    table: NodeTable,
    now: float,
    known: Known = MappingProxyType({}),
    config: PolicyConfig = _DEFAULTS,
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
    """
    choice = choose_model(request, offers, scores, known, config.threshold)
    if isinstance(choice, Failure):
        return _refuse(request, choice, offers, scores, config)
    ranked = _rank(request, _rate(choice, table, now, config), config)
    chosen, fallbacks = ranked[0], ranked[1 : 1 + config.fallbacks]
    candidates = _explain(request, choice, ranked, scores, config)
    others = _others(request, choice, offers, scores, max(0, config.candidates_shown - len(candidates)))
    able = sum(offer.capability.operation == request.operation for offer in offers)
    return Decision(
        request,
        choice.rule,
        f"{choice.reason}; {candidates[0].reason}",
        chosen=chosen.offer,
        fallbacks=tuple(rated.offer for rated in fallbacks),
        candidates=(*candidates, *others),
        omitted=able - len(candidates) - len(others),
    )


def _refuse(
    request: RouteRequest, failure: Failure, offers: Sequence[Offer], scores: Scores | None, config: PolicyConfig
) -> Decision:
    looked_at = [offer for offer in offers if offer.capability.operation == request.operation]
    refused = [
        Candidate(
            offer,
            rules.RULED_OUT,
            ruled_out(offer, request.constraints) or "not what the request names",
            _similarity(offer, scores),
        )
        for offer in looked_at[: config.candidates_shown]
    ]
    return Decision(
        request,
        rules.RULE_NONE,
        failure.message,
        candidates=tuple(refused),
        omitted=len(looked_at) - len(refused),
        failure=failure,
    )


def _rate(choice: Choice, table: NodeTable, now: float, config: PolicyConfig) -> list[_Rated]:
    rated = []
    for tier, offers in enumerate(choice.tiers):
        seen = [table.seen(offer.node, offer.capability.id, now) for offer in offers]
        observed = [one.service_s for one in seen if one.service_s is not None]
        for offer, one in zip(offers, seen, strict=True):
            prior = fmean(observed) if observed else SERVICE_PRIOR_S.get(offer.capability.operation, 1.0)
            service = prior
            if one.service_s is not None:
                service += (one.service_s - prior) * 0.5 ** (one.age_s / config.forget_s)
            load = max(offer.load, one.in_flight)
            rtt = 0.0 if offer.local else config.unknown_rtt_s if offer.rtt_s is None else offer.rtt_s
            doubt = 1 if one.breaker == HALF_OPEN else 1 + one.failures
            finish = rtt + queue_factor(load, offer.capability.concurrency) * service * doubt
            rated.append(_Rated(offer, tier, one, load, service, finish))
    return rated


def _rank(request: RouteRequest, rated: list[_Rated], config: PolicyConfig) -> list[_Rated]:
    """Returns all of `rated`, the chosen one first, then those that were compared with it, then the rest."""
    rated.sort(key=lambda one: one.order)
    group = [one for one in rated if one.group == rated[0].group]
    here = [one for one in group if one.offer.local]
    away = [one for one in group if not one.offer.local]
    if len(away) > config.choices:
        drawn = sorted(Random(request.draw).sample(range(len(away)), config.choices))
        away = [away[index] for index in drawn]
    compared = sorted(here + away, key=lambda one: one.order)
    best = compared[0]
    if here and here[0] is not best and _near(here[0], best, config):
        compared.remove(here[0])
        compared.insert(0, here[0])
    first = {id(one) for one in compared}
    return compared + [one for one in rated if id(one) not in first]


def _near(here: _Rated, best: _Rated, config: PolicyConfig) -> bool:
    return here.finish_s <= best.finish_s * config.near_factor + config.near_s


def _explain(
    request: RouteRequest, choice: Choice, ranked: Sequence[_Rated], scores: Scores | None, config: PolicyConfig
) -> list[Candidate]:
    best = ranked[0]
    candidates = []
    for place, one in enumerate(ranked[: config.candidates_shown]):
        if place == 0:
            verdict, reason = rules.CHOSEN, _why_chosen(best, ranked)
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


def _why_chosen(best: _Rated, ranked: Sequence[_Rated]) -> str:
    where = "this machine" if best.offer.local else best.offer.node_name
    if best.seen.breaker == OPEN:
        return f"{where} failed {best.seen.failures} times in a row, but nobody else is left"
    if best.seen.breaker == HALF_OPEN:
        return f"{where} is on trial after {best.seen.failures} failures in a row"
    rivals = [one for one in ranked[1:] if one.group == best.group]
    if not rivals:
        return f"{where} is the only node that can run it now"
    if best.offer.local and any(one.finish_s < best.finish_s for one in rivals):
        return f"this machine finishes in about {_time(best.finish_s)}, and nobody is much faster"
    return f"{where} finishes first, in about {_time(best.finish_s)}"


def _why_not(one: _Rated, best: _Rated) -> str:
    if one.seen.breaker == OPEN:
        return f"failed {one.seen.failures} times in a row, asked again after a pause"
    if one.tier != best.tier:
        return "stands in when the better model cannot"
    if one.finish_s < best.finish_s:
        return (
            "hardly faster than this machine"
            if best.offer.local
            else "not among the nodes drawn for comparison this time"
        )
    return f"would finish in about {_time(one.finish_s)}, the chosen one in {_time(best.finish_s)}"


def _others(
    request: RouteRequest, choice: Choice, offers: Sequence[Offer], scores: Scores | None, room: int
) -> list[Candidate]:
    taken = {id(offer) for tier in choice.tiers for offer in tier}
    others: list[Candidate] = []
    for offer in offers:
        if len(others) >= room:
            break
        if offer.capability.operation == request.operation and id(offer) not in taken:
            reason = ruled_out(offer, request.constraints) or choice.why_not(offer)
            others.append(Candidate(offer, rules.RULED_OUT, reason, _similarity(offer, scores), offer.load))
    return others


def _similarity(offer: Offer, scores: Scores | None) -> float | None:
    return None if scores is None else scores.get(key_of(offer.capability))


def _time(seconds: float) -> str:
    return f"{seconds * 1_000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"
