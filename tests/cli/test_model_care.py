"""Verify, diff, gc, publish, deprecate, rollback, update, trust: what they ask of the node, and what they print."""

from __future__ import annotations

import json
from typing import Any

import trio

from atmo.storage.verify import Damage, VerifyReport
from tests.cli.conftest import Atmo
from tests.shell.serving import ServedNode


def last(node: ServedNode) -> Any:
    """What was asked last: a method, its arguments, and those by name."""
    return node.side.asked[-1]


def test_verify(atmo: Atmo, node: ServedNode) -> None:
    node.side.answers["verify"] = VerifyReport(2, 3, 5_000_000, (), 0, 0)
    good = atmo("model", "verify")
    assert (good.code, good.out) == (0, "Read 2 models, 5.0 MB: all is right.\n")
    assert last(node) == ("verify", (None,), {"repair": True})
    damages = (
        Damage("iris", "1.0", "model.onnx", "/x", "wrong bytes", 4_096, 1_024, True),
        Damage("rose\x1b", "2.0", "model.onnx", "/y", "missing file", 0, 9, False),
    )
    node.side.answers["verify"] = VerifyReport(2, 3, 5_000_000, damages, 2, 1)
    bad = atmo("model", "verify", "iris", "--look")
    assert bad.code == 1
    assert last(node) == ("verify", ("iris",), {"repair": False})
    header, first, second, verdict = bad.out.splitlines()
    assert header.split() == ["MODEL", "FILE", "WHAT", "AT", "BYTE", "REPAIRED"]
    assert first.split() == ["iris", "1.0", "model.onnx", "wrong", "bytes", "4096", "yes"]
    assert "\x1b" not in second
    assert verdict == "Read 2 models, 5.0 MB: 1 repaired, 1 left."
    told = atmo("model", "verify", "--json")
    assert (told.code, json.loads(told.out)["clean"]) == (1, False)
    node.side.answers["verify"] = VerifyReport(2, 3, 5_000_000, damages * 11, 22, 11)
    assert atmo("model", "verify").out.splitlines()[-2:] == [
        "and 2 more",
        "Read 2 models, 5.0 MB: 11 repaired, 11 left.",
    ]


def test_an_empty_name_is_wrong_usage(atmo: Atmo, node: ServedNode) -> None:
    for command, what in (("pull", "model"), ("rollback", "model"), ("trust", "node")):
        result = atmo("model", command, "", "--json")
        assert (result.code, result.out) == (2, "")
        assert f"The {what}'s name is empty." in result.err


def test_diff(atmo: Atmo, node: ServedNode) -> None:
    file = {"path": "model.onnx", "size_bytes": 10_000_000, "shared_bytes": 8_000_000, "whole_bytes": 2_000_000}
    found: dict[str, Any] = {
        "base": "iris 1.0",
        "target": "iris 2.0",
        "size_bytes": 10_000_000,
        "travels_bytes": 500_000,
        "deltas_measured": True,
        "exact": False,
        "files": [{**file, "delta_bytes": 500_000, "measured_bytes": 1}],
    }
    node.side.answers["diff"] = found
    header, row, total = atmo("model", "diff", "iris@1.0", "iris@2.0").out.splitlines()
    assert last(node)[1] == ("iris@1.0", "iris@2.0")
    assert header.split() == ["FILE", "SIZE", "SHARED", "NEW", "WITH", "DELTAS"]
    assert row.split() == ["model.onnx", "10.0", "MB", "8.0", "MB", "2.0", "MB", "500", "kB"]
    assert total == "From iris 1.0 to iris 2.0 about 500 kB of 10.0 MB travel, 5.0 %."
    node.side.answers["diff"] = found | {"deltas_measured": False, "files": [file]}
    plain = atmo("model", "diff", "iris@1.0", "iris@2.0")
    assert "WITH DELTAS" not in plain.out
    assert "iris 2.0 at most 500 kB of 10.0 MB travel" in plain.out
    assert "How much deltas save of that is not known" in plain.err
    assert not json.loads(atmo("model", "diff", "a", "b", "--json").out)["exact"]
    node.side.answers["diff"] = found | {"deltas_measured": False, "exact": True, "travels_bytes": 0, "files": [file]}
    same = atmo("model", "diff", "iris@1.0", "iris@2.0")
    assert "iris 2.0 0 B of 10.0 MB travel" in same.out
    assert same.err == ""


def test_gc(atmo: Atmo, node: ServedNode) -> None:
    found = {"downloads": ["iris 1.0"], "files": ["incoming/x"], "manifests": 1, "bytes": 5_000, "evicted": []}
    node.side.answers["collect"] = found
    assert atmo("model", "gc", "--dry-run").out.splitlines() == [
        "  download  iris 1.0",
        "  file  incoming/x",
        "Would free 5.0 kB.",
    ]
    assert last(node) == ("collect", (), {"dry_run": True})
    node.side.answers["collect"] = found | {"downloads": [], "files": [], "evicted": ["rose 2.0"]}
    assert atmo("model", "gc").out == "  evicted  rose 2.0\nFreed 5.0 kB.\n"
    assert json.loads(atmo("model", "gc", "--json").out)["manifests"] == 1


