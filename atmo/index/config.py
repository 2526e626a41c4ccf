"""Periods, bounds and counters of the index."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class IndexConfig:
    """Periods and bounds.

    Attributes:
        k: Contacts in a bucket, and nodes that a lookup finds. Source: Kademlia (IPTPS 2002), section 2.2.
        replicas: Holders of a record. Source: choice; Kademlia stores at all k, but each costs a dial for each renewal,
            and ten that die at 30 % in between or lie at 20 % all fail once in 3,000 times.
        alpha: Requests at once on one path of a lookup. Source: the same, section 2.3.
        paths: Disjoint paths of a lookup for providers or a node. Source: S/Kademlia (ICPADS 2007), section 4.4; its
            figures grow little beyond this.
        publish_paths: The same when a record is stored. Source: guess.
        answer_contacts: Contacts in one answer. Source: Kademlia, section 2.3, which answers with k.
        answer_providers: Provider records in one answer. Source: guess; with certificates they are 600 bytes each.
        answer_bytes: Of provider records in one answer. Source: guess.
        hedge_s: A request without an answer after this frees its place for the next candidate. Source: guess; a dial
            and a request between far cities take about 0.6 s, between most less than 0.4 s.
        timeout_s: A request without an answer after this has failed. Source: guess; two retransmissions fit.
        sparse: The k closest found may be this much farther away than those around this node; beyond, liars may be
            at work. Source: with 20 nodes each, the ratio of two distances is over 2.5 in 0.5 % of honest cases; of the
            closest ones among a fifth of all nodes it is 5.
        asked_most: Requests after which a lookup believes that nodes are sparse there. Source: guess.
        asked_limit: Requests of one lookup at most. Source: guess.
        lookup_s: A lookup ends after this at the latest. Source: guess.
        lookups: At once, own and others'. Source: guess.
        want: A lookup for providers ends with so many. Source: guess.
        distrust: Contacts of one teller that fail in one lookup, none of them answering, until the rest of them is
            not asked. Source: guess.
        strikes: Lookups in which a teller was so distrusted until it is left aside. Source: guess.
        agree: A lookup for providers ends when so many holders have answered, the last of them with nothing new, and
            hold no more than is known. Source: guess; under 20 % liars 0.2 % of such groups are all liars.
        lifetime_s: Of own provider records. Source: ../shared/design.md, 10 to 30 minutes.
        renew_s: Own provider records are stored again after this, a third of the lifetime.
        direct_most: Renewals in a row that go to the known holders without a lookup. Source: guess.
        retry_s: Before a record that nobody took is stored again; doubles up to `renew_s`. Source: guess.
        publishing: Records being stored at once. Source: guess.
        publications_most: Own records. Source: guess.
        skew_s: Tolerated difference of clocks. Source: docs/PROTOCOL.md section 8.
        slack: A record is stored for its whole lifetime only where fewer contacts than this are closer to its key.
            Source: guess; one and a half times k, as views of a mesh under churn differ.
        cache: Whether a found record is copied to the closest node asked that had none.
        cache_s: Such a copy lives no longer. Source: guess.
        cached: Such copies in one store. Source: guess.
        key_records, author_records, records, record_bytes: Bounds of the store. Source: guesses.
        spares, rumours: Contacts waiting for a place in one bucket: those that were heard, those that were only told
            of. Source: guess.
        told_most: Rumours taken from one answer, so that liars, who tell of many liars, do not fill the table. Source:
            guess.
        bucket_group, table_group: Contacts of one network group (IPv4 /24, IPv6 /48) in a bucket and in the table.
            Source: go-libp2p-kbucket's peer diversity filter has 2 and 3; ours are machines of one owner more often.
        failures: Failures in a row after which a contact without a substitute is dropped. Source: Kademlia, section
            4.1, has five; we make sure that somebody else answers meanwhile.
        probe_s: Between two checks of a contact. Source: choice; three requests a minute at most.
        fresh_s: A contact heard this lately is not checked. Source: guess.
        settle_s: Between two checks while buckets fill after the start. Source: guess.
        settling: Such quick checks. Source: guess.
        refresh_s: Between two lookups of the own position. Source: guess; Kademlia, section 2.3, has an hour.
        gap_s: So long counts how dense a lookup found the nodes to be. Source: guess.
        shun_s: A liar is left aside so long. Source: guess.
        shunned: Liars remembered. Source: guess.
        dead_s: Who did not answer is not asked again so soon, as others go on telling of it. Source: guess.
        dead: So many of them are remembered. Source: guess.
    """

    k: int = 20
    replicas: int = 10
    alpha: int = 3
    paths: int = 3
    publish_paths: int = 3
    answer_contacts: int = 20
    answer_providers: int = 8
    answer_bytes: int = 24 * 1024
    hedge_s: float = 0.4
    timeout_s: float = 2.5
    sparse: float = 2.5
    asked_most: int = 60
    asked_limit: int = 150
    lookup_s: float = 15.0
    lookups: int = 64
    want: int = 20
    distrust: int = 6
    strikes: int = 3
    agree: int = 4
    lifetime_s: int = 1_200
    renew_s: float = 400.0
    direct_most: int = 2
    retry_s: float = 5.0
    publishing: int = 2
    publications_most: int = 1_024
    skew_s: float = 60.0
    slack: int = 30
    cache: bool = True
    cache_s: float = 120.0
    cached: int = 256
    key_records: int = 64
    author_records: int = 512
    records: int = 8_192
    record_bytes: int = 8 * 1024 * 1024
    spares: int = 5
    rumours: int = 5
    told_most: int = 2
    bucket_group: int = 2
    table_group: int = 8
    failures: int = 3
    probe_s: float = 20.0
    fresh_s: float = 600.0
    settle_s: float = 2.0
    settling: int = 30
    refresh_s: float = 1_800.0
    gap_s: float = 900.0
    shun_s: float = 600.0
    shunned: int = 64
    dead_s: float = 60.0
    dead: int = 64


@dataclass(slots=True)
class IndexStats:
    """Counters since start.

    Attributes:
        asked: Requests sent.
        answered: Answers that came in time.
        failed: Requests without one.
        served: Requests of others answered.
        lookups: Begun.
        lookups_empty: That found nothing.
        stored: Records of others taken.
        refused: Records of others not taken.
        published: Times that a record of ours was stored.
        full: Times that it was not needed, as its key has all the records that fit.
        shunned: Nodes found to tell of contacts that do not answer.
    """

    asked: int = 0
    answered: int = 0
    failed: int = 0
    served: int = 0
    lookups: int = 0
    lookups_empty: int = 0
    stored: int = 0
    refused: int = 0
    published: int = 0
    full: int = 0
    shunned: int = 0
