"""What members say of models beside adverts: digests of large catalogs, profiles, deprecations, and who has a say."""

from __future__ import annotations

from dataclasses import replace

import pytest

from atmo.clock import Now
from atmo.errors import WireError
from atmo.gossip.messages import Gossip
from atmo.gossip.records import (
    CATALOG,
    DEPRECATION,
    DEPRECATION_LIFETIME_S,
    MODELS,
    PROFILE,
    DeprecationBody,
    Hardware,
    ModelRecord,
    ModelsBody,
    ProfileBody,
    Record,
    deprecation_key,
)
from atmo.gossip.sync import RecordChanged
from atmo.index.keys import model_capability_key, model_key
from atmo.peer import affairs
from atmo.peer.directory import Directory
from atmo.peer.rules import judge_untrusted
from atmo.transfer.requirements import Profile
from atmo.wire.schema import pack
from tests.gossip.kit import sealed
from tests.peer.kit import ADDRESS, Side, Table, model, pair
from tests.trust.kit import (
    ADMIN,
    ANNA,
    BERT,
    EVE,
    FOUNDER,
    START_S,
    YEAR_S,
    admin_certificate,
    certificate,
    signer,
    trust,
)

NOW = Now(0.0, START_S)


def many(count: int, caps: tuple[str, ...] = ("chat",)) -> list[ModelRecord]:
    return [
        replace(model(f"m{number}-" + "x" * 100), manifest=number.to_bytes(32, "big"), capabilities=caps)
        for number in range(count)
    ]


def said(anna: Side, bert: Side) -> set[str]:
    """Returns the kinds of bert's records that anna has and that are not empty."""
    slots = anna.peer.sync.versions()
    return {kind for node, kind, key in slots if node == bert.id and anna.peer.sync.record(node, kind, key).body}  # type: ignore[union-attr]


# --- large catalogs -----------------------------------------------------------------------------------------------


def test_a_large_catalog_is_told_by_its_digest_and_a_small_one_in_full_again() -> None:
    _, anna, bert = pair()
    catalog = many(1_200)
    bert.tells(lambda peer, now: peer.publish_models(now, catalog))
    assert CATALOG in said(anna, bert)
    assert MODELS not in said(anna, bert)
    assert anna.models() == []
    assert bert.models() == [record.name for record in catalog], "it knows its own"
    assert list(anna.peer.large_catalogs(catalog[7].name, ["chat"])) == [bert.id]
    assert anna.peer.large_catalogs(None, ["vision"]) == {}
    assert bert.peer.large_catalogs() == {}, "nobody asks itself"
    bert.tells(lambda peer, now: peer.publish_models(now, catalog[:3]))
    assert MODELS in said(anna, bert)
    assert CATALOG not in said(anna, bert)
    assert anna.models() == bert.models() == [record.name for record in catalog[:3]]
    assert anna.peer.large_catalogs() == {}


def test_what_a_node_answered_counts_until_its_catalog_changes() -> None:
    table, anna, bert = pair()
    catalog = many(1_200)
    bert.tells(lambda peer, now: peer.publish_models(now, catalog))
    anna.peer.learn_models(table.now, bert.id, catalog[:2])
    anna.peer.learn_models(table.now, bert.id, catalog[1:3])
    assert sorted(anna.models()) == sorted(record.name for record in catalog[:3])
    bert.tells(lambda peer, now: peer.publish_models(now, catalog))
    assert len(anna.models()) == 3, "it said the same again"
    bert.tells(lambda peer, now: peer.publish_models(now, catalog[1:]))
    assert anna.models() == []
    anna.peer.learn_models(table.now, anna.id, catalog[:2])
    assert anna.models() == [], "she tells no digest"


