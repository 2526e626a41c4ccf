"""docs/protocol.cddl is the truth: real encodings fit it, and what it forbids the decoders refuse."""

from __future__ import annotations

import base64
import re
from pathlib import Path
from typing import Any

import cbor2
import pytest

from atmo.errors import WireError
from atmo.gossip import catalog, messages, records
from atmo.identity import Signer
from atmo.index.records import DOMAIN as PROVIDER_DOMAIN
from atmo.index.records import Provider, open_provider_untrusted, seal_provider
from atmo.net.bulk_frames import BULK, Ticket
from atmo.net.forwarding import FORWARD, ForwardHeader
from atmo.net.pathfinder import PATHS, PathOffer
from atmo.peer import CapabilitiesBody
from atmo.peer.messages import MESSAGES, decode_message_untrusted, encode_message
from atmo.peer.presence import Absence, AbsentBody
from atmo.relay import protocol as relay
from atmo.router.capability import Capability
from atmo.services import clock, joining, offers, topology
from atmo.transfer import manifest, terms
from atmo.transfer import messages as swarms
from atmo.trust.certificate import Certificate, issue
from atmo.trust.genesis import Genesis, found, mesh_id
from atmo.trust.joincode import JoinCode
from atmo.trust.records import InviteBody, RedemptionBody, SuccessionBody
from atmo.wire import codec
from atmo.wire.address import Address, Contact
from atmo.wire.envelope import open_untrusted, seal
from atmo.wire.schema import from_wire_untrusted, to_wire, unpack_untrusted
from tests.wire.cddl import Schema
from tests.wire.examples import FILE, HASH, NODE, fields_of, full, smallest, wrong

TEXT = (Path(__file__).parents[2] / "docs" / "protocol.cddl").read_text()
CLOSED = re.sub(r"(?<!config: \{ )\* tstr => any", "", TEXT)
"""The same with nothing but the named fields: a field that the text forgot does not hide behind the wildcard."""

CLASSES: dict[str, type[Any]] = {
    "address": Address,
    "contact": Contact,
    "genesis": Genesis,
    "join-code": JoinCode,
    "record": records.Record,
    "node-body": records.NodeRecord,
    "hardware": records.Hardware,
    "models-body": records.ModelsBody,
    "model-record": records.ModelRecord,
    "catalog-body": catalog.CatalogBody,
    "tally": catalog.Tally,
    "profile-body": records.ProfileBody,
    "deprecation-body": records.DeprecationBody,
    "access": terms.Access,
    "base": terms.Base,
    "model-offer": offers.ModelAnswer,
    "capabilities-body": CapabilitiesBody,
    "capability": Capability,
    "absent-body": AbsentBody,
    "absence": Absence,
    "revocation-body": records.RevocationBody,
    "succession-body": SuccessionBody,
    "invite-body": InviteBody,
    "redemption-body": RedemptionBody,
    "provider": Provider,
    "announcement": messages.Announcement,
    "swarm-peer": swarms.SwarmPeer,
    "range": messages.Range,
    "branch": messages.Branch,
    "manifest": manifest.Manifest,
    "model-file": manifest.ModelFile,
    "node-requirements": manifest.NodeRequirements,
    "deployment": manifest.Deployment,
    "join-grant": joining.JoinGrant,
    "join-refusal": joining.JoinRefusal,
    "topology-answer": topology.TopologyAnswer,
    "clock-answer": clock.ClockAnswer,
    "link-report": topology.LinkReport,
    "relay-challenge": relay.Challenge,
    "relay-answer": relay.Answer,
    "relay-welcome": relay.Welcome,
    **MESSAGES,
}
MAX = 64 * 1024 * 1024


CLOSED_SCHEMA, OPEN_SCHEMA = Schema(CLOSED), Schema(TEXT)


def fits(rule: str, data: bytes) -> bool:
    return CLOSED_SCHEMA.fits(rule, data)


def decodes(cls: type[Any], value: Any) -> bool:
    try:
        from_wire_untrusted(cls, value)
    except WireError:
        return False
    return True


@pytest.mark.parametrize("rule", CLASSES)
def test_a_message_with_everything_and_one_with_the_least_fit(rule: str) -> None:
    cls = CLASSES[rule]
    for value in (full(cls), smallest(cls, None)):
        assert fits(rule, codec.encode(value)), value
        assert decodes(cls, value)


