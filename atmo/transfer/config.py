"""Sizes and times of transfers, swarms and upload slots. What limits are set and how nodes are judged stand beside."""

from __future__ import annotations

from dataclasses import dataclass, field

from atmo.transfer.limits import LimitsConfig
from atmo.transfer.scores import ScoresConfig


@dataclass(frozen=True, slots=True)
class SwarmConfig:
    """Bounds and times of what nodes tell each other of one model.

    Attributes:
        sought: Partners that a downloader looks for; about twice as many find each other. Source: measured in
            `model-swarm`: 16 and 20 are no quicker and cost a third more messages.
        most: Partners at once; who comes then is told of others. Source: libtorrent's `max_peerlist` and connections
            are larger, with far smaller messages; 40 is the upper end of what Cohen (2003) connects.
        known: Others remembered who might become partners. Source: guess, twice a full list.
        told: Nodes that said hello lately and are told of to others. Source: as many as a message holds.
        swarms: Models at once for which anything of others is held. Source: guess.
        hello_s: A hello without answer by then was in vain. Source: guess, a dial takes as long.
        have_s: News of chunks wait so long for more of them, unless the last ones are longer ago. Source: measured in
            `model-swarm`: 0.1 s and 0.25 s differ by 2 % in time, and by half in messages.
        seek_s: Between two looks for more partners, and the least between two answers to a partner that seeks some.
        seek_most_s: Without anybody new the looks become rarer, down to this. Source: guess.
        refused_s: Who had enough partners is not asked again before. Source: guess.
        replace_s: As often the partner of whom nothing comes makes room for another. Source: guess, three times the
            interval of Cohen's choking algorithm.
    """

    sought: int = 12
    most: int = 40
    known: int = 100
    told: int = 50
    swarms: int = 256
    hello_s: float = 5.0
    have_s: float = 0.15
    seek_s: float = 0.5
    seek_most_s: float = 5.0
    refused_s: float = 10.0
    replace_s: float = 30.0


@dataclass(frozen=True, slots=True)
class SlotsConfig:
    """Whom this node serves, and how many at once.

    Attributes:
        least, most: Bounds of the number of slots. Source: Cohen (2003) has 4; the upper one is a guess.
        bytes_s: One slot for each of these that the line is seen to send. Source: measured in `model-swarm`: six slots
            at 100 Mbit/s are 6 % quicker than four.
        turn_s: A slot is taken away after this if another waits who got less. Source: guess; 1 s and 4 s were slightly
            slower in one run of `model-swarm` each. Cohen (2003) has 10 s.
        advised_turn_s: The same of those whom a first seed advises, as changes cost it time. Source: Cohen (2003).
        kept: Or as soon as it was sent so many chunks more than others got from it: then a turn ends as any other does.
            Source: guess, what two seconds of a third of the line send.
        idle_s: The same where nothing was asked for. Source: guess, a bit more than the longest round trip.
        void_s: The same where chunks were asked for and none was sent. Source: `first_deadline_s`, one at 35 kB/s.
        grace_s: What was asked for before the end of a slot was known there is served. Source: guess.
        look_s: Between two looks at all slots.
        guest_s: Who asks without a hello has a free slot so long. Source: guess.
        wait_most_s: Who would have to wait longer for a limit of this node is refused. Source: guess, half of
            `first_deadline_s`.
        step_bytes: Those who owe as many whole ones of it are equals. Source: measured in `model-swarm`: with 4 MiB
            some nodes got nothing for seven seconds.
        advice: Chunks at once that a first seed advises a partner to fetch. Source: guess, a round trip of them.
        advice_least: It advises more as soon as so few of them are left.
        handed_s: A chunk that was advised and that nobody else has by then may be advised to another. Source: guess.
    """

    least: int = 4
    most: int = 16
    bytes_s: float = 2e6
    turn_s: float = 2.0
    advised_turn_s: float = 10.0
    kept: int = 12
    idle_s: float = 0.4
    void_s: float = 30.0
    grace_s: float = 3.0
    look_s: float = 0.25
    guest_s: float = 10.0
    wait_most_s: float = 15.0
    step_bytes: int = 24 << 20
    advice: int = 4
    advice_least: int = 3
    handed_s: float = 4.0


