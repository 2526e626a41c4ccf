"""Both sides of STUN (RFC 8489) on the socket of an endpoint: asking servers, and answering whoever asks.

Requests go out again after 0.5, 1, 2 and 4 seconds. An answer counts only while its random transaction id is waited
for and if it comes from the address that was asked. The server answers plain binding requests and nothing else, fewer
than a bound for each host and in all, and with little more than it got: it is no use to who forges senders.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field

import trio

from atmo.errors import RemoteError, WireError
from atmo.gossip.allowance import Allowance
from atmo.net.stun_message import (
    TRANSACTION_BYTES,
    BindingAnswer,
    check_plain_request_untrusted,
    encode_answer,
    encode_request,
    open_answer_untrusted,
    transaction_of,
)
from atmo.wire.address import Address, host_group

SendOther = Callable[[bytes, Address], None]
"""As `Endpoint.send_other`."""


@dataclass(frozen=True, slots=True)
class StunConfig:
    """Bounds of both sides.

    Attributes:
        requests: Sent for one question. Source: RFC 8489 section 6.2.1 has 7; fewer, as whoever does not answer after
            7.5 s is not there.
        rto_s: From the first request to the second, then each time twice as long. Source: the same section.
        last_s: From the last request to giving up. Source: guess; the RFC's 8 s serve paths slower than QUIC takes.
        pending: Questions that are waited for at once. Source: 16 servers with two addresses, members, and margin.
        host_rate, host_burst: Answers to one host (IPv4 address or IPv6 /64), a second and at once. Source: guess; a
            node's own client sends at most 5 requests in 7.5 s, and many nodes may share an address.
        rate, burst: Answers to all. Source: guess; 200 a second cost 1 to 2 % of a core.
        hosts: Whose rates are remembered. Source: a host's bucket is full again after 4 s, in which `rate` and `burst`
            let in 1,200 new ones.
        amplification: An answer has at most so many times the bytes of the request.
    """

    requests: int = 5
    rto_s: float = 0.5
    last_s: float = 4.0
    pending: int = 48
    host_rate: float = 10.0
    host_burst: float = 40.0
    rate: float = 200.0
    burst: float = 400.0
    hosts: int = 1_280
    amplification: int = 3


@dataclass(slots=True)
class StunStats:
    """Counters since start.

    Attributes:
        asked: Questions to servers.
        requests_out: Requests sent for them.
        answers_in: Answers that were waited for.
        silent: Questions that nobody answered.
        refusals_in: Questions that were answered by an error.
        dropped_unasked: What is no request and no answer that is waited for from there.
        dropped_malformed: Answers that are waited for and do not decode.
        implausible: Answers with an address that cannot be.
        served: Requests of others that were answered.
        refused_rate: Requests dropped as they were too many.
        refused_other: Requests dropped as they are not plain binding requests.
    """

    asked: int = 0
    requests_out: int = 0
    answers_in: int = 0
    silent: int = 0
    refusals_in: int = 0
    dropped_unasked: int = 0
    dropped_malformed: int = 0
    implausible: int = 0
    served: int = 0
    refused_rate: int = 0
    refused_other: int = 0


@dataclass(eq=False, slots=True)
class _Question:
    source: Address
    done: trio.Event = field(default_factory=trio.Event)
    answer: BindingAnswer | None = None


class StunClient:
    """Asks servers where they see the socket.

    Args:
        send: Sends from that socket.
        config: Bounds.
        stats: Counts.
    """

    def __init__(self, send: SendOther, config: StunConfig, stats: StunStats) -> None:
        self._send = send
        self._config = config
        self._stats = stats
        self._pending: dict[bytes, _Question] = {}

    async def ask(self, server: Address, change: int = 0, source: Address | None = None) -> BindingAnswer | None:
        """Asks one server and returns its answer, None where none came in time.

        Args:
            server: Its address, as the socket reports senders.
            change: See `encode_request`.
            source: Where the answer has to come from, if not from `server`.

        Raises:
            RemoteError: It refused, the socket cannot reach it, or too much is asked at once.
        """
        if len(self._pending) >= self._config.pending:
            raise RemoteError(f"{len(self._pending)} STUN servers are asked at once, which is the limit")
        transaction = os.urandom(TRANSACTION_BYTES)
        question = self._pending[transaction] = _Question(source or server)
        self._stats.asked += 1
        try:
            await self._repeat(encode_request(transaction, change), server, question)
        finally:
            del self._pending[transaction]
        if question.answer is None:
            self._stats.silent += 1
        elif question.answer.mapped is None:
            self._stats.refusals_in += 1
            raise RemoteError(f"the STUN server {server} refused")
        return question.answer

    async def _repeat(self, data: bytes, server: Address, question: _Question) -> None:
        config = self._config
        for number in range(config.requests):
            self._send(data, server)
            self._stats.requests_out += 1
            last = number == config.requests - 1
            with trio.move_on_after(config.last_s if last else config.rto_s * 2**number):
                await question.done.wait()
                return

    def take_untrusted(self, data: bytes, source: Address) -> None:
        """Takes a datagram that may be an answer."""
        question = self._pending.get(transaction_of(data))
        if question is None or question.source != source or question.done.is_set():
            self._stats.dropped_unasked += 1
            return
        try:
            question.answer = open_answer_untrusted(data)
        except WireError:
            self._stats.dropped_malformed += 1
            return
        self._stats.answers_in += 1
        question.done.set()


class StunServer:
    """Answers binding requests.

    Args:
        send: Sends from the socket at which they arrive.
        config: Bounds.
        stats: Counts.
    """

    def __init__(self, send: SendOther, config: StunConfig, stats: StunStats) -> None:
        self._send = send
        self._config = config
        self._stats = stats
        self._all = Allowance(config.rate, config.burst)
        self._hosts: dict[str, Allowance] = {}  # who asked last is last

    def take_untrusted(self, data: bytes, source: Address, mono: float) -> None:
        """Takes a datagram that claims to be a binding request."""
        if not self._admits(host_group(source.host), mono):
            self._stats.refused_rate += 1
            return
        try:
            check_plain_request_untrusted(data)
        except WireError:
            self._stats.refused_other += 1
            return
        answer = encode_answer(transaction_of(data), source)
        if len(answer) > self._config.amplification * len(data):
            self._stats.refused_other += 1
            return
        try:
            self._send(answer, source)
        except RemoteError:
            return  # an address that the socket reports and does not take
        self._stats.served += 1

    def _admits(self, host: str, mono: float) -> bool:
        allowance = self._hosts.pop(host, None)
        if allowance is not None:
            self._hosts[host] = allowance
            return allowance.take(mono, 1.0) and self._all.take(mono, 1.0)
        if not self._all.take(mono, 1.0):
            return False
        allowance = self._hosts[host] = Allowance(self._config.host_rate, self._config.host_burst)
        if len(self._hosts) > self._config.hosts:
            del self._hosts[next(iter(self._hosts))]
        return allowance.take(mono, 1.0)
