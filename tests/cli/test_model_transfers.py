"""Pulls, transfers and how models stand, as commands of a node that runs."""

from __future__ import annotations

import json
from typing import Any

import pytest

from atmo.shell.transfer_views import result_line
from tests.api.faces import NODE_ID
from tests.cli.conftest import Atmo
from tests.shell.serving import ServedNode


def test_what_is_asked_of_a_pull(atmo: Atmo, node: ServedNode) -> None:
    assert atmo("model", "pull", "far", "--wait", "--trust", "--force").out.startswith("Pulled far 1.0.0")
    assert node.models.pulled == {"wait": True, "trust": True, "force": True}
    node.models.pulled = {}
    assert atmo("model", "pull", "--capabilities", "a, b").out.startswith("Pulled far 1.0.0")
    assert node.models.pulled == {"capabilities": ["a", "b"], "trust": False, "force": False}


def test_a_pull_that_another_command_stops(atmo: Atmo, node: ServedNode) -> None:
    result = atmo("model", "pull", "far@stopped")
    assert (result.code, result.out) == (3, "")
    assert result.err.splitlines()[-1] == ("error: The transfer of far 1.0.0 was paused by another command. Resume it.")


def test_a_publisher_that_nobody_decided_on(atmo: Atmo, node: ServedNode, monkeypatch: pytest.MonkeyPatch) -> None:
    result = atmo("model", "pull", "far@strange", "--json")
    assert (result.code, result.out) == (4, "")
    assert "published by attic. Pull it with --trust." in result.err
    monkeypatch.setattr("atmo.cli.model_jobs._is_terminal", lambda: True)
    monkeypatch.setattr("typer.confirm", lambda *words, **more: False)
    refused = atmo("model", "pull", "far@strange")
    assert refused.code == 1
    assert "its publisher is not trusted" in refused.err
    assert "aaaa-bbbb" in refused.err
    monkeypatch.setattr("typer.confirm", lambda *words, **more: True)
    node.models.pulled = {}
    assert atmo("model", "pull", "far@strange").out.startswith("Pulled far 1.0.0")
    assert NODE_ID in str(node.models.pulled) or node.models.local


def test_a_pull_in_the_background(atmo: Atmo, node: ServedNode) -> None:
    left = atmo("model", "pull", "far", "--background")
    assert left.out == "Transfer 1 fetches far 1.0.0 in the background.\n"
    assert "--watch" in left.err
    assert json.loads(atmo("model", "pull", "far", "--background", "--json").out)["transfer"]["id"] == 2
    atmo("model", "pull", "far")
    assert atmo("model", "pull", "far", "--background").out.startswith("Already here: far 1.0.0")


@pytest.mark.parametrize(
    ("travelled", "copied", "size"),
    [
        (0, 0, "1.0 GB"),
        (10**9, 0, "1.0 GB"),
        (230_000_000, 0, "1.0 GB, of which 230 MB travelled"),
        (5_000_000, 995_000_000, "1.0 GB, of which 5.0 MB travelled and 995 MB were here"),
        (0, 10**9, "1.0 GB, of which 0 B travelled and 1.0 GB were here"),
    ],
)
def test_the_result_of_a_pull_tells_what_travelled(travelled: int, copied: int, size: str) -> None:
    row = {"name": "m", "version": "2", "format": "gguf", "size_bytes": 10**9, "sha256": "ab"}
    travel = {"travelled_bytes": travelled, "copied_bytes": copied}
    assert result_line("Pulled", row | travel) == f"Pulled m 2: gguf, {size}, sha256 ab"


