"""The format of yesterday is the format of today: bytes that were written once still come out and still read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3

from atmo.identity import NodeId, Signer
from atmo.peer.messages import MESSAGES, decode_message_untrusted, encode_message
from atmo.trust.certificate import open_certificate_untrusted
from atmo.trust.genesis import mesh_id, open_genesis_untrusted
from atmo.trust.joincode import parse_join_code
from atmo.wire import codec
from atmo.wire.envelope import open_untrusted, seal
from atmo.wire.frames import FrameReader, frame
from atmo.wire.schema import pack

GOLDEN: dict[str, Any] = json.loads((Path(__file__).parent / "vectors" / "wire.json").read_text())


def data(vector: dict[str, Any], name: str) -> bytes:
    return bytes.fromhex(vector[name])


@pytest.mark.parametrize("vector", GOLDEN["values"], ids=lambda vector: vector["encoding"])
def test_values(vector: dict[str, Any]) -> None:
    assert codec.encode(vector["value"]) == data(vector, "encoding")
    assert codec.decode_untrusted(data(vector, "encoding")) == vector["value"]


@pytest.mark.parametrize("vector", GOLDEN["keys"], ids=lambda vector: vector["text"])
def test_keys(vector: dict[str, Any]) -> None:
    assert Signer(data(vector, "seed")).node_id == NodeId.parse(vector["text"]) == data(vector, "node_id")


@pytest.mark.parametrize("vector", GOLDEN["envelopes"], ids=lambda vector: vector["domain"])
def test_envelopes(vector: dict[str, Any]) -> None:
    signer = Signer(data(vector, "seed"))
    domain, mesh, payload, sealed = vector["domain"], *(data(vector, name) for name in ("mesh", "payload", "sealed"))
    assert seal(signer, domain, mesh, payload) == sealed
    opened = open_untrusted(sealed, domain, mesh)
    assert (opened.author, opened.payload) == (signer.node_id, payload)


@pytest.mark.parametrize("vector", GOLDEN["frames"], ids=lambda vector: vector["frame"][:8])
def test_frames(vector: dict[str, Any]) -> None:
    reader = FrameReader()
    reader.feed_untrusted(data(vector, "frame"))
    assert reader.next_untrusted() == data(vector, "body")
    assert frame(data(vector, "body")) == data(vector, "frame")


def test_genesis_and_certificate() -> None:
    genesis, certificate = GOLDEN["genesis"], GOLDEN["certificate"]
    assert open_genesis_untrusted(data(genesis, "sealed")).name == "home"
    assert mesh_id(data(genesis, "sealed")) == data(genesis, "mesh") == blake3(data(genesis, "sealed")).digest()
    opened = open_certificate_untrusted(data(certificate, "sealed"), data(certificate, "mesh"))
    assert str(opened.subject) == certificate["subject"]
    assert opened.roles == ("edge", "gateway")


def test_the_join_code() -> None:
    code = parse_join_code(GOLDEN["join_code"]["text"])
    assert code.text() == GOLDEN["join_code"]["text"]
    assert pack(code) == data(GOLDEN["join_code"], "encoding")


@pytest.mark.parametrize("name", GOLDEN["messages"])
def test_messages(name: str) -> None:
    encoding = data(GOLDEN["messages"], name)
    assert encode_message(decode_message_untrusted(encoding)) == encoding


def test_every_message_has_a_vector() -> None:
    assert set(GOLDEN["messages"]) == set(MESSAGES)
