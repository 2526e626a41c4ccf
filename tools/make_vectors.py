"""Writes the golden vectors of the wire format: tests/wire/vectors/wire.json. Run it only when the format changes.

Usage: .venv/bin/python tools/make_vectors.py
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from blake3 import blake3

from atmo.gossip.messages import Flood, Goodbye, Hello, Ping, Pong, Summary, SummaryEntry, encode_message
from atmo.gossip.records import DOMAIN as RECORD_DOMAIN
from atmo.gossip.records import Record
from atmo.identity import Signer
from atmo.trust.certificate import Certificate, issue
from atmo.trust.genesis import found, mesh_id
from atmo.trust.joincode import JoinCode
from atmo.wire import codec
from atmo.wire.address import Address
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
    messages = {
        "hello": Hello(mesh, certificate, None, "0.1.0"),
        "ping": Ping(4_294_967_295),
        "pong": Pong(4_294_967_295, 3),
        "flood": Flood(seal(MEMBER, RECORD_DOMAIN, mesh, record)),
        "summary": Summary((SummaryEntry(MEMBER.node_id, "models", "0", 1_800_000_000, 7),)),
        "goodbye": Goodbye("going home"),
    }
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
                (MEMBER, "atmo/manifest/1", b"", bytes(300)),
            )
        ],
        "frames": [{"body": body.hex(), "frame": frame(body).hex()} for body in (b"", b"a", bytes(300))],
        "genesis": {"sealed": genesis.hex(), "mesh": mesh.hex(), "blake3": blake3(genesis).hexdigest()},
        "certificate": {"mesh": mesh.hex(), "sealed": certificate.hex(), "subject": str(MEMBER.node_id)},
        "join_code": {"text": code.text(), "encoding": pack(code).hex()},
        "messages": {name: encode_message(message).hex() for name, message in messages.items()},
    }


def main() -> None:
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    TARGET.write_text(json.dumps(vectors(), indent=1, ensure_ascii=False) + "\n")
    print(f"wrote {TARGET}", file=sys.stderr)


if __name__ == "__main__":
    main()
