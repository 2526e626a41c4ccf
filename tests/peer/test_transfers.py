"""What the shell asks of transfers through the peer, and swarms over its links."""

from __future__ import annotations

from atmo.engine import CancelFetch, Contact, Dial, FetchChunk
from atmo.transfer.engine import TransferDone
from atmo.transfer.limits import LimitsConfig
from atmo.transfer.messages import SwarmPeer, SwarmPeers
from tests.peer.kit import pair
from tests.trust.kit import EVE

NAME = "ab" * 32


def test_a_swarm_over_a_link() -> None:
    _, anna, bert = pair()
    bert.tells(lambda peer, now: peer.share(now, NAME, 2))
    anna.tells(lambda peer, now: peer.want(now, NAME, [10, 10], set(), [bert.id], serves=True))
    assert anna.peer.transfer.partners(NAME) == (bert.id,)
    for fetch in (fetches := anna.of(FetchChunk)):
        assert bert.peer.may_serve(bert.table.now, anna.id, 10) == 0.0
        bert.peer.served(bert.table.now, anna.id, 10)
        anna.tells(lambda peer, now, fetch=fetch: peer.chunk_done(now, fetch))  # type: ignore[misc]
    assert len(fetches) == 2
    assert anna.emitted(TransferDone) == [TransferDone(NAME)]
    assert bert.peer.transfer.partners(NAME) == ()
    bert.tells(lambda peer, now: peer.unshare(now, NAME))
    assert anna.faults() == bert.faults() == []


def test_a_download_is_paused_and_goes_on_under_a_limit() -> None:
    _, anna, bert = pair()
    anna.tells(lambda peer, now: peer.want(now, "t", [10] * 9, set(), [bert.id], patient=True))
    assert len(anna.of(FetchChunk)) == 2
    anna.tells(lambda peer, now: peer.pause(now, "t"))
    assert len(anna.of(CancelFetch)) == 2
    anna.tells(lambda peer, now: peer.set_limits(now, LimitsConfig(download_bytes_s=5.0)))
    anna.tells(lambda peer, now: peer.resume(now, "t"))
    assert len(anna.of(FetchChunk)) == 3


def test_who_is_told_of_itself_does_not_dial_itself() -> None:
    _, anna, bert = pair()
    anna.tells(lambda peer, now: peer.want(now, NAME, [10], set(), [], patient=True))
    named = [SwarmPeer(Contact(node, anna.peer.addresses())) for node in (anna.id, EVE.node_id)]
    before = len(anna.of(Dial))
    anna.hears(bert.id, SwarmPeers(bytes.fromhex(NAME), tuple(named)))
    assert [dial.node for dial in anna.of(Dial)[before:]] == [EVE.node_id]
