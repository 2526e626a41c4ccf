"""What is known of one HTTP request: whoever watches requests is told of it when the request has ended."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass, field

import trio
from starlette.types import Scope

from atmo.backends.via import HEADER, came_by_untrusted
from atmo.gateway.asking import Asking
from atmo.gateway.execution import Execution
from atmo.gateway.tracing import traceparent_untrusted

_SCOPE_KEY = "atmo.account"
_ID_BYTES = 12
_VIA = HEADER.encode()
MAX_TOKENS = 10**9
"""Of one request; who tells of more is not believed. Source: guess, a thousand times the longest context."""

ANSWERED, FAILED, REFUSED, ABANDONED = "answered", "failed", "refused", "abandoned"
"""Outcomes: a status below 400; an answer that broke off, or 500 and more; another status; the client left."""


@dataclass(slots=True)
class Account:
    """One request; filled in as it goes. It never holds words of a prompt, an answer or a key.

    Attributes:
        method: Of HTTP, or `WEBSOCKET`.
        path: Without the query.
        address: Of the client, empty where it is not known.
        request_id: The same in logs here and on the node that runs it.
        started: Seconds on trio's clock.
        key: Name of the key that was shown, empty without.
        key_id: Its id.
        models: Patterns of the models that it may use; empty for all.
        stranger: A key is needed here, and this request needs none and has shown none.
        trace: W3C `traceparent` of what the request is a part of, empty for none.
        operation: What was asked for, empty where it is none of the router's operations.
        model: What answers.
        node: Name of the machine that does.
        mesh_path: Kind of path to it: `local`, `direct`, `relay`.
        rule: Of the router.
        attempts: Nodes that were asked.
        queue_s: How long it waited for its turn there.
        first_byte_s: From the start until the answer began; None before.
        status: Of HTTP; 0 before.
        prompt_tokens, completion_tokens: As the backend counts them.
        cost: US dollars.
        outcome: One of the constants of this module; empty while it runs.
        error: OpenAI's `code` of the error, or its type.
        duration_s: From the start until the end.
    """

    method: str = ""
    path: str = ""
    address: str = ""
    request_id: str = field(default_factory=lambda: secrets.token_hex(_ID_BYTES))
    started: float = field(default_factory=trio.current_time)
    key: str = ""
    key_id: str = ""
    models: tuple[str, ...] = ()
    stranger: bool = False
    trace: str = ""
    operation: str = ""
    model: str = ""
    node: str = ""
    mesh_path: str = ""
    rule: str = ""
    attempts: int = 0
    queue_s: float = 0.0
    first_byte_s: float | None = None
    status: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0
    outcome: str = ""
    error: str = ""
    duration_s: float = 0.0

    def asking(self, stream: bool = False) -> Asking:
        """Returns how the gateway is to run the request."""
        return Asking(stream, self.request_id, self.models, self.trace)

    def note(self, execution: Execution) -> None:
        """Takes who answers, when the answer begins; and what it cost, when it has ended."""
        capability = execution.offer.capability
        self.model, self.node, self.mesh_path = capability.model, execution.offer.node_name, execution.path
        self.rule, self.attempts = execution.decision.rule, len(execution.tried) + 1
        self.queue_s = execution.head.queue_s
        usage = execution.usage
        if usage is not None:
            self.prompt_tokens = _count(usage.get("prompt_tokens", usage.get("input_tokens")))
            self.completion_tokens = _count(usage.get("completion_tokens", usage.get("output_tokens")))
            self.cost = (self.prompt_tokens + self.completion_tokens) / 1_000 * capability.cost_per_1k

    def end(self, outcome: str) -> None:
        """Notes that the request has ended; the first word counts."""
        if not self.outcome:
            self.outcome = outcome
            self.duration_s = trio.current_time() - self.started


Observer = Callable[[Account], None]
"""Told of each request when it has ended; it must not fail or wait."""


def account_of(scope: Scope) -> Account:
    """Returns the account of a request; a new one where nobody opened one."""
    account = scope.get(_SCOPE_KEY)
    if not isinstance(account, Account):
        account = scope[_SCOPE_KEY] = open_account(scope)
    return account


def outcome_of(account: Account) -> str:
    """Returns how a request ended whose answer was sent to its end."""
    if account.status >= 500 or (account.status < 400 and account.error):
        return FAILED
    return ANSWERED if account.status < 400 else REFUSED


def open_account(scope: Scope) -> Account:
    """Returns the account of a request that has just come."""
    client = scope.get("client")
    method = "WEBSOCKET" if scope["type"] == "websocket" else scope.get("method", "")
    account = Account(method, scope.get("path", ""), str(client[0]) if client else "")
    via = ""
    for name, value in scope.get("headers", ()):
        if name == b"traceparent":
            account.trace = traceparent_untrusted(value.decode("latin-1"))
        elif name == _VIA:
            via = value.decode("latin-1")
    came_by_untrusted(via.split())
    return account


def _count(value: object) -> int:
    return value if type(value) is int and 0 <= value <= MAX_TOKENS else 0
