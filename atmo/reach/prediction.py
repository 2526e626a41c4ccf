"""Which ports of a NAT to try that gives every destination another one.

The end behind such a NAT opens many sockets towards the other end, so that its NAT has as many ports open for it; the
other end tries ports. With 256 open of 64,512, 1,024 random tries hit one in 98 of 100 rounds (1 - (1 - 256/64,512) **
1,024), half of all rounds within 175 tries. A NAT that counts upwards is hit by the first few.
"""

from __future__ import annotations

from collections.abc import Iterable
from random import Random

NONE, ENDPOINT, ADDRESS, PORT, UNKNOWN = "none", "endpoint", "address", "port", "unknown"
"""How a NAT maps a socket: there is none; to one port for all destinations; to one for each address; for each address
and port; nobody knows. Source: RFC 4787 section 4.1."""

MAPPINGS = (NONE, ENDPOINT, ADDRESS, PORT, UNKNOWN)

WIDEN, SCAN = "widen", "scan"

SOCKETS, TRIES = 256, 1_024
"""Ports open at once, and tries in a round. Source: above."""

STRIDES = (1, 2, 4, 8, 16, 32, 64, 96, 128, 160, 192, 224)
"""From the last port that was seen to those tried first, for NATs that count upwards by one or two."""

_LOWEST, _HIGHEST = 1_024, 65_535


def varies(mapping: str) -> bool | None:
    """Says whether another destination sees another port; None where nobody knows."""
    return None if mapping == UNKNOWN else mapping in (ADDRESS, PORT)


def role(mine: str, theirs: str, turn: int) -> str:
    """Returns what this end does to open a way that plain punching does not: `WIDEN` (open many ports), `SCAN` (try
    many), or nothing: where both ends vary chances are 1 in 250 for all that effort, and where neither does there is
    another reason.

    Args:
        mine, theirs: How each end's NAT maps.
        turn: How often it was tried before; where nothing is known the ends take turns.
    """
    one, other = varies(mine), varies(theirs)
    if one is not None and one == other:
        return ""
    if one or other is False:
        return WIDEN
    if other or one is False:
        return SCAN
    return SCAN if turn % 2 else WIDEN


def ports_to_try(rng: Random, seen: Iterable[int], count: int = TRIES) -> list[int]:
    """Returns ports in the order in which to try them, each once.

    Args:
        rng: Draws them.
        seen: Ports that the NAT gave lately, the newest first.
        count: How many to return, at most.
    """
    ports = dict.fromkeys(
        port + stride for port in list(seen)[:4] for stride in STRIDES if _LOWEST <= port + stride <= _HIGHEST
    )
    while len(ports) < min(count, _HIGHEST - _LOWEST):
        ports[rng.randint(_LOWEST, _HIGHEST)] = None
    return list(ports)[:count]