def test_transfers_from_their_list_to_their_end(atmo: Atmo, node: ServedNode) -> None:
    assert "There are no transfers" in atmo("model", "transfers").err
    assert json.loads(atmo("model", "transfers", "--json").out) == []
    more: dict[str, Any] = {"phase": "downloading", "rate_bytes_s": 5e6, "sources": ("attic", "shed"), "eta_s": 65.0}
    more["travelled_bytes"] = 200
    node.models.transfers.add("far", **more)
    node.models.transfers.add("rose\x1b[2J", "waiting")
    header, first, second = atmo("model", "transfers").out.splitlines()
    assert header.split() == ["ID", "MODEL", "STATE", "DONE", "SIZE", "TRAVELLED", "RATE", "LEFT", "FROM", "WHY"]
    assert first.split() == ["1", "far", "1.0.0", "downloading", "25", "%", "1.0", "kB", "200", "B", "5.0", "MB/s",
                             "1:05", "attic,", "shed"]  # fmt: skip
    assert "\x1b" not in second
    assert second.split()[3] == "waiting"
    assert atmo("model", "pause", "far").out == "Paused transfer 1: far 1.0.0, 25 % are here.\n"
    assert atmo("model", "resume", "1").out == "Resumed transfer 1: far 1.0.0, 25 % are here.\n"
    assert atmo("model", "cancel", "1").out == "Cancelled transfer 1: far 1.0.0.\n"
    assert json.loads(atmo("model", "cancel", "2", "--keep", "--json").out)[0]["reason"] == "kept"
    assert json.loads(atmo("model", "transfers", "--json").out) == []
    assert [row["state"] for row in json.loads(atmo("model", "transfers", "--all", "--json").out)] == ["cancelled"] * 2
    gone = atmo("model", "pause", "7")
    assert (gone.code, gone.out) == (1, "")
    assert "No transfer 7 is under way: there is none, or it is over" in gone.err


def test_watching_ends_when_nothing_is_under_way(atmo: Atmo, node: ServedNode, monkeypatch: pytest.MonkeyPatch) -> None:
    node.models.transfers.add("far")
    looks = 0

    def sleep(seconds: float) -> None:
        nonlocal looks
        looks += 1
        node.models.transfers.kept.clear()
        node.models.transfers.add("far", "done")

    monkeypatch.setattr("atmo.cli.model_transfers.time.sleep", sleep)
    lines = atmo("model", "transfers", "--watch", "--all", "--json").out.splitlines()
    assert [[row["state"] for row in json.loads(line)] for line in lines] == [["running"], ["done"]]
    assert looks == 1
    node.models.transfers.kept.clear()
    assert atmo("model", "transfers", "--watch").out.split()[0] == "ID"


def test_how_models_stand(atmo: Atmo, node: ServedNode) -> None:
    node.models.transfers.add("rose", "failed")
    out = atmo("model", "status").out.splitlines()
    assert out[0] == "The mesh has 1 model, in 1 place."
    assert out[1] == "  far: 1.0.0 on 1 node; not here"
    assert out[2] == "Transfers: 0 under way, 0 failed in 24 h."
    assert out[3] == "  1 rose 1.0.0, failed, 25 % of 1.0 kB"
    body = json.loads(atmo("model", "status", "far", "--json").out)
    assert body["by_model"] == {"far": {"nodes": 1, "version_distribution": {"1.0.0": 1}}}
    assert "No node has a model named gone" in atmo("model", "status", "gone").err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("pull",), "Name a model, or what it can do"),
        (("pull", "x", "--capabilities", "a"), "Name a model, or what it can do"),
        (("pull", "x", "--background", "--wait"), "it waits anyway"),
        (("pull", "x", "--background", "--trust"), "it waits anyway"),
        (("pause",), "Missing argument"),
        (("update", "x", "--auto", "--manual"), "at most"),
        (("update",), "at most"),
        (("deprecate",), "show all with --list"),
        (("trust", "x", "--refuse", "--forget"), "exclude each other"),
        (("import",), "Name one file, or a folder"),
        (("import", "x", "--llamafarm"), "Name one file, or a folder"),
        (("import", "--llamafarm", "--name", "x"), "only --type"),
    ],
)
def test_wrong_usage(atmo: Atmo, words: tuple[str, ...], message: str) -> None:
    result = atmo("model", *words)
    assert result.code == 2
    assert message in result.err


def test_every_command_has_examples(atmo: Atmo) -> None:
    names = (
        "import list info pull remove transfers pause resume cancel status verify diff gc publish deprecate rollback"
        " update trust publishers"
    )
    for name in names.split():
        shown = atmo("model", name, "--help")
        assert shown.code == 0
        assert f"atmo model {name}" in shown.out.split("Examples:")[1]