@pytest.mark.parametrize("rule", CLASSES)
def test_the_text_and_the_decoder_agree_on_what_must_be_there(rule: str) -> None:
    cls = CLASSES[rule]
    whole = full(cls)
    for field in fields_of(cls):
        less = {name: value for name, value in whole.items() if name != field.name}
        assert fits(rule, codec.encode(less)) is not field.required, field.name
        assert decodes(cls, less) is not field.required, field.name


@pytest.mark.parametrize("rule", CLASSES)
def test_the_text_and_the_decoder_refuse_the_same(rule: str) -> None:
    cls = CLASSES[rule]
    whole = full(cls)
    for field in fields_of(cls):
        for value in wrong(field):
            if field.name == "config":
                continue  # any map of plain values
            changed = whole | {field.name: value}
            assert not decodes(cls, changed), (field.name, value)
            assert not fits(rule, codec.encode(changed)), (field.name, value)


@pytest.mark.parametrize("rule", [rule for rule in CLASSES if rule != "manifest"])
def test_a_newer_peer_may_say_more(rule: str) -> None:
    more = smallest(CLASSES[rule], None) | {"from the future": [1, {"a": b"b"}]}
    assert OPEN_SCHEMA.fits(rule, codec.encode(more))
    assert not fits(rule, codec.encode(more))
    assert decodes(CLASSES[rule], more)


@pytest.mark.parametrize("name", MESSAGES)
def test_messages_between_neighbours(name: str) -> None:
    message: Any = from_wire_untrusted(MESSAGES[name], full(MESSAGES[name]))
    data = codec.encode([name, full(MESSAGES[name])])
    assert fits("message", data)
    assert fits("message", encode_message(message))
    assert not fits("message", codec.encode([f"{name}2", full(MESSAGES[name])]))
    with pytest.raises(WireError):
        decode_message_untrusted(codec.encode([f"{name}2", full(MESSAGES[name])]))


def test_envelopes_and_what_is_signed() -> None:
    signer = Signer(b"s" * 32)
    sealed = seal(signer, "atmo/record/1", HASH, b"payload")
    protected, _, payload, _ = codec.decode_untrusted(sealed, tag=18)
    assert fits("envelope", sealed)
    assert fits("protected-header", protected)
    assert fits("external-data", codec.encode(["atmo/record/1", HASH]))
    assert fits("sig-structure", codec.encode(["Signature1", protected, b"external", payload]))
    assert not fits("envelope", sealed[1:])
    assert not fits("protected-header", codec.encode({1: -7, 4: bytes(NODE)}))


def test_a_provider_record() -> None:
    signer = Signer(b"s" * 32)
    made = Provider(HASH, (Address("192.0.2.1", 11_450),), 1_800_000_000, 1_200, 7, 1, b"c", None)
    sealed = seal_provider(signer, HASH, made)
    assert fits("provider", open_untrusted(sealed, PROVIDER_DOMAIN, HASH).payload)
    assert open_provider_untrusted(sealed, HASH).provider == made


def test_genesis_and_certificate() -> None:
    signer = Signer(b"s" * 32)
    genesis = found(signer, "home", 1_800_000_000, bytes(16))
    assert fits("genesis", open_untrusted(genesis, "atmo/genesis/1", b"").payload)
    mesh = mesh_id(genesis)
    certificate = issue(
        signer, mesh, Certificate(NODE, signer.node_id, ("edge", "admin"), "box", 1, 2_000_000_000, bytes(16))
    )
    assert fits("envelope", certificate)
    claims = open_untrusted(certificate, "atmo/certificate/1", mesh).payload
    assert fits("certificate-claims", claims)
    without_roles = {key: value for key, value in codec.decode_untrusted(claims).items() if key != -70_001}
    assert not fits("certificate-claims", codec.encode(without_roles))


def test_a_join_code_holds_what_the_text_says() -> None:
    code = JoinCode(HASH, NODE, bytes(16), (Address("192.0.2.1", 11_450),), 1_800_000_000)
    digits = code.text().removeprefix("atmo1").upper()
    data = base64.b32decode(digits + "=" * (-len(digits) % 8))
    assert fits("join-code", data[:-4])


def test_a_manifest() -> None:
    signer = Signer(b"s" * 32)
    made = manifest.Manifest("m", "1.0", "classifier", FILE.path, "onnx", FILE.size_bytes, FILE.sha256, (FILE,))
    sealed = manifest.seal_manifest(signer, made)
    payload = open_untrusted(sealed, "atmo/manifest/1", b"").payload
    assert fits("manifest", payload)
    assert unpack_untrusted(manifest.Manifest, payload, MAX) == made


