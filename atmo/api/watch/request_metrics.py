"""Counters and histograms of requests, fed with one account for each.

Labels are bounded: models, whose names come from other nodes and from clients, may take so many series and no more.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram

from atmo.api.account import ABANDONED, ANSWERED, FAILED, REFUSED, Account
from atmo.router.capability import OPERATIONS

MAX_MODELS = 100
"""Models with series of their own; those beyond are counted as `other`. Source: guess; a model takes some 60 series."""

OTHER = "other"
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "WEBSOCKET"})
OUTCOMES = frozenset({ANSWERED, FAILED, REFUSED, ABANDONED})
PATHS = frozenset({"local", "lan", "direct", "punched", "relay", "forward"})
"""Kinds of paths that are told apart."""

DURATIONS_S = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
"""Upper bounds of buckets, from the overhead of this node to the longest answer that is waited for."""

WAITS_S = (0.001, 0.005, 0.025, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
"""The same for waiting, of which most requests know nothing."""


@dataclass(frozen=True, slots=True)
class _Series:
    """What one operation on one model is counted in: looked up once, as looking up costs more than counting."""

    duration: Any
    first_byte: Any
    queue: Any
    tokens_in: Any
    tokens_out: Any
    cost: Any


class RequestMetrics:
    """The metrics of requests.

    Args:
        registry: Shows them.
        max_models: Models that have series of their own.
    """

    def __init__(self, registry: CollectorRegistry, max_models: int = MAX_MODELS) -> None:
        self._max_models = max_models
        self._models: set[str] = set()
        self._series: dict[tuple[str, str], _Series] = {}
        self._outcomes: dict[tuple[str, str, str], Any] = {}
        self._answers: dict[tuple[str, int], Any] = {}
        self._ways: dict[str, Any] = {}
        own: dict[str, Any] = {"registry": registry}
        kind = ("operation", "model")
        self._requests = Counter("atmo_requests", "Requests for a model.", (*kind, "outcome"), **own)
        self._http = Counter("atmo_http_requests", "HTTP requests of any kind.", ("method", "code"), **own)
        self._paths = Counter("atmo_requests_by_path", "Requests by the path to who ran them.", ("path",), **own)
        self._tokens = Counter("atmo_tokens", "Tokens, as backends tell.", ("direction", *kind), **own)
        self._cost = Counter("atmo_cost_dollars", "Cost in US dollars, as nodes tell.", kind, **own)
        own["buckets"] = DURATIONS_S
        self._duration = Histogram("atmo_request_duration_seconds", "From request to end of answer.", kind, **own)
        self._first = Histogram("atmo_time_to_first_byte_seconds", "From request to first byte.", kind, **own)
        own["buckets"] = WAITS_S
        self._queue = Histogram("atmo_queue_seconds", "Waiting for a turn where the request ran.", kind, **own)

    def observe(self, account: Account) -> None:
        """Counts one request that has ended."""
        answer = account.method, account.status
        count = self._answers.get(answer)
        if count is None:
            count = self._answer(*answer)
        count.inc()
        if not account.operation:
            return
        operation = account.operation if account.operation in OPERATIONS else OTHER
        model = self._model(account)
        outcome = account.outcome if account.outcome in OUTCOMES else OTHER
        counted = self._outcomes.get((operation, model, outcome))
        if counted is None:
            counted = self._outcomes[operation, model, outcome] = self._requests.labels(operation, model, outcome)
        counted.inc()
        series = self._series.get((operation, model)) or self._bound(operation, model)
        series.duration.observe(account.duration_s)
        if not account.node:
            return
        if account.first_byte_s is not None:
            series.first_byte.observe(account.first_byte_s)
        series.queue.observe(account.queue_s)
        series.tokens_in.inc(account.prompt_tokens)
        series.tokens_out.inc(account.completion_tokens)
        series.cost.inc(account.cost)
        self._way(account.mesh_path).inc()

    def _model(self, account: Account) -> str:
        """Returns the label of a model; only one that really ran takes a place among those that are told apart."""
        model = account.model
        if model in self._models:
            return model
        if not account.node or len(self._models) >= self._max_models:
            return OTHER
        self._models.add(model)
        return model

    def _answer(self, method: str, status: int) -> Any:
        method = method if method in METHODS else OTHER
        code = status if 100 <= status < 600 else 0
        child = self._answers.get((method, code))
        if child is None:
            child = self._answers[method, code] = self._http.labels(method, str(code))
        return child

    def _bound(self, operation: str, model: str) -> _Series:
        series = self._series[operation, model] = _Series(
            self._duration.labels(operation, model),
            self._first.labels(operation, model),
            self._queue.labels(operation, model),
            self._tokens.labels("input", operation, model),
            self._tokens.labels("output", operation, model),
            self._cost.labels(operation, model),
        )
        return series

    def _way(self, path: str) -> Any:
        path = path if path in PATHS else OTHER
        child = self._ways.get(path)
        if child is None:
            child = self._ways[path] = self._paths.labels(path)
        return child
