"""Periods and bounds of the paths under a connection, and the sizes of datagrams that are tried on them."""

from __future__ import annotations

from dataclasses import dataclass

from atmo.wire.address import Address


@dataclass(frozen=True, slots=True)
class Via:
    """A way that is no UDP address, such as a relay; the shell knows how to send there.

    Attributes:
        name: Of the way, unique at this node.
    """

    name: str


Place = Address | Via
"""Where a datagram of a connection can be sent, or came from."""

LAN, DIRECT, PUNCHED, RELAY, FORWARD = "lan", "direct", "punched", "relay", "forward"

RANK = {LAN: 0, DIRECT: 1, PUNCHED: 1, RELAY: 2, FORWARD: 3}
"""Kinds of path, the best ones first: what costs others something comes last."""


@dataclass(frozen=True, slots=True)
class PathsConfig:
    """Periods and bounds.

    Attributes:
        places: Candidates of one connection; the one that failed longest ago makes room. Source: guess; an end has up
            to eight addresses, and as many appear by NATs.
        burst_s: When a place is tried, after the first time: waits between the probes of one burst. Source: guess; six
            probes in three seconds outlast a loss of one in two.
        rest_s: A place that did not answer is tried again after this, each time twice as long, up to `rest_most_s`,
            while there is nothing better. Source: guess.
        lost_s, losts: While no path works, each is tried again after this, so many times; then as after a rest. Source:
            guess; that is 40 s, and the connection itself is given up after `QuicConfig.idle_timeout_s`, unless its
            other end answers no probes and goes on talking.
        keep_s: What is known to work is probed so often where nothing else is heard of it: NATs forget a mapping
            after 30 s or more (RFC 4787 requires two minutes). Source: the issue's bound of 15 s, with room for a loss,
            and more than `QuicConfig.keep_alive_s`: where QUIC is heard from, no probe is needed.
        standbys: Proven paths beside the active one that are kept open.
        doubt_s: What was sent on the active path has been followed by nothing for so long, or three round trips where
            those are longer: the path is in doubt, and what is sent goes by the best standby, too. Source: guess; QUIC
            sends again after about as long.
        hint_s: The same where the other end says that it doubts its path, too. Source: guess; below `doubt_s`.
        elsewhere: So many times as long where answers come by another path: the other end hears this one then, most
            likely by the active path. Source: guess.
        dead_s: In doubt for so long without a reply: another path takes its place.
        gain: A path of the same rank takes the active one's place where its round trip is shorter by this share.
        gain_least_s: And by so much.
        learns, learn_s: So many new places are tried at once, and one more in each `learn_s`: who tells many, or sends
            from many, makes this node send no flood of probes. Source: guess.
        punch_s: The least time between two punches.
        punches, punches_s: So many punches are made at once, and one more in each `punches_s`. Source: guess; who
            punches by `pathfinder.PUNCH_S` never waits.
        pending: Probes of one place whose replies are waited for.
    """

    places: int = 24
    burst_s: tuple[float, ...] = (0.1, 0.2, 0.4, 0.8, 1.5)
    rest_s: float = 15.0
    rest_most_s: float = 240.0
    lost_s: float = 1.0
    losts: int = 8
    keep_s: float = 13.0
    standbys: int = 2
    doubt_s: float = 0.5
    hint_s: float = 0.3
    elsewhere: float = 4.0
    dead_s: float = 1.0
    gain: float = 0.2
    gain_least_s: float = 0.003
    learns: int = 24
    learn_s: float = 2.0
    punch_s: float = 0.5
    punches: int = 6
    punches_s: float = 5.0
    pending: int = 8


@dataclass(frozen=True, slots=True)
class MtuConfig:
    """How the size of datagrams that a path carries is found.

    Attributes:
        smallest: What every path carries. Source: RFC 9000 section 14.
        sizes: Larger ones that are tried, in bytes of UDP payload. 1,372 is what links of 1,400 bytes carry by IPv4 and
            WireGuard's 1,420 by IPv6; 1,452 is Ethernet by IPv6, and by IPv4 with PPPoE, and 20 bytes below Ethernet by
            IPv4; 8,192 is for jumbo frames (9,000), the loopback interface and relays. What a link of 1,280 bytes
            carries (1,252) is not worth its probes.
        tries: So many lost probes of one size: it is too large. Source: RFC 8899 section 5.1.2.
        wait_s: For a reply, or three round trips where those are longer. Source: RFC 8899 section 5.1.1, at least 1 s.
        raise_s: What is above the size that was found is tried again after this. Source: RFC 8899 section 5.1.1.
        confirm_s: The least time between two confirmations of a size. Source: guess.
        places: As many sizes are kept. Source: `PathsConfig.places` and margin.
    """

    smallest: int = 1_200
    sizes: tuple[int, ...] = (1_372, 1_452, 8_192)
    tries: int = 3
    wait_s: float = 1.0
    raise_s: float = 600.0
    confirm_s: float = 1.0
    places: int = 32
