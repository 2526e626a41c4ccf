"""Writes the golden vectors of the wire format: tests/wire/vectors/wire.json. Run it only when the format changes.

Usage: .venv/bin/python tools/make_vectors.py
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from blake3 import blake3

from atmo.gossip import messages as gossip
from atmo.gossip.entry import entry_of
from atmo.gossip.listings import pages
from atmo.gossip.messages import Goodbye, Hello, Ping, Pong
from atmo.gossip.records import DOMAIN as RECORD_DOMAIN
from atmo.gossip.records import Record
from atmo.identity import Signer
from atmo.index import messages as index
from atmo.index.records import DOMAIN as PROVIDER_DOMAIN
from atmo.index.records import Provider
from atmo.peer.messages import encode_message
from atmo.peer.renewal import Renew, RenewalRefused, Renewed
from atmo.peer.rights import Successions
from atmo.peer.routes import RouteAnswer, RouteQuery
from atmo.transfer import messages as swarm
from atmo.trust.certificate import Certificate, issue
from atmo.trust.genesis import found, mesh_id
from atmo.trust.joincode import JoinCode
from atmo.wire import codec
from atmo.wire.address import Address, Contact
from atmo.wire.envelope import seal
from atmo.wire.frames import frame
from atmo.wire.schema import pack

TARGET = Path(__file__).resolve().parents[1] / "tests" / "wire" / "vectors" / "wire.json"
FOUNDER, MEMBER = Signer(bytes(range(32))), Signer(bytes(range(32, 64)))
VALUES: list[Any] = [
    *[None, False, True, 0, 23, 24, 255, 256, 65_535, 65_536, 2**32, 2**64 - 1, -1, -24, -25, -(2**64)],
    *[0.0, 1.5, 65_504.0, 100_000.0, 1.1, -4.1, "", "atmo", "ü水", [], [1, [2, [3]]], {}],
    *[{"a": 1, "b": [None, True]}, {"b": 1, "aa": 2, "": 3}],
]


def vectors() -> dict[str, Any]:
    """Returns every vector; the same on each call and each machine."""
    genesis = found(FOUNDER, "home", 1_800_000_000, b"nonce of 16 byte")
    mesh = mesh_id(genesis)
    claims = Certificate(
        MEMBER.node_id, FOUNDER.node_id, ("edge", "gateway"), "laptop", 1_800_000_000, 1_900_000_000, bytes(16)
    )
    certificate = issue(FOUNDER, mesh, claims)
    record = pack(Record("models", "0", 1_800_000_000, 7, 1_800_000_100, 900, b""))
    code = JoinCode(mesh, FOUNDER.node_id, bytes(range(16)), (Address("192.0.2.1", 11_450),), 1_800_086_400)
    address = Address("192.0.2.1", 11_450)
    provider = pack(Provider(bytes(32), (address,), 1_800_000_000, 1_200, 1_800_000_000, 3, certificate))
    sealed_record, sealed_provider = (
        seal(MEMBER, RECORD_DOMAIN, mesh, record),
        seal(MEMBER, PROVIDER_DOMAIN, mesh, provider),
    )
    messages = examples(mesh, certificate, sealed_record, sealed_provider)
    return {
        "about": "Golden vectors of the wire format; tools/make_vectors.py wrote them. Bytes are hexadecimal.",
        "values": [{"value": value, "encoding": codec.encode(value).hex()} for value in VALUES],
        "keys": [
            {"seed": signer.seed.hex(), "node_id": signer.node_id.hex(), "text": str(signer.node_id)}
            for signer in (FOUNDER, MEMBER)
        ],
        "envelopes": [
            {
                "seed": signer.seed.hex(),
                "domain": domain,
                "mesh": where.hex(),
                "payload": payload.hex(),
                "sealed": seal(signer, domain, where, payload).hex(),
            }
            for signer, domain, where, payload in (
                (FOUNDER, "atmo/genesis/1", b"", b""),
                (FOUNDER, RECORD_DOMAIN, mesh, b"payload"),
                (MEMBER, RECORD_DOMAIN, mesh, record),
                (MEMBER, PROVIDER_DOMAIN, mesh, provider),
                (MEMBER, "atmo/manifest/1", b"", bytes(300)),
            )
        ],
        "frames": [{"body": body.hex(), "frame": frame(body).hex()} for body in (b"", b"a", bytes(300))],
        "genesis": {"sealed": genesis.hex(), "mesh": mesh.hex(), "blake3": blake3(genesis).hexdigest()},
        "certificate": {"mesh": mesh.hex(), "sealed": certificate.hex(), "subject": str(MEMBER.node_id)},
        "join_code": {"text": code.text(), "encoding": pack(code).hex()},
        "messages": {name: encode_message(message).hex() for name, message in messages.items()},
    }


def examples(mesh: bytes, certificate: bytes, record: bytes, provider: bytes) -> dict[str, Any]:
    """Returns one message between neighbours of each kind."""
    member, founder, name = MEMBER.node_id, FOUNDER.node_id, blake3(record).digest(16)
    models = entry_of(member, Record("models", "0", 1_800_000_000, 7, 1_800_000_000, 300, b"", False), b"")
    (page,) = pages((f"{models.name[0]:02x}",), [models], 1_000)
    listing = replace(page, after=models.name[:1] + bytes(8), more=True)
    contact = Contact(member, (Address("192.0.2.1", 11_450), Address("2001:db8::1", 11_450)))
    return {
        "hello": Hello(mesh, certificate, None, "0.1.0", 3),
        "ping": Ping(4_294_967_295),
        "pong": Pong(4_294_967_295, 3),
        "introduce": gossip.Introduce(),
        "goodbye": Goodbye("going home"),
        "probe-request": gossip.ProbeRequest(member),
        "probe-answer": gossip.ProbeAnswer(member, True),
        "neighbour": gossip.Neighbour(contact, True, True),
        "neighbour-answer": gossip.NeighbourAnswer(True),
        "forward-join": gossip.ForwardJoin(contact, 6),
        "disconnect": gossip.Disconnect(),
        "shuffle": gossip.Shuffle((contact, Contact(founder, ())), 6, (member,)),
        "shuffle-answer": gossip.ShuffleAnswer((contact,), (member, founder)),
        "gossip": gossip.Gossip(record, 2),
        "ihave": gossip.IHave((gossip.Announcement(name, 3),)),
        "graft": gossip.Graft((name,)),
        "prune": gossip.Prune(),
        "digest": gossip.Digest(
            bytes(range(8)), (gossip.Range("a1", 7, bytes(range(6))),), (gossip.Branch("b", bytes(range(128))),)
        ),
        "listing": listing,
        "want": gossip.Want(models.name, ("b",)),
        "records": gossip.Records((record,)),
        "find-node": index.FindNode(1, bytes(32), contact),
        "find-providers": index.FindProviders(2, bytes(32)),
        "found": index.Found(2, (contact,), (provider,), 1),
        "provide": index.Provide(3, provider),
        "provided": index.Provided(3, 1_200),
        "route-query": RouteQuery(bytes(range(8)), founder, 3, (member,)),
        "route-answer": RouteAnswer(bytes(range(8)), (founder,)),
        "successions": Successions((record,)),
        "renew": Renew(1_900_000_000),
        "renewed": Renewed(certificate, certificate),
        "renewal-refused": RenewalRefused("early"),
        "swarm-hello": swarm.SwarmHello(bytes(range(32)), 12, b"\xff\x03", False, True, 36),
        "swarm-have": swarm.SwarmHave(bytes(range(32)), (10, 11)),
        "swarm-slot": swarm.SwarmSlot(bytes(range(32)), True, (3, 7)),
        "swarm-peers": swarm.SwarmPeers(bytes(range(32)), (swarm.SwarmPeer(contact, 88),)),
        "swarm-leave": swarm.SwarmLeave(bytes(range(32)), True),
    }


def main() -> None:
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    TARGET.write_text(json.dumps(vectors(), indent=1, ensure_ascii=False) + "\n")
    print(f"wrote {TARGET}", file=sys.stderr)


if __name__ == "__main__":
    main()