@dataclass(frozen=True, slots=True)
class TransferConfig:
    """Sizes and times of transfers.

    Attributes:
        window_start: Fetches under way at a source of unknown rate. Source: docs/measurements.md.
        window_most: The most of them; bounds memory at both ends. Source: guess.
        latency_gain, queue_s: A window holds what the source sends within so many times the latency of a fetch and this
            time. Source: BBR has a gain of 2; the rest, a guess, lets short ways fill up as well.
        inflow_gain: As `latency_gain`, of all sources of a download together. Source: measured in `model-swarm`: with
            1.0 who is far from all others never finds out that its line takes more; 2.0 is a little slower.
        inflow_held_s: A fetch counts there for so long at least, or four times the usual latency: then it is held up
            elsewhere than in this node's line. Source: guess, twice what all but a hundredth take in `model-swarm`.
        inflow_least: Fetches under way altogether are not bounded to fewer. Source: guess, half a second at 100 Mbit/s.
        inflow_sample_s: Least time over which their rate is measured. Source: guess, a few chunks at 100 Mbit/s.
        latency_s: The least latency seen within this time counts, or twice it. Source: BBR has 10 s.
        rate_sample_s: Least time over which a rate is measured, so that chunks arriving together count together.
        first_deadline_s: For a fetch at a source of unknown rate: 1 MiB at 35 kB/s. Source: guess.
        deadline_least_s, deadline_most_s: Bounds of deadlines. Source: guess.
        slow_share: A source is slow that sends less than this share of the median of all. Source: guess.
        slow_among: Where fewer are known nobody is slow.
        slow_look_s: As often that is looked at. Source: guess, a few chunks of a usual source.
        deadline_margin: How many times the expected time a fetch may take. Source: guess; RFC 6298 adds 4 deviations.
        rest_first_s, rest_most_s: How long a source rests after a failure; doubles with each further one.
        again_most: How many sources are asked for one chunk in the end game. Source: guess.
        again_margin, again_least_s: In the end game a chunk is asked again of an idle source when it has taken this
            many times the expected time, at least this long: earlier it would mostly cost bytes. Source: guess.
        again_first_s: The same for a source of unknown rate. Source: guess.
        stall_s: A transfer with sources in which nothing arrives for this time has failed. Source: guess.
        lonely_s: A transfer without any source for this time has failed. Source: guess; holders come back from a change
            of network within seconds, from a restart within a minute.
        transfers_most, sources_most: Bounds of the engine's memory.
        progress_period_s: Least time between two `TransferProgress` of one transfer.
        limits, scores, swarm, slots: Of the parts.
    """

    window_start: int = 2
    window_most: int = 12
    latency_gain: float = 2.0
    queue_s: float = 0.1
    inflow_gain: float = 1.5
    inflow_held_s: float = 2.0
    inflow_least: int = 6
    inflow_sample_s: float = 0.25
    latency_s: float = 10.0
    rate_sample_s: float = 0.1
    first_deadline_s: float = 30.0
    deadline_least_s: float = 5.0
    deadline_most_s: float = 120.0
    slow_share: float = 0.2
    slow_among: int = 3
    slow_look_s: float = 2.0
    deadline_margin: float = 4.0
    rest_first_s: float = 1.0
    rest_most_s: float = 30.0
    again_most: int = 2
    again_margin: float = 2.0
    again_least_s: float = 0.5
    again_first_s: float = 2.0
    stall_s: float = 300.0
    lonely_s: float = 60.0
    transfers_most: int = 16
    sources_most: int = 64
    progress_period_s: float = 0.25
    limits: LimitsConfig = field(default_factory=LimitsConfig)
    scores: ScoresConfig = field(default_factory=ScoresConfig)
    swarm: SwarmConfig = field(default_factory=SwarmConfig)
    slots: SlotsConfig = field(default_factory=SlotsConfig)
