"""Periods and bounds of port mapping, and what it tells."""

from __future__ import annotations

from dataclasses import dataclass

from atmo.wire.address import Address

PCP, NAT_PMP = "PCP", "NAT-PMP"


@dataclass(frozen=True, slots=True)
class PortMappingConfig:
    """Periods and bounds.

    Attributes:
        lifetime_s: What is asked for. Source: RFC 6886 section 3.3.
        shortest_s: A mapping for less is taken for a refusal. Source: guess; nobody could rely on it.
        check_s: The first request is repeated so often. Source: guess; dial-up routers change their address at night,
            and one that restarts forgets everything.
        retry_s: A router that answered before and is silent, or gave no TCP port, is asked again after this. Source:
            guess.
        rest_s, rest_most_s: After a refusal, or where nobody answers; the router may say, within these bounds, how
            long its refusal stays. Source: guess; RFC 6887 section 7.4 has 30 s for short and 30 min for long ones.
        pcp_waits_s: After each request. Source: RFC 6887 section 8.1.1 (3 s, then twice as long, without end), ended
            early as NAT-PMP comes next.
        nat_pmp_waits_s: Likewise. Source: RFC 6886 section 3.1 (250 ms, then twice as long, nine times), ended early.
        jitter: Waits of PCP vary by this share. Source: RFC 6887 section 8.1.1.
        renew: A mapping is renewed at a time between these shares of its lifetime. Source: RFC 6887 section 11.2.1.
    """

    lifetime_s: int = 7_200
    shortest_s: int = 120
    check_s: float = 600.0
    retry_s: float = 60.0
    rest_s: float = 900.0
    rest_most_s: float = 3_600.0
    pcp_waits_s: tuple[float, ...] = (3.0, 6.0, 12.0)
    nat_pmp_waits_s: tuple[float, ...] = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
    jitter: float = 0.1
    renew: tuple[float, float] = (0.5, 0.625)


@dataclass(slots=True)
class PortMappingStats:
    """Counters since start.

    Attributes:
        requests_out: Sent, those to forget a mapping too.
        answers_in: That were waited for.
        refusals_in: Of those, the ones that refuse.
        restarts_in: Of those, the ones that show that the router forgot its mappings.
        dropped_unasked: From somewhere else, or not waited for.
        dropped_malformed: Do not decode.
    """

    requests_out: int = 0
    answers_in: int = 0
    refusals_in: int = 0
    restarts_in: int = 0
    dropped_unasked: int = 0
    dropped_malformed: int = 0


@dataclass(frozen=True, slots=True)
class Mapped:
    """What the router does for this node now.

    Attributes:
        how: `PCP` or `NAT-PMP`; empty where nothing is mapped.
        external: Where the node's UDP port can be reached from outside, as the router says.
        tcp: The TCP port is let in under the same number.
        until: When it ends unless it is renewed, in monotonic seconds.
        reason: Why nothing is mapped, empty where something is or nothing was tried so far.
    """

    how: str = ""
    external: Address | None = None
    tcp: bool = False
    until: float = 0.0
    reason: str = ""
