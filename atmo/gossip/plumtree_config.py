"""Periods, bounds and counters of the broadcast."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PlumtreeConfig:
    """Periods and bounds.

    Attributes:
        announce_s: Announcements wait so long for others to travel with. Source: guess, about a round trip.
        missing_s: An announced record that has not come by the tree after this is asked for. Source: measured at 2 % of
            messages late by a retransmission.
        missing_most_s: The same where the tree is often that much behind announcements.
        missing_spread: Up to so many times as long, by chance. Source: measured: with 1 the tree of 1,000 nodes does
            not settle, with 2 it does.
        retry_s: Before the next one that announced it is asked. Source: guess, the longest round trip between cities.
        greet_s: A new neighbour is told of the records of so many last seconds: longer than it takes to notice that all
            neighbours died. Source: guess.
        greet_entries: Of so many at most. Source: guess.
        store_s: Records are kept so long to answer grafts. Source: guess.
        store_entries, store_bytes: Records kept, at most.
        seen_entries: Names remembered, at most twice as many. Source: guess, minutes of traffic of 1,000 nodes.
        missing_entries: Announced records waited for at once. Source: guess.
        link_missing: Of those, announced first by one neighbour: nobody fills the table for the others.
        announcers: Neighbours remembered for one of them: all of HyParView's active view.
        graft_rate, graft_bytes: Bytes a second, and at once, that one neighbour gets in answer to grafts.
        flow_s: A record counts half as one of late after this. Source: the time in which one reaches everyone.
        damping: With n other records of late, the duplicates of one in 1 + n * damping prune. Source:
            measured at two and eight records a second; half as much lets branches be lost.
        root_s: Who was not heard of for so long is not the root any more: longer than its records are apart.
        root_refresh_s: A root that has had nothing to say for so long says again who it is, as renewals of a large mesh
            are up to 80 minutes apart. Source: choice; it costs each node about 8 bytes
            a second.
        root_settled_s: Who became the root so lately does not make the tree anew: it may not last.
        renew_s: Between two records that make the tree anew: each costs about as many payloads as there are links.
    """

    announce_s: float = 0.1
    missing_s: float = 1.0
    missing_most_s: float = 3.0
    missing_spread: float = 2.0
    retry_s: float = 0.5
    greet_s: float = 15.0
    greet_entries: int = 32
    store_s: float = 60.0
    store_entries: int = 2_048
    store_bytes: int = 4 * 1024 * 1024
    seen_entries: int = 8_192
    missing_entries: int = 4_096
    link_missing: int = 1_024
    announcers: int = 8
    graft_rate: float = 64 * 1024
    graft_bytes: float = 1024 * 1024
    flow_s: float = 0.5
    damping: float = 6.0
    root_s: float = 1_800.0
    root_refresh_s: float = 240.0
    root_settled_s: float = 10.0
    renew_s: float = 120.0


@dataclass(frozen=True, slots=True)
class TreeAges:
    """This node shapes the tree and has told nothing for long: any record of it will do."""


@dataclass(slots=True)
class PlumtreeStats:
    """Counters since start.

    Attributes:
        published: Own records sent to all.
        delivered: Records that came by the tree and were news.
        duplicates: Records that came by the tree and were known: redundant payloads.
        sent: Payloads sent along the tree, grafted ones too.
        announced: Announcements sent.
        grafts: Grafts sent for records that were missed.
        renewals: Records passed on over all links to make the tree anew.
        prunes: Prunes sent.
        grafted: Records sent in answer to grafts.
        grafts_refused: Records asked for and not sent: forgotten, or more than a neighbour gets.
        missed: Announced records that nobody sent: anti-entropy brings them.
        ignored: Announcements beyond a bound.
    """

    published: int = 0
    delivered: int = 0
    duplicates: int = 0
    sent: int = 0
    announced: int = 0
    grafts: int = 0
    renewals: int = 0
    prunes: int = 0
    grafted: int = 0
    grafts_refused: int = 0
    missed: int = 0
    ignored: int = 0
