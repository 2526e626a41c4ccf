"""Asks the router to let this node's port in, keeps that up, and takes it back at the end (RFC 6887, RFC 6886).

PCP is tried first, then NAT-PMP, and after both a rest. One request is under way at a time. What a router answers is
hostile: an answer counts only where it comes from the router and belongs to the request under way. Every answer tells
since when the router remembers its mappings; where that shows that it forgot them, all is asked for again. So that
this is noticed, and another external address too, the first request is repeated now and then.

The UDP port carries everything. The TCP port of the same number carries models; whoever dials it takes the number of
the UDP port, so one that the router gives another external number is given back.
"""

from __future__ import annotations

import ipaddress
import math
from dataclasses import dataclass
from hashlib import blake2b
from random import Random

from atmo.clock import Now
from atmo.errors import WireError
from atmo.reach.port_mapping_config import NAT_PMP, PCP, Mapped, PortMappingConfig, PortMappingStats
from atmo.reach.port_mapping_message import (
    NAT_PMP_RESULTS,
    NONCE_BYTES,
    PCP_RESULTS,
    SUCCESS,
    TCP,
    UDP,
    Answer,
    decode_nat_pmp_untrusted,
    decode_pcp_untrusted,
    encode_nat_pmp_address,
    encode_nat_pmp_map,
    encode_pcp_map,
    refuses_version_untrusted,
)
from atmo.wire.address import Address

_WHERE = 0
"""The external address, as something to ask for beside `UDP` and `TCP`."""


@dataclass(slots=True)
class _Question:
    about: int
    sent: int
    again: float


@dataclass(frozen=True, slots=True)
class _Grant:
    host: str
    port: int
    until: float


