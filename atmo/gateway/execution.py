"""One request that is being answered: its parts, and what the router's table learns from how it went."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import trio

from atmo.backends.base import Encoded, Head, Part
from atmo.errors import RemoteError, RequestError, leaf_error
from atmo.gateway.serving import internal_error
from atmo.router.decision import Decision
from atmo.router.offer import Offer
from atmo.router.table import NodeTable, Ticket

NOT_RETRIED = frozenset({400, 413, 415, 422})
"""Statuses that are the request's own fault, where this machine says so; from another node they prove nothing."""

_ODD = "bad_answer"

log = logging.getLogger(__name__)


class Attempt:
    """A request on one node: counts in the table until it ended, whichever way.

    Args:
        table: Where the outcome goes.
        ticket: From `table.begin`.
        offer: Who runs it.
        deadline: When the answer must be complete, on trio's clock.
        stream: Whether several parts are expected.

    Attributes:
        head: What whoever runs it told when the work began.
    """

    def __init__(self, table: NodeTable, ticket: Ticket, offer: Offer, deadline: float, stream: bool) -> None:
        self._table = table
        self._ticket: Ticket | None = ticket
        self._deadline = deadline
        self._stream = stream
        self._count = 0
        self.offer = offer
        self.source: AsyncIterator[Part] | None = None
        self.head = Head()

    def begun(self, head: Head) -> None:
        """Notes that the work began."""
        self.head = head

    async def next(self) -> Part | None:
        """Returns the next part, None after the last.

        Raises:
            RequestError: The backend or the node failed, in words for the client.
        """
        assert self.source is not None
        try:
            with trio.CancelScope(deadline=self._deadline) as scope:
                part = await anext(self.source, None)
            if scope.cancelled_caught:
                raise trio.TooSlowError
        except Exception as error:
            raise self.failed(error) from error
        if part is None and not self._count:
            raise self.failed(_odd(self.offer, "an empty answer"))
        if part is not None and self._count and not self._stream:
            raise self.failed(_odd(self.offer, "several answers to one request"))
        self._count += 1
        if part is None:
            self._done(lambda ticket: self._table.end(ticket, trio.current_time()))
        return part

    def failed(self, error: Exception) -> RequestError:
        """Notes the failure; returns it in the terms of the client."""
        told = told_as(leaf_error(error), self.offer)
        if final(self.offer, told):
            self.cancel()
        elif told.status == 429 and told.retry_s:
            self._done(lambda ticket: self._table.defer(ticket, trio.current_time(), told.retry_s))
        else:
            self._done(lambda ticket: self._table.fail(ticket, trio.current_time()))
        return told

    def cancel(self) -> None:
        """Notes that nobody wants the answer any more; does nothing when the attempt has ended."""
        self._done(self._table.cancel)

    def _done(self, note: Callable[[Ticket], None]) -> None:
        ticket, self._ticket = self._ticket, None
        if ticket is not None:
            note(ticket)


def final(offer: Offer, error: RequestError) -> bool:
    """Says whether no other node needs to be asked after `offer` failed with `error`."""
    return offer.local and error.status in NOT_RETRIED


def told_as(error: BaseException, offer: Offer) -> RequestError:
    """Returns why `offer` failed in the terms of the client; what nobody foresaw goes into the log."""
    name, model = offer.node_name, offer.capability.model
    if isinstance(error, RequestError):
        if offer.local or error.status in NOT_RETRIED or error.code == _ODD:
            return error
        message = f"{name}: {error.message}"
        return RequestError(
            error.status, message, kind=error.kind, code=error.code, param=error.param, retry_s=error.retry_s
        )
    if isinstance(error, RemoteError):
        message = f"{name} failed while it ran {model}: {error}. Send the request again."
        return RequestError(502, message, kind="api_error", code="node_failed")
    if isinstance(error, trio.TooSlowError):
        message = f"{model} on {name} did not answer in time. Ask for less, or try another model."
        return RequestError(504, message, kind="api_error", code="timeout")
    log.error("%s failed on this machine", offer.capability.id, exc_info=error)
    return internal_error(offer.capability)


@dataclass(frozen=True, slots=True)
class Tried:
    """A node that was asked before the one that answers, and why it did not."""

    offer: Offer
    error: RequestError


def last_error(tried: Sequence[Tried]) -> RequestError:
    """Returns the error of a request that everybody failed: the last one's, naming the others."""
    last = tried[-1].error
    agreed = last.status in NOT_RETRIED and all(one.error.status == last.status for one in tried)
    if len(tried) == 1 or agreed:
        return last
    others = ", ".join(f"{one.offer.node_name} ({one.error.status})" for one in tried[:-1])
    message = f"{last.message} Before that failed: {others}."
    return RequestError(last.status, message, kind=last.kind, code=last.code, param=last.param, retry_s=last.retry_s)


class Execution:
    """A request that one node is answering; iterate over it to get the parts.

    Attributes:
        decision: Who was chosen and why.
        offer: Who runs it: the chosen one, or the fallback that took over.
        tried: Who failed before.
        request_id: In logs here and on the node that runs it.
        path: The kind of path to that node when it began to answer.
        usage: OpenAI's `usage` of the answer, None until it has passed.
    """

    def __init__(
        self,
        decision: Decision,
        attempt: Attempt,
        first: list[Part],
        tried: tuple[Tried, ...],
        request_id: str,
        path: str,
    ) -> None:
        self.decision = decision
        self.offer = attempt.offer
        self.tried = tried
        self.request_id = request_id
        self.path = path
        self.usage: Mapping[str, Any] | None = None
        self._attempt = attempt
        self._first = first

    @property
    def head(self) -> Head:
        """What whoever runs it told when the work began."""
        return self._attempt.head

    @property
    def reason(self) -> str:
        """One sentence: why this node."""
        if not self.tried:
            return self.decision.reason
        failed = "; ".join(f"{one.offer.node_name} failed ({one.error.status})" for one in self.tried)
        return f"{failed}; {self.offer.node_name} stands in"

    def __aiter__(self) -> Execution:
        return self

    async def __anext__(self) -> Part:
        """Returns the next part.

        Raises:
            StopAsyncIteration: The answer is complete.
            RequestError: The node failed in the middle.
        """
        part = self._first.pop(0) if self._first else await self._attempt.next()
        if part is None:
            raise StopAsyncIteration
        if not isinstance(part, Encoded):
            usage = part.get("usage")
            self.usage = usage if isinstance(usage, Mapping) else self.usage
        return part


def _odd(offer: Offer, what: str) -> RequestError:
    message = f"{offer.node_name} sent {what} when it ran {offer.capability.model}."
    return RequestError(502, message, kind="api_error", code=_ODD)
