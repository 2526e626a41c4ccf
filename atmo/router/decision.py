"""What the router decided, with every candidate and its reason: the dry run shows it, the execution follows it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from atmo.errors import RequestError
from atmo.router.names import is_auto
from atmo.router.offer import Offer

RULE_MODEL = "model"
"""The request named the model."""
RULE_ONLY = "only"
"""One model of the mesh does this operation."""
RULE_MEANING = "meaning"
"""A specialist is near enough to what the request says."""
RULE_GENERAL = "general"
"""No specialist is near, a general model takes it."""
RULE_NEAREST = "nearest"
"""No specialist is near and there is no general model: the nearest specialist takes it."""
RULE_DEFAULT = "default"
"""The operation needs no meaning: the same model each time, this machine's first."""
RULE_NONE = "none"
"""Nothing can do it."""

CHOSEN = "chosen"
FALLBACK = "fallback"
PASSED = "passed over"
RULED_OUT = "ruled out"


@dataclass(frozen=True, slots=True)
class Constraints:
    """What the request asks of whoever runs it.

    Attributes:
        local_only: Only this machine.
        general_only: Only models that take any prompt. A specialist that asks for help says so, or it may find itself.
        max_rtt_s: Nodes farther than this are ruled out; None for any.
        max_cost_per_1k: Dearer offers are ruled out, US dollars for a thousand tokens; None for any.
        max_finish_s: Nodes that are expected to take longer are ruled out; None for any.
        min_size_b: Models with fewer parameters, or of unknown size, are ruled out; billions.
        residency: Only nodes that promise that data stays there, such as `US`; empty for any.
        gpu_only: Models that are known to run on a CPU are ruled out.
        models: Patterns (`fnmatch`) of the models that whoever asks may use; empty for all.
    """

    local_only: bool = False
    general_only: bool = False
    max_rtt_s: float | None = None
    max_cost_per_1k: float | None = None
    max_finish_s: float | None = None
    min_size_b: float = 0.0
    residency: str = ""
    gpu_only: bool = False
    models: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RouteRequest:
    """What a decision needs to know of a request.

    Attributes:
        operation: One of `capability.OPERATIONS`.
        model: What the client asked for; empty or `auto` leaves it to the router.
        constraints: What it asks of whoever runs it.
        draw: A random number; it picks the nodes that are compared, so that many gateways do not choose alike.
        needs: Features that the model must have, of `capability.FEATURES`.
    """

    operation: str
    model: str = ""
    constraints: Constraints = Constraints()
    draw: int = 0
    needs: frozenset[str] = frozenset()

    @property
    def auto(self) -> bool:
        """Whether the choice of the model is the router's."""
        return is_auto(self.model)


@dataclass(frozen=True, slots=True)
class Failure:
    """Why nothing was chosen, in the terms of OpenAI's API."""

    status: int
    message: str
    code: str
    param: str | None = None
    kind: str = "invalid_request_error"

    def error(self) -> RequestError:
        """Returns the error that a client gets."""
        return RequestError(self.status, self.message, kind=self.kind, code=self.code, param=self.param)


@dataclass(frozen=True, slots=True)
class Candidate:
    """One offer that was looked at.

    Attributes:
        offer: What and where.
        verdict: `chosen`, `fallback`, `passed over` or `ruled out`.
        reason: One sentence.
        similarity: Cosine of the request and the nearest of the capability's texts; None where meaning played no part.
        load: Requests on the node as far as we know, ours included.
        service_s: Expected time of one request on the idle node.
        finish_s: Expected seconds until this request would be answered.
        failures: Failures in a row that we saw.
        breaker: State of its circuit breaker.
    """

    offer: Offer
    verdict: str
    reason: str
    similarity: float | None = None
    load: int = 0
    service_s: float | None = None
    finish_s: float | None = None
    failures: int = 0
    breaker: str = "closed"

    def to_json(self) -> dict[str, Any]:
        """Returns the row of the dry run."""
        capability = self.offer.capability
        return {
            "node": str(self.offer.node),
            "node_name": self.offer.node_name,
            "capability": capability.id,
            "model": capability.model,
            "version": capability.version,
            "backend": capability.backend,
            "general": capability.general,
            "path": self.offer.path,
            "local": self.offer.local,
            "verdict": self.verdict,
            "reason": self.reason,
            "similarity": None if self.similarity is None else round(self.similarity, 4),
            "rtt_ms": _ms(self.offer.rtt_s),
            "load": self.load,
            "concurrency": capability.concurrency,
            "service_ms": _ms(self.service_s),
            "finish_ms": _ms(self.finish_s),
            "cost_per_1k": capability.cost_per_1k,
            "failures": self.failures,
            "breaker": self.breaker,
        }


@dataclass(frozen=True, slots=True)
class Decision:
    """Who runs a request, who would run it next, and why.

    Attributes:
        request: What was asked.
        rule: Which rule chose the model, one of the `RULE_` constants.
        reason: One sentence: why this model on this node.
        chosen: Who runs it, None when nobody can.
        fallbacks: Who is asked next when the one before fails, best first.
        candidates: Every offer that was looked at, the chosen one first; bounded.
        omitted: How many more there were.
        failure: Why nobody can.
    """

    request: RouteRequest
    rule: str
    reason: str
    chosen: Offer | None = None
    fallbacks: tuple[Offer, ...] = ()
    candidates: tuple[Candidate, ...] = field(default=(), repr=False)
    omitted: int = 0
    failure: Failure | None = None

    def to_json(self) -> dict[str, Any]:
        """Returns the answer of `/v1/mesh/route`."""
        body: dict[str, Any] = {
            "object": "route",
            "operation": self.request.operation,
            "requested_model": self.request.model or "auto",
            "rule": self.rule,
            "reason": self.reason,
            "model": self.chosen.capability.model if self.chosen else None,
            "chosen": _brief(self.chosen) if self.chosen else None,
            "fallbacks": [_brief(offer) for offer in self.fallbacks],
            "candidates": [candidate.to_json() for candidate in self.candidates],
            "omitted": self.omitted,
        }
        if self.failure is not None:
            body["error"] = self.failure.error().body()["error"]
            body["status"] = self.failure.status
        return body


def _brief(offer: Offer) -> dict[str, Any]:
    return {
        "node": str(offer.node),
        "node_name": offer.node_name,
        "capability": offer.capability.id,
        "model": offer.capability.model,
        "version": offer.capability.version,
        "path": offer.path,
        "local": offer.local,
    }


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1_000, 2)