def test_publish_and_deprecate(atmo: Atmo, node: ServedNode) -> None:
    row = {"name": "iris", "version": "1.0", "was_private": True, "signed": True}
    node.side.answers["publish"] = row
    assert atmo("model", "publish", "iris", "--sign").out == "Published iris 1.0 and signed it.\n"
    assert last(node) == ("publish", ("iris",), {"sign": True})
    node.side.answers["publish"] = row | {"was_private": False, "signed": False}
    assert atmo("model", "publish", "iris").out == "Was public already: iris 1.0.\n"

    node.side.answers["deprecate"] = {"name": "iris", "range": "<2", "versions": ["1.0"]}
    told = atmo("model", "deprecate", "iris@<2", "--reason", "wrong", "--replacement", "iris@>=2")
    assert told.out == "Advises against iris <2.\n"
    assert last(node) == ("deprecate", ("iris@<2", "wrong", "iris@>=2"), {})
    node.side.answers["undeprecate"] = {"name": "iris", "range": ""}
    assert atmo("model", "deprecate", "iris", "--undo").out == "No longer advises against iris in all its versions.\n"
    header, line = atmo("model", "deprecate", "--list").out.splitlines()
    assert header.split() == ["NAME", "RANGE", "BY", "COUNTS", "REASON"]
    assert line.split() == ["iris", "<2", "attic", "own", "wrong", "labels"]
    assert json.loads(atmo("model", "deprecate", "--list", "--json").out)[0]["by"] == "attic"


def test_rollback_and_update(atmo: Atmo, node: ServedNode) -> None:
    about = {"name": "iris", "active": "1.0", "newest": "2.0", "rolled_back": True, "auto": None}
    node.side.answers["rollback"] = about | {"before": "2.0"}
    assert atmo("model", "rollback", "iris").out == "Went back from iris 2.0 to 1.0.\n"
    node.side.answers["update"] = about | {"before": "1.0", "active": "2.0"}
    assert atmo("model", "update", "iris", "--trust").out == "Updated from iris 1.0 to 2.0.\n"
    assert last(node) == ("update", ("iris",), {"trust": True, "force": False})
    node.side.answers["update"] = about | {"before": "1.0"}
    assert atmo("model", "update", "iris").out == "iris stays at 1.0.\n"
    node.side.answers["keep"] = about | {"auto": "<3"}
    assert atmo("model", "update", "iris@<3", "--auto").out == "iris is kept up to date: <3.\n"
    node.side.answers["keep"] = about
    assert atmo("model", "update", "iris", "--manual").out == "iris stays as it is.\n"
    header, line = atmo("model", "update", "--list").out.splitlines()
    assert header.split() == ["NAME", "ACTIVE", "NEWEST", "AUTO", "ROLLED", "BACK"]
    assert line.split() == ["iris", "1.0", "2.0", "-", "yes"]
    for words in (("rollback", "iris"), ("update", "iris"), ("update", "iris", "--auto"), ("update", "--list")):
        assert json.loads(atmo("model", *words, "--json").out)
    failed = atmo("model", "rollback", "gone")
    assert failed.code == 0
    del node.side.answers["rollback"]
    assert atmo("model", "rollback", "gone").code == 1


def test_publishers(atmo: Atmo, node: ServedNode) -> None:
    row = {"node": "a" * 52, "name": "attic", "fingerprint": "aaaa-bbbb", "roles": [], "trusted": True}
    decided: list[tuple[Any, ...]] = []

    async def decide(who: str, *, trusted: bool) -> dict[str, Any]:
        await trio.lowlevel.checkpoint()
        decided.append((who, trusted))
        return row

    async def forget(who: str) -> dict[str, Any]:
        await trio.lowlevel.checkpoint()
        decided.append((who,))
        return row

    node.models.consent.decide, node.models.consent.forget = decide, forget
    assert atmo("model", "trust", "attic").out == "Trusts models of attic (aaaa-bbbb).\n"
    assert atmo("model", "trust", "attic", "--refuse").out == "Refuses models of attic (aaaa-bbbb).\n"
    assert atmo("model", "trust", "attic", "--forget").out == "Decides anew on models of attic (aaaa-bbbb).\n"
    assert json.loads(atmo("model", "trust", "attic", "--json").out)["name"] == "attic"
    assert decided == [("attic", True), ("attic", False), ("attic",), ("attic", True)]
    header, line = atmo("model", "publishers").out.splitlines()
    assert header.split() == ["NAME", "TRUSTED", "SINCE", "ROLES", "FINGERPRINT"]
    assert line.split()[:2] == ["attic", "yes"]
    assert json.loads(atmo("model", "publishers", "--json").out)[0]["decided_at"] == 1_700_000_000.0