PATH_OFFER = PathOffer(bytes(8), bytes(32), (Address("192.0.2.1", 11_450),), True, "wss://relay.example.org/")


@pytest.mark.parametrize(
    ("rule", "value"),
    [
        ("gossip-head", {"protocol": "atmo/gossip/1"}),
        ("join-head", {"protocol": "atmo/join/1"} | full(joining.JoinRequest)),
        ("manifest-head", {"protocol": "atmo/manifest/1", "manifest": HASH}),
        ("models-head", {"protocol": offers.PROTOCOL}),
        ("models-head", {"protocol": offers.PROTOCOL} | full(offers.ModelRequest)),
        ("models-answer", full(offers.ModelAnswer)),
        ("models-answer", {"error": "busy"}),
        ("chunk-head", {"protocol": "atmo/chunks/1", "chunk": HASH}),
        ("delta-head", {"protocol": "atmo/deltas/1", "chunk": HASH, "base": HASH}),
        ("delta-answer", {"size": 5, "delta": True}),
        ("delta-answer", {"error": "busy"}),
        ("forward-head", {"protocol": FORWARD} | full(ForwardHeader)),
        ("paths-head", {"protocol": PATHS} | to_wire(PATH_OFFER)),
        ("paths-answer", to_wire(PATH_OFFER)),
        ("bulk-head", {"protocol": BULK}),
        ("bulk-answer", to_wire(Ticket(bytes(16), bytes(32)))),
        ("bulk-answer", {"error": "busy"}),
        ("forward-answer", {"ok": True}),
        ("forward-answer", {"error": "busy"}),
        ("topology-head", {"protocol": topology.PROTOCOL}),
        ("clock-head", {"protocol": clock.PROTOCOL}),
        ("join-answer", ["grant", full(joining.JoinGrant)]),
        ("join-answer", ["refusal", full(joining.JoinRefusal)]),
        ("transfer-answer", {"size": 1}),
        ("transfer-answer", {"error": "missing"}),
        ("execute-frame", {"end": True}),
        ("execute-frame", {"part": b"{}"}),
        ("execute-frame", {"piece": b"{"}),
        (
            "execute-frame",
            {"error": {"status": 404, "message": "m", "kind": "k", "code": None, "param": "model"}},
        ),
        (
            "execute-head",
            {
                "protocol": "atmo/execute/1",
                "operation": "chat",
                "capability": "ollama:llama3.2",
                "stream": True,
                "deadline_ms": 1,
                "request_id": "r",
                "size": 2,
            },
        ),
    ],
)
def test_requests(rule: str, value: Any) -> None:
    assert fits(rule, codec.encode(value))
    if isinstance(value, dict) and "protocol" in value:
        assert fits("request-head", codec.encode(value))
        assert not fits("request-head", codec.encode(value | {"protocol": "atmo/other/1"}))


@pytest.mark.parametrize("text", ["a = b", "a = tstr a = tstr", "a = <tstr>", "a = [tstr", "a tstr"])
def test_the_validator_knows_its_own_limits(text: str) -> None:
    with pytest.raises(SyntaxError):
        Schema(text)


@pytest.mark.parametrize(
    ("text", "good", "bad"),
    [
        ("a = tstr .size (1..2)", ["x", "ü"], ["", "xyz", "üx", b"x", 1]),
        ("a = 1..3 / 7", [1, 3, 7], [0, 4, True, 1.0, "1"]),
        ("a = {k: int, ? o: tstr, * tstr => any}", [{"k": 1}, {"k": 1, "o": "", "x": []}], [{}, {"k": 1, "o": 1}]),
        ("a = {1 => int, -2 => bool}", [{1: 2, -2: True}], [{1: 2}, {1: 2, -2: True, 3: 4}, {"1": 2, -2: True}]),
        ("a = [1*2 int, tstr]", [[1, "x"], [1, 2, "x"]], [["x"], [1], [1, 2, 3, "x"], [1, "x", "y"]]),
        ('a = ["x", b] / null b = {}', [["x", {}], None], [["x", {"y": 1}], ["y", {}], []]),
        ("a = #6.18([bstr])", [cbor2.CBORTag(18, [b""])], [cbor2.CBORTag(19, [b""]), [b""]]),
    ],
)
def test_the_validator(text: str, good: list[Any], bad: list[Any]) -> None:
    schema = Schema(text)
    assert [value for value in good if not schema.fits("a", cbor2.dumps(value))] == []
    assert [value for value in bad if schema.fits("a", cbor2.dumps(value))] == []
