"""The numbers of bulk connections: limits, times, counters. No behaviour."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class BulkConfig:
    """How bulk connections are bounded.

    Attributes:
        ticket_s: A ticket is worth something for so long. Source: guess; a connection on the far side of the earth is
            made in 1 s.
        tickets: Unused tickets, of all nodes.
        node_tickets: Unused tickets of one node; a further one takes the place of its oldest.
        connections: Incoming connections with a ticket, of all nodes. Source: guess; each is a file descriptor and at
            most one chunk in memory, twice.
        node_connections: The same of one node. Source: twice what an asker opens.
        opening: Connections that have shown no ticket yet. Source: guess.
        host_opening: The same of one IPv4 address or one IPv6 /64. Source: guess.
        opening_s: For showing one. Source: guess, as `ticket_s`.
        idle_s: An incoming connection without a request for so long is closed. Source: twice `rest_open_s`.
        answering: Chunks in memory for answers. Source: guess, 32 MiB.
        answer_s: Who takes longer for one answer is given up. Source: guess, twice the longest deadline of a fetch.
        leave_s: A connection that sends chunks one after the other asks the loop so often whether it may go on, and
            tells it what was sent, instead of for each chunk. Source: measured (docs/measurements.md).
        leave_most: Chunks that it may send within that time without asking. Source: guess, 3 GB/s.
        asked_connections: Connections to all holders, each with one chunk in memory at most. Source: guess.
        asked_node_connections: Connections to one holder, with one request each under way. Source: measured, four
            are a quarter faster than two and as fast as eight (docs/measurements.md).
        asked_lan_connections: The same on a LAN, where an answer begins at once: one chunk travels while the last one
            is verified and written. Source: measured, four are no faster (docs/measurements.md), and a chunk that was
            under way is lost with its downloader.
        rest_open_s: A connection to a holder that is not used for so long is closed. Source: guess.
        connect_s: For a ticket and a connection; four round trips come on top. Source: guess: so long the chunk could
            have been on its way over QUIC.
        addresses: Tried of one holder.
        failed_s: A holder to whom there was no connection is not tried again so soon. Source: guess.
        broken_s: The same after a connection that had worked broke. Source: guess.
        holders: Of whom something is remembered.
        spare_buffers: Of a chunk each, kept for the next chunks at either end. Source: what one holder and its asker
            use at once.
        clear_on_lan: Chunks travel in clear where the other end is on a private network of this machine, and agrees.
    """

    ticket_s: float = 10.0
    tickets: int = 512
    node_tickets: int = 8
    connections: int = 128
    node_connections: int = 8
    opening: int = 64
    host_opening: int = 16
    opening_s: float = 10.0
    idle_s: float = 30.0
    answering: int = 32
    answer_s: float = 300.0
    leave_s: float = 0.02
    leave_most: int = 64
    asked_connections: int = 64
    asked_node_connections: int = 4
    asked_lan_connections: int = 2
    rest_open_s: float = 15.0
    connect_s: float = 1.0
    addresses: int = 3
    failed_s: float = 60.0
    broken_s: float = 2.0
    holders: int = 512
    spare_buffers: int = 8
    clear_on_lan: bool = False


@dataclass(slots=True)
class BulkStats:
    """Counters since start.

    Attributes:
        tickets: Given to askers.
        accepted: Connections that showed a good one.
        refused_full: Connections closed because there are too many.
        refused_tickets: Connections with an unknown, used or late ticket.
        late: Connections that showed none in time.
        opened: Connections made to holders.
        failed: Tries to make one that failed.
        broken: Connections, of either kind, that broke or carried what their other end did not seal.
        cut: Connections closed because the other node is no longer linked, or no member.
    """

    tickets: int = 0
    accepted: int = 0
    refused_full: int = 0
    refused_tickets: int = 0
    late: int = 0
    opened: int = 0
    failed: int = 0
    broken: int = 0
    cut: int = 0
