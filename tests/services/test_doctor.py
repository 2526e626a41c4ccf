"""Verdicts of the doctor, by what was found."""

from __future__ import annotations

from typing import Any

import pytest

from atmo.services.doctor import BAD, GOOD, POOR, UNKNOWN_VERDICT, Check, Facts, examine

WELL = Facts(
    mesh=True,
    listen=("192.168.1.2:11450",),
    paths=("lan", "punched"),
    stun={"192.0.2.1:3478": True, "192.0.2.2:3478": True},
    mapping="endpoint",
    filtering="port",
    public=("203.0.113.7:11450",),
    relays=True,
    relay="wss://relay.example.org/",
    offsets=(0.05, -0.02, 0.01),
    lan="",
    near=2,
    tcp=11_450,
    tcp_tried=1,
    tcp_reached=1,
)


def found(name: str, **changes: Any) -> Check:
    from dataclasses import replace

    (check,) = [each for each in examine(replace(WELL, **changes)) if each.name == name]
    return check


def test_a_node_that_is_well_has_nothing_to_do() -> None:
    checks = examine(WELL)
    assert [check.name for check in checks] == ["mesh", "UDP", "STUN", "NAT", "relay", "TCP", "mDNS", "clock"]
    assert {check.verdict for check in checks} == {GOOD}
    assert not any(check.next for check in checks)


def test_a_node_that_knows_nothing_is_told_where_to_begin() -> None:
    checks = {check.name: check for check in examine(Facts())}
    assert all(check.verdict in (UNKNOWN_VERDICT, POOR) for check in checks.values())
    assert "atmo mesh join" in checks["mesh"].next
    assert checks["mDNS"].found == "switched off"


@pytest.mark.parametrize(
    ("name", "changes", "verdict", "words"),
    [
        ("mesh", {"paths": ()}, BAD, "no other member"),
        ("mesh", {"paths": ("relay", "forward")}, POOR, "nobody directly"),
        ("UDP", {"paths": ("relay",), "stun": {"192.0.2.1:3478": False}}, BAD, "nothing comes back"),
        ("UDP", {"paths": ("relay",), "stun": {"192.0.2.1:3478": True}}, GOOD, "comes back"),
        ("UDP", {"paths": (), "stun": {}}, UNKNOWN_VERDICT, "nobody"),
        ("UDP", {"paths": ("relay",), "stun": {}}, POOR, "here, or at the others"),
        ("STUN", {"stun": {}}, UNKNOWN_VERDICT, "no server"),
        ("STUN", {"stun": {"a:1": False, "b:2": False}}, BAD, "a:1, b:2"),
        ("STUN", {"stun": {"a:1": False, "b:2": True}}, POOR, "1 of 2 answer, not a:1"),
        ("NAT", {"mapping": "none"}, GOOD, "none"),
        ("NAT", {"mapping": "port"}, POOR, "another port"),
        ("NAT", {"mapping": "unknown"}, UNKNOWN_VERDICT, "two STUN servers"),
        ("NAT", {"mapping": "port", "mapped": "8.8.8.8:1", "mapped_by": "PCP"}, GOOD, "in at 8.8.8.8:1 (PCP)"),
        ("NAT", {"mapping": "port", "unmapped": "switched off"}, POOR, "the router maps no port (switched off)"),
        ("NAT", {"mapping": "none", "mapped": "8.8.8.8:1"}, GOOD, "none: others reach"),
        ("relay", {"relay": None, "relay_reason": "refused"}, BAD, "none: refused"),
        ("relay", {"relay": None, "relays": False}, GOOD, "may not reach"),
        ("relay", {"relay": None, "relays": False, "mapping": "port"}, POOR, "may not reach"),
        ("relay", {"relay": None, "relays": False, "listen": ("[2606:4700::1]:11450",)}, GOOD, "none is needed"),
        ("relay", {"relay": None, "relays": False, "mapping": "port", "mapped": "8.8.8.8:1"}, GOOD, "none is needed"),
        ("TCP", {"tcp": None}, POOR, "taken"),
        ("TCP", {"tcp_reached": 0}, POOR, "no member's port"),
        ("TCP", {"tcp_tried": 0, "tcp_reached": 0}, UNKNOWN_VERDICT, "no member to try"),
        ("mDNS", {"lan": "no multicast"}, BAD, "no multicast"),
        ("mDNS", {"near": 0}, UNKNOWN_VERDICT, "nobody else"),
        ("clock", {"offsets": ()}, UNKNOWN_VERDICT, "nobody"),
        ("clock", {"offsets": (5.0, 6.0, -300.0)}, POOR, "5.0 s behind other members (3"),
        ("clock", {"offsets": (-100.0,)}, BAD, "100.0 s ahead of other members (1"),
    ],
)
def test_what_is_wrong_has_a_verdict_and_mostly_a_next_step(
    name: str, changes: dict[str, Any], verdict: str, words: str
) -> None:
    check = found(name, **changes)
    assert check.verdict == verdict
    assert words in check.found
    assert check.next or verdict in (GOOD, UNKNOWN_VERDICT) or name == "STUN"
