"""Periods, bounds and counters of the anti-entropy."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ReconcileConfig:
    """Periods and bounds.

    Attributes:
        round_s: Between two comparisons with a random neighbour, give or take a fifth. Source: guess.
        greet_s: A new neighbour is compared with after this at most, unless it was faster.
        newcomer_s: The same for a node that had no neighbour before: it lacks most.
        spread_s: After a comparison brought news, the other neighbours hear of it within this. Source: guess; a heal
            goes one hop in this and about four round trips.
        skew_s: Tolerated difference of clocks. Source: docs/PROTOCOL.md section 8.
        leaf_slots: A range of no more slots is listed instead of cut. Source: a listing of as many is about as long as
            the sixteen parts and one of them listed.
        push_bytes: Records that a neighbour's listing lacks are sent at once up to this; more are listed, so that it
            can take from each neighbour something else.
        much_slots: While so many records are coming that one neighbour was asked for at once, comparisons in which
            about as much differs wait with the others, as they would list what is on its way. Source: guess.
        much_s: So long they are waited for. Source: the slowest round trips twice, and a margin.
        put_off_s, put_off_every_s: A neighbour waits so long for the others' records at most, and then not again before
            the longer time has passed, whatever the others promise. Source: two such times; guess.
        want_s: A record that was asked for and nothing of it or others came for so long is asked of another neighbour.
        want_most_s: The same whatever else came.
        shun_s: Who did not send what it listed is not asked for it again for so long.
        link_wants: Records and ranges asked of one neighbour at once.
        answer_rate, answer_bytes: Bytes a second, and at once, that one neighbour gets in answers: a whole table of a
            mesh of 1,500 nodes, about 3 MB, at once, but not again and again.
        message_bytes: Of envelopes or entries in one message, under the message limit.
    """

    round_s: float = 30.0
    greet_s: float = 1.0
    newcomer_s: float = 0.05
    spread_s: float = 1.0
    skew_s: float = 60.0
    leaf_slots: int = 24
    push_bytes: int = 2 * 1024
    much_slots: int = 16
    much_s: float = 1.5
    put_off_s: float = 3.0
    put_off_every_s: float = 15.0
    want_s: float = 5.0
    want_most_s: float = 30.0
    shun_s: float = 60.0
    link_wants: int = 8_192
    answer_rate: float = 256 * 1024
    answer_bytes: float = 8 * 1024 * 1024
    message_bytes: int = 48 * 1024


@dataclass(slots=True)
class ReconcileStats:
    """Counters since start.

    Attributes:
        rounds: Comparisons begun.
        ranges: Ranges sent.
        listed: Slots listed.
        wanted: Records asked for one by one.
        ranges_wanted: Ranges asked for.
        sent: Records sent.
        put_off: Comparisons that waited for records from another neighbour.
        refused: Messages not answered, or not wholly, as the neighbour has had enough.
        news: Records that came by comparisons and were news.
    """

    rounds: int = 0
    ranges: int = 0
    listed: int = 0
    wanted: int = 0
    ranges_wanted: int = 0
    sent: int = 0
    put_off: int = 0
    refused: int = 0
    news: int = 0