def test_answers_that_are_remembered_are_bounded() -> None:
    _, anna, bert = pair()
    directory, records = Directory(own=anna.id), many(5)
    bert.tells(lambda peer, now: peer.publish_models(now, many(1_200)))
    body = anna.peer.sync.record(bert.id, CATALOG, "0")
    assert body is not None
    nodes = [anna.id, *(signer(f"n{number}").node_id for number in range(70))]
    for node in nodes:
        directory.changed(RecordChanged(node, CATALOG, "0", body))
        directory.answered(node, records, most=3)
    assert {node for node, _ in directory.models()} == {anna.id, *nodes[8:]}, "its own are not forgotten"
    assert list(directory.models_of(nodes[-1])) == records[2:]
    directory.changed(RecordChanged(nodes[-1], CATALOG, "0", body))
    assert list(directory.models_of(nodes[-1])) == records[2:], "a renewed digest says the same"
    directory.changed(RecordChanged(nodes[-1], CATALOG, "0", None))
    assert list(directory.models_of(nodes[-1])) == []


def test_the_index_is_told_of_capabilities_of_models_and_of_no_more_than_it_takes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _, anna, _ = pair()
    anna.tells(lambda peer, now: peer.publish_models(now, [model("iris", capabilities=("flowers",))]))
    keys = anna.peer._own_keys()
    assert model_capability_key("flowers") in keys
    assert model_key("iris") in keys
    monkeypatch.setattr(affairs, "PROVIDED_MOST", 2)
    assert len(anna.peer._own_keys()) == 2


# --- profiles -----------------------------------------------------------------------------------------------------


def test_what_a_node_has_is_known_to_others() -> None:
    _, anna, bert = pair()
    profile = ProfileBody("linux", "3.11.2", ("numpy==1",), ("anomaly_detection",), 100, 10)
    hardware = Hardware(4_096, 4, "arm64", "GPU")
    bert.tells(lambda peer, now: peer.publish_node(now, "bert", [ADDRESS], "1.0", hardware))
    bert.tells(lambda peer, now: peer.publish_profile(now, profile))
    known = Profile(4_096, 4, "arm64", "GPU", "linux", "3.11.2", ("numpy==1",), ("anomaly_detection",), 100, 10)
    assert anna.peer.profile(bert.id) == bert.peer.profile(bert.id) == known
    assert anna.peer.profile(EVE.node_id) == Profile()
    with pytest.raises(WireError):
        bert.peer.publish_profile(bert.table.now, replace(profile, interests=("x",) * 33))
    anna.hears(bert.id, Gossip(sealed(BERT, PROFILE, "0", (1, 99), b"")))
    assert anna.peer.profile(bert.id).packages == ()


# --- deprecations -------------------------------------------------------------------------------------------------

OLD = DeprecationBody("iris", "<2", "wrong labels", "iris@>=2")


def test_a_deprecation_reaches_everybody_and_can_be_taken_back() -> None:
    table, anna, bert = pair()
    bert.tells(lambda peer, now: peer.publish_deprecation(now, OLD))
    (advice,) = anna.peer.deprecations(table.now)
    assert (advice.author, advice.author_name, advice.admin) == (bert.id, "bert", False)
    assert (advice.name, advice.versions, advice.reason, advice.replacement) == (
        "iris",
        "<2",
        "wrong labels",
        "iris@>=2",
    )
    assert advice.issued_s == START_S + 2
    bert.tells(lambda peer, now: peer.publish_deprecation(now, OLD, withdrawn=True))
    assert anna.peer.deprecations(table.now) == []
    record = anna.peer.sync.record(bert.id, DEPRECATION, deprecation_key("iris", "<2"))
    assert record is not None
    assert record.lifetime_s == DEPRECATION_LIFETIME_S, "the former word may be under way"


def test_an_admin_is_known_as_one() -> None:
    table = Table()
    anna = table.add(ANNA, "anna")
    admin = table.add(ADMIN, "admin", sealed=admin_certificate())
    table.link(anna, admin)
    admin.tells(lambda peer, now: peer.publish_deprecation(now, OLD))
    assert [row.admin for row in anna.peer.deprecations(table.now)] == [True]


