"""The numbers, counters and events of `atmo.gossip.hyparview`."""

from __future__ import annotations

from dataclasses import dataclass

from atmo.identity import NodeId


@dataclass(frozen=True, slots=True)
class HyParViewConfig:
    """Sizes, periods and bounds. "The paper" is Leitao, Pereira, Rodrigues, DSN 2007, section 5.1.

    Attributes:
        active: Neighbours at most. Source: the paper (fan-out 4, plus one).
        active_least: Below as many healthy neighbours more are asked for, where more nodes are known than fit. Less
            than `active`, so that who lacks a neighbour finds one with a neighbour to spare. Source: simulated.
        passive: Contacts in reserve. Source: the paper.
        walk: Hops of a newcomer's and of a shuffle's walk. Source: the paper (ARWL).
        walk_passive: Hops left at which a newcomer enters a passive view. Source: the paper (PRWL).
        shuffle_period_s: Between two shuffles, give or take a tenth. Source: guess.
        shuffle_least_s: The same of a node that lacks neighbours and knows nobody else to ask. Source: guess.
        shuffle_active: Contacts of the active view in a shuffle. Source: the paper (ka).
        shuffle_passive: The same of the passive view. Source: the paper (kp).
        protected: Neighbours of this node's own choice, the oldest first, that nobody who asks pushes out. Source:
            guess, after the outgoing connections of Bitcoin, which make an eclipse dear.
        evict_burst: Neighbours that a full node gives up at once for askers who have others. Source: guess.
        evict_period_s: After which it gives up one more. Source: guess.
        introduce_s: The same newcomer is introduced to others no more often: each time costs some thirty messages.
            Source: guess.
        introductions: Newcomers remembered for that.
        walks_burst: Messages of walks taken from one link at once. Source: guess.
        walks_per_s: The same in the long run: a walk passes each link about every 25 s. Source: guess.
        answer_s: A request to be neighbours without an answer after this has failed. Source: guess.
        refused_s: After a refusal or a parting, the same node is not asked again for about this long. Source: guess.
        spread_s: Within this, nodes that heard the same news start to dial. Source: guess.
        yield_s: The node with the larger id waits this much longer in a small mesh, so that two seldom dial each other
            at once.
        pause_s: After an ask in vain; doubles with each in a row, unless there is no neighbour at all. Source: guess.
        pause_most_s: The longest such wait. Source: guess.
        dials: Dials at once that are younger than `slow_s`. Source: guess.
        dials_most: Dials at once of a node without neighbours; of others, `dials`. Source: guess.
        slow_s: A dial without an outcome after this makes room for another. Source: guess; three round trips of the
            longest way between two cities take 1.2 s.
        dial_s: A dial without an outcome after this has failed; the shell gives up well before.
        backoff_s: Before the second dial of a node; doubles each time.
        backoff_most_s: The longest wait between dials of a node.
        backoff_lost_s: The same of a node that is believed to be gone.
        stable_s: A link that stood this long ends the backing off.
        revive_s: A record ends the backing off at most this often, so that no author can make others dial all the time.
        book: Contacts known in all. Source: guess; more than half of a mesh that knows all of its members.
        lost_failures: Dials in vain in a row after which a node counts as gone. Source: guess.
        tombstone_s: A node reported gone is not taken back on hearsay for this long. Source: guess; by then it has
            left the other passive views too.
        failed_s: The same of a node that did not answer a dial. Source: guess.
        heal_s: The shortest time between two dials of nodes believed to be gone, give or take a half.
        heal_most_s: The longest.
        heal_known_s: Times the contacts known: between those bounds, so that all nodes of a mesh of any size try about
            ten a second. Source: guess.
        heal_again_s: The same node that is gone is dialled by this no more often.
    """

    active: int = 5
    active_least: int = 4
    passive: int = 30
    walk: int = 6
    walk_passive: int = 3
    shuffle_period_s: float = 30.0
    shuffle_least_s: float = 3.0
    shuffle_active: int = 3
    shuffle_passive: int = 4
    protected: int = 3
    evict_burst: float = 3.0
    evict_period_s: float = 5.0
    introduce_s: float = 300.0
    introductions: int = 256
    walks_burst: float = 32.0
    walks_per_s: float = 1.0
    answer_s: float = 5.0
    refused_s: float = 10.0
    spread_s: float = 0.05
    yield_s: float = 0.3
    pause_s: float = 0.1
    pause_most_s: float = 10.0
    dials: int = 8
    dials_most: int = 64
    slow_s: float = 1.0
    dial_s: float = 30.0
    backoff_s: float = 0.5
    backoff_most_s: float = 60.0
    backoff_lost_s: float = 120.0
    stable_s: float = 10.0
    revive_s: float = 30.0
    book: int = 512
    lost_failures: int = 3
    tombstone_s: float = 600.0
    failed_s: float = 60.0
    heal_s: float = 10.0
    heal_most_s: float = 60.0
    heal_known_s: float = 0.1
    heal_again_s: float = 20.0


@dataclass(slots=True)
class HyParViewStats:
    """Counters since start."""

    neighbours_up: int = 0
    neighbours_down: int = 0
    asked: int = 0
    accepted: int = 0
    refused: int = 0
    evicted: int = 0
    disconnected: int = 0
    dials: int = 0
    dial_failures: int = 0
    heals: int = 0
    shuffles: int = 0
    walks_dropped: int = 0


@dataclass(frozen=True, slots=True)
class NeighbourUp:
    """A linked node came into the active view: broadcast and anti-entropy run on its link."""

    node: NodeId


@dataclass(frozen=True, slots=True)
class NeighbourDown:
    """A node left the active view; its link may still be there."""

    node: NodeId
