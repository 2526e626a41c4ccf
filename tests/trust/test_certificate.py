"""Certificates: what they say, and that nothing else is taken for one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atmo.errors import WireError
from atmo.trust.certificate import (
    DOMAIN,
    MOST_ROLES,
    Certificate,
    issue,
    open_certificate_untrusted,
    valid_role,
)
from atmo.wire import codec
from atmo.wire.envelope import seal
from tests.trust.kit import ANNA, BERT, FOUNDER, MESH, START_S, certificate

GOOD = {
    1: str(FOUNDER.node_id),
    2: str(ANNA.node_id),
    4: START_S + 60,
    6: START_S,
    7: b"s" * 16,
    -70_001: ["edge"],
    -70_002: "anna",
}


def sealed(claims: object) -> bytes:
    return seal(FOUNDER, DOMAIN, MESH, codec.encode(claims))


def test_a_certificate_says_what_was_issued() -> None:
    claims = Certificate(ANNA.node_id, FOUNDER.node_id, ("edge", "gateway"), "anna's box", 5, 9, b"serial")
    assert open_certificate_untrusted(issue(FOUNDER, MESH, claims), MESH) == claims


def test_a_certificate_counts_in_its_own_mesh_only() -> None:
    with pytest.raises(WireError, match="signature"):
        open_certificate_untrusted(certificate(ANNA.node_id), b"another mesh".ljust(32))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (1, 5),
        (1, "not a node id"),
        (2, None),
        (4, "tomorrow"),
        (4, True),
        (6, False),
        (7, "text"),
        (-70_001, "edge"),
        (-70_001, [7]),
        (-70_001, ["Edge!"]),
        (-70_001, ["edge"] * (MOST_ROLES + 1)),
        (-70_002, b"bytes"),
        (-70_002, "x" * 129),
        (-70_002, "\x1b[2J"),
    ],
)
def test_a_claim_of_the_wrong_kind_is_refused(key: int, value: object) -> None:
    with pytest.raises(WireError):
        open_certificate_untrusted(sealed(GOOD | {key: value}), MESH)


@pytest.mark.parametrize("key", GOOD)
def test_no_claim_may_be_missing(key: int) -> None:
    with pytest.raises(WireError):
        open_certificate_untrusted(sealed({name: value for name, value in GOOD.items() if name != key}), MESH)


def test_claims_that_a_later_version_adds_do_no_harm() -> None:
    assert open_certificate_untrusted(sealed(GOOD | {-70_003: "later"}), MESH).name == "anna"


def test_the_issuer_named_must_be_the_one_who_signed() -> None:
    with pytest.raises(WireError, match="issuer it names"):
        open_certificate_untrusted(sealed(GOOD | {1: str(BERT.node_id)}), MESH)


@pytest.mark.parametrize(("name", "roles"), [("\n", ("edge",)), ("x" * 129, ()), ("x", ("Edge",)), ("x", ("a",) * 9)])
def test_nobody_issues_what_everybody_would_refuse(name: str, roles: tuple[str, ...]) -> None:
    with pytest.raises(WireError):
        certificate(ANNA.node_id, name=name, roles=roles)


def test_roles_are_plain_words() -> None:
    assert valid_role("gateway-2")
    assert not any(valid_role(role) for role in ("", "Edge", "2nd", "a b", "a" * 33, "edge\n"))


@given(st.data())
def test_a_certificate_with_any_byte_changed_is_none(data: st.DataObject) -> None:
    whole = certificate(ANNA.node_id)
    place = data.draw(st.integers(0, len(whole) - 1))
    changed = whole[:place] + bytes([whole[place] ^ data.draw(st.integers(1, 255))]) + whole[place + 1 :]
    with pytest.raises(WireError):
        open_certificate_untrusted(changed, MESH)


@given(st.binary(max_size=400))
def test_rubbish_is_no_certificate(rubbish: bytes) -> None:
    with pytest.raises(WireError):
        open_certificate_untrusted(rubbish, MESH)