def test_a_deprecation_proves_its_author_where_it_is_not_known() -> None:
    table = Table()
    anna = table.add(ANNA, "anna")
    table.verified(anna, BERT)
    bare = pack(OLD)
    shown = pack(replace(OLD, certificate=certificate(EVE.node_id)))
    key = deprecation_key("iris", "<2")
    for body, known in ((bare, 0), (b"", 0), (shown, 1)):
        anna.hears(BERT.node_id, Gossip(sealed(EVE, DEPRECATION, key, body=body, lifetime_s=DEPRECATION_LIFETIME_S)))
        assert len(anna.peer.deprecations(table.now)) == known
    assert anna.peer.sync.stats.unknown_author == 2
    assert anna.faults() == []


@pytest.mark.parametrize(
    "change",
    [
        {"key": "iris"},
        {"near": True},
        {"lifetime_s": DEPRECATION_LIFETIME_S + 1},
        {"key": deprecation_key("iris", "<3")},
        {"body": pack(replace(OLD, versions="many"))},
        {"body": pack(replace(OLD, name="a b"))},
        {"body": b"\x00"},
    ],
)
def test_a_deprecation_that_is_none_is_a_fault(change: dict[str, object]) -> None:
    rules = trust()
    rules.admit_untrusted(START_S, BERT.node_id, certificate(BERT.node_id), None)
    record = Record(DEPRECATION, deprecation_key("iris", "<2"), 1, 1, START_S, 3_600, pack(OLD))
    assert judge_untrusted(rules, NOW, BERT.node_id, record, False, 300) is None
    refusal = judge_untrusted(rules, NOW, BERT.node_id, replace(record, **change), False, 300)  # type: ignore[arg-type]
    assert refusal is not None
    assert refusal.fault


def test_what_the_records_of_models_must_be() -> None:
    rules = trust()
    rules.admit_untrusted(START_S, BERT.node_id, certificate(BERT.node_id), None)
    for kind in (CATALOG, PROFILE, MODELS):
        refusal = judge_untrusted(rules, NOW, BERT.node_id, Record(kind, "0", 1, 1, START_S, 300, b"\x01"), False, 300)
        assert refusal is not None
        assert refusal.fault


# --- standing -----------------------------------------------------------------------------------------------------


def test_roles_that_have_effect() -> None:
    table = Table()
    founder = table.add(FOUNDER, "founder", sealed=certificate(FOUNDER.node_id, roles=("admin",)))
    peer, now = founder.peer, table.now
    peer.trust.admit_untrusted(START_S, ADMIN.node_id, admin_certificate(), None)
    made_by_admin = certificate(EVE.node_id, ADMIN, roles=("admin", "founder", "edge"))
    peer.trust.admit_untrusted(START_S, EVE.node_id, made_by_admin, admin_certificate())
    assert peer.standing(now, FOUNDER.node_id) == {"admin", "founder"}
    assert peer.standing(now, ADMIN.node_id) == {"admin"}
    assert peer.standing(now, EVE.node_id) == {"edge"}, "admins make no admins, and nobody is made a founder"
    assert peer.standing(now, BERT.node_id) == frozenset()
    assert peer.standing(Now(0.0, START_S + 2 * YEAR_S), ADMIN.node_id) == frozenset()


def test_no_more_pages_of_models_are_read_than_a_node_writes() -> None:
    directory = Directory()
    for number in range(12):
        page = Record(MODELS, str(number), 1, 1, START_S, 300, pack(ModelsBody((model(f"m{number}"),))))
        directory.changed(RecordChanged(BERT.node_id, MODELS, page.key, page))
    assert [told.name for _, told in directory.models()] == [f"m{number}" for number in range(8)]
    directory.changed(RecordChanged(BERT.node_id, MODELS, "11", None))
    directory.changed(RecordChanged(BERT.node_id, MODELS, "0", None))
    assert len(list(directory.models())) == 7


def test_what_is_not_known_of_others_is_told_as_such() -> None:
    _, anna, bert = pair()
    assert anna.peer.relay_of(bert.id) is None
    assert anna.peer.relay_of(EVE.node_id) is None
    assert anna.peer.addresses_of(bert.id) == bert.peer.addresses()
    assert anna.peer.addresses_of(EVE.node_id) == ()
    assert anna.peer.rate_of("no transfer", bert.id) == 0.0