class PortMapping:
    """Keeps one port of one address of this machine mapped by one router.

    Args:
        config: Periods and bounds.
        rng: Varies waits.
        secret: What nonces are made of; the same after a restart of the node, as a router leaves a mapping to whoever
            knows its nonce.
        client: The address of this machine from which requests are sent, and to which the port belongs.
        router: Its address and port.
        port: To be mapped.
        tcp: The TCP port of the same number, too.
    """

    def __init__(
        self, config: PortMappingConfig, rng: Random, secret: bytes, client: str, router: Address, port: int, tcp: bool
    ) -> None:
        self.stats = PortMappingStats()
        self._config = config
        self._rng = rng
        self._secret = secret
        self._client = client
        self.router = router
        self._port = port
        self._abouts = (UDP, TCP) if tcp else (UDP,)
        self._protocols = (PCP,) if ":" in client else (PCP, NAT_PMP)
        self._protocol = ""
        self._due: dict[int, float] = {}
        self._question: _Question | None = None
        self._grants: dict[int, _Grant] = {}
        self._host = ""  # the external address that NAT-PMP tells
        self._epoch: tuple[int, float] | None = None
        self._restarted_at = -math.inf
        self._reasons: dict[str, list[str]] = {}  # and the protocols
        self._rest_s = 0.0
        self._rest_until = -math.inf
        self._answered = False
        self._stopping = False
        self._out: list[bytes] = []

    # --- what the shell does --------------------------------------------------------------------------------------

    def drain(self) -> list[bytes]:
        """Returns what is to be sent to the router, once."""
        out, self._out = self._out, []
        return out

    def next_timer(self) -> float:
        """Returns when `handle_timer` wants to be called, in monotonic seconds."""
        if self._stopping:
            return math.inf
        if not self._protocol:
            return self._rest_until
        ends = [grant.until for grant in self._grants.values()]
        return min([self._question.again if self._question else min(self._due.values(), default=math.inf), *ends])

    def handle_timer(self, now: Now) -> None:
        """Asks what is due, asks again, or gives up."""
        if self._stopping:
            return
        if not self._protocol:
            if now.mono >= self._rest_until:
                self._reasons, self._rest_s = {}, self._config.rest_s
                self._begin(now, self._protocols[0])
            return
        for about in [about for about, grant in self._grants.items() if grant.until <= now.mono]:
            del self._grants[about]
            if about == UDP:
                self._reasons = {"the router does not answer any more": [self._protocol]}
                self._rest(now, 0.0)
                return
            self._due[about] = now.mono
        if self._question is None:
            self._ask_next(now)
        elif now.mono >= self._question.again:
            if self._question.sent < len(self._waits_s):
                self._send(now)
            else:
                self._silence(now)

    def receive_untrusted(self, now: Now, data: bytes, source: Address) -> None:
        """Takes a datagram from the socket on which requests are sent."""
        if source != self.router or (self._question is None and not self._stopping):
            self.stats.dropped_unasked += 1
            return
        if self._protocol == PCP and not self._stopping and not self._answered and refuses_version_untrusted(data):
            self.stats.answers_in += 1
            self._give_up(now, PCP_RESULTS[1])
            return
        try:
            answer = (decode_pcp_untrusted if self._protocol == PCP else decode_nat_pmp_untrusted)(data)
        except WireError:
            self.stats.dropped_malformed += 1
            return
        if self._stopping:
            if self._belongs(answer, answer.protocol):
                self._grants.pop(answer.protocol, None)
            return
        question = self._question
        if question is None or not self._belongs(answer, question.about):
            self.stats.dropped_unasked += 1
            return
        self.stats.answers_in += 1
        self._question, self._answered = None, True
        if self._forgot(now, answer.epoch):
            self._restarted(now)
        if answer.result == SUCCESS:
            self._granted(now, question.about, answer)
        else:
            results = PCP_RESULTS if self._protocol == PCP else NAT_PMP_RESULTS
            words = results.get(answer.result, f"refuses with code {answer.result}")
            self._refused(now, question.about, words, float(answer.lifetime_s))

    def unreachable(self, now: Now) -> None:
        """The system says that nothing of the router listens there."""
        if self._question is not None and not self._answered and not self._stopping:
            self._give_up(now, "the router does not speak it")

    def check(self, now: Now) -> None:
        """The network may be another one: asks the first question again, or begins anew, at once."""
        if not self._protocol:
            self._rest_until = min(self._rest_until, now.mono)
        else:
            self._due[self._first] = now.mono

    def stop(self) -> None:
        """Asks the router to forget everything; may be repeated while not all is `forgotten`."""
        asked, self._stopping, self._question = self._question, True, None
        for about in {*self._grants, asked.about if asked else _WHERE} - {_WHERE}:
            self._put(self._encode(about, None, 0))

    @property
    def forgotten(self) -> bool:
        """Says whether nothing is mapped any more, after `stop`."""
        return not self._grants

    @property
    def asking(self) -> bool:
        """Says whether an answer is waited for."""
        return self._question is not None

    @property
    def resting(self) -> bool:
        """Says whether all was tried in vain."""
        return not self._protocol and bool(self._reasons)

    def mapped(self) -> Mapped:
        """Returns what is mapped now."""
        udp = self._grants.get(UDP)
        if udp is None:
            reasons = [f"{' and '.join(protocols)}: {reason}" for reason, protocols in self._reasons.items()]
            return Mapped(reason="; ".join(reasons) if not self._protocol else "")
        return Mapped(self._protocol, Address(udp.host, udp.port), TCP in self._grants, udp.until)

    # --- asking ---------------------------------------------------------------------------------------------------

    @property
    def _first(self) -> int:
        return UDP if self._protocol == PCP else _WHERE

    @property
    def _waits_s(self) -> tuple[float, ...]:
        return self._config.pcp_waits_s if self._protocol == PCP else self._config.nat_pmp_waits_s

    def _begin(self, now: Now, protocol: str) -> None:
        self._protocol, self._question, self._answered, self._epoch = protocol, None, False, None
        self._grants.clear()
        self._due = {self._first: now.mono}
        self._ask_next(now)

    def _ask_next(self, now: Now) -> None:
        for about in (_WHERE, UDP, TCP):
            if self._question is None and self._due.get(about, math.inf) <= now.mono:
                self._question = _Question(about, 0, now.mono)
                self._send(now)

    def _send(self, now: Now) -> None:
        question = self._question
        assert question is not None, "there is something to ask"
        grant = self._grants.get(question.about) or self._grants.get(UDP)
        external = Address(grant.host, grant.port) if grant else None
        self._put(self._encode(question.about, external, self._config.lifetime_s))
        wait_s = self._waits_s[question.sent]
        if self._protocol == PCP:
            wait_s *= 1 + self._rng.uniform(-self._config.jitter, self._config.jitter)
        question.sent += 1
        question.again = now.mono + wait_s

    def _encode(self, about: int, external: Address | None, lifetime_s: int) -> bytes:
        if self._protocol == NAT_PMP:
            port = (external.port if external else self._port) if lifetime_s else 0
            return (
                encode_nat_pmp_map(about, self._port, port, lifetime_s) if about != _WHERE else encode_nat_pmp_address()
            )
        if external is None and lifetime_s:
            external = Address("::" if ":" in self._client else "0.0.0.0", self._port)
        return encode_pcp_map(self._nonce(about), about, self._client, self._port, external, lifetime_s)

    def _put(self, data: bytes) -> None:
        self.stats.requests_out += 1
        self._out.append(data)

    def _nonce(self, about: int) -> bytes:
        text = f"{self.router.host} {self._client} {self._port} {about}".encode()
        return blake2b(text, key=self._secret, digest_size=NONCE_BYTES).digest()

    # --- answers --------------------------------------------------------------------------------------------------

    def _belongs(self, answer: Answer, about: int) -> bool:
        if self._protocol == NAT_PMP:
            return answer.protocol == about and (about == _WHERE or answer.internal in (0, self._port))
        return (answer.protocol, answer.internal, answer.nonce) == (about, self._port, self._nonce(about))

    def _forgot(self, now: Now, epoch: int) -> bool:
        """Says whether the router lost its mappings since its answer before (RFC 6887 section 8.5, RFC 6886 3.6)."""
        before, self._epoch = self._epoch, (epoch, now.mono)
        if before is None:
            return False
        theirs, ours = epoch - before[0], now.mono - before[1]
        if self._protocol == NAT_PMP:
            return theirs + 2 < ours * 7 / 8
        return theirs < -1 or ours + 2 < theirs * 15 / 16 or theirs + 2 < ours * 15 / 16

    def _restarted(self, now: Now) -> None:
        """Asks for everything again; now and then only, as a router may say in every answer that it restarted."""
        self.stats.restarts_in += 1
        if now.mono >= self._restarted_at + self._config.retry_s:
            self._restarted_at = now.mono
            self._due.update(dict.fromkeys(self._grants, now.mono))

    def _granted(self, now: Now, about: int, answer: Answer) -> None:
        self._due.pop(about, None)
        host = answer.host if self._protocol == PCP or about == _WHERE else self._host
        if not self._can_be(host):
            self._refused(now, about, f"gives the address {host}, which cannot be", 0.0)
            return
        if about == _WHERE:
            self._host_is(now, host)
        elif not answer.port or answer.lifetime_s < self._config.shortest_s:
            self._refused(now, about, f"maps port {answer.port} for {answer.lifetime_s} s only", 0.0)
            return
        else:
            self._mapped_to(now, about, _Grant(host, answer.port, now.mono + self._lifetime_s(answer)))
        if about == self._first:
            due = now.mono + self._config.check_s
            self._due[about] = min(due, self._due.get(about, due))
        self._ask_next(now)

    def _lifetime_s(self, answer: Answer) -> int:
        return min(answer.lifetime_s, self._config.lifetime_s)

    def _host_is(self, now: Now, host: str) -> None:
        self._host = host
        self._grants = {about: _Grant(host, grant.port, grant.until) for about, grant in self._grants.items()}
        if UDP not in self._grants:
            self._due.setdefault(UDP, now.mono)

    def _mapped_to(self, now: Now, about: int, grant: _Grant) -> None:
        before, udp = self._grants.get(about), self._grants.get(UDP)
        if about == TCP and udp is not None and udp.port != grant.port:
            self._put(self._encode(TCP, None, 0))
            self._grants.pop(TCP, None)
            self._due[TCP] = now.mono + self._config.rest_most_s
            return
        self._grants[about] = grant
        self._due[about] = now.mono + self._rng.uniform(*self._config.renew) * (grant.until - now.mono)
        moved = before is None or (before.host, before.port) != (grant.host, grant.port)
        if about == UDP and moved and TCP in self._abouts:
            self._due[TCP] = now.mono

    def _can_be(self, host: str) -> bool:
        """Says whether the router can be reached there from somewhere."""
        if not host:
            return False
        address = ipaddress.ip_address(host)
        nowhere = address.is_unspecified or address.is_loopback or address.is_multicast or address.is_link_local
        reserved = address.version == 4 and int(address) >= 0xF0000000
        return address.version == (6 if ":" in self._client else 4) and not nowhere and not reserved

    # --- no answers -----------------------------------------------------------------------------------------------

    def _refused(self, now: Now, about: int, reason: str, lifetime_s: float) -> None:
        """The router does not do it; what it did before stays until it ends."""
        self.stats.refusals_in += 1
        wait_s = self._bounded(lifetime_s)
        if UDP not in self._grants:
            self._give_up(now, f"the router {reason}", wait_s)
            return
        self._due[about] = now.mono + wait_s
        self._ask_next(now)

    def _silence(self, now: Now) -> None:
        question, self._question = self._question, None
        assert question is not None, "somebody was asked"
        if UDP not in self._grants:
            self._give_up(now, "the router does not answer")
        else:
            self._due[question.about] = now.mono + self._config.retry_s
            self._ask_next(now)

    def _give_up(self, now: Now, reason: str, wait_s: float = 0.0) -> None:
        """This protocol does not help: the next one, or a rest."""
        self._reasons.setdefault(reason, []).append(self._protocol)
        self._rest_s = max(self._rest_s, wait_s)
        later = self._protocols[self._protocols.index(self._protocol) + 1 :]
        if later:
            self._begin(now, later[0])
        else:
            self._rest(now, self._rest_s)

    def _rest(self, now: Now, seconds: float) -> None:
        self._protocol, self._question = "", None
        self._grants.clear()
        self._due.clear()
        self._rest_until = now.mono + seconds

    def _bounded(self, seconds: float) -> float:
        return min(max(seconds, self._config.rest_s), self._config.rest_most_s)
