"""What a node publishes: private models made public, versions signed anew, and what it advises against."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from atmo.errors import UserError, WireError
from atmo.peer import Advice
from atmo.services.catalog import ADVICE_MOST, mark_deprecated
from atmo.services.publishing import Publishing
from atmo.storage.decisions import Decisions
from tests.services.hub import Node
from tests.services.kit import mesh, model_file
from tests.services.test_access import restricted


def publishing_of(node: Node, *, alone: bool = False) -> Publishing:
    return Publishing(node.service, node.storage, node.signer, lambda: None if alone else node, wall=lambda: 5.0)


async def test_a_private_model_is_made_public(tmp_path: Path) -> None:
    async with mesh(tmp_path, "a", "c") as (a, c):
        await a.service.import_model(model_file(tmp_path, 1), name="m", private=True)
        row = await publishing_of(a).publish("m")
        assert (row["was_private"], row["signed"], row["private"]) == (True, False, False)
        assert (await c.service.pull("m")).local
        again = await publishing_of(a).publish("m@1.0.0", sign=True)
        assert (again["was_private"], again["signed"]) == (False, False), "it is this node's already"
        with pytest.raises(UserError, match="nothing is not in this node's store"):
            await publishing_of(a).publish("nothing")


async def test_a_version_is_signed_anew_by_who_answers_for_it(tmp_path: Path) -> None:
    async with mesh(tmp_path, "a", "c") as (a, c):
        await a.service.import_model(model_file(tmp_path, 1), name="m")
        await c.service.pull("m")
        assert (await publishing_of(c).publish("m"))["signed"] is False, "not unless that is asked for"
        row = await publishing_of(c).publish("m", sign=True)
        assert (row["signed"], row["publisher"]) == (True, str(c.id))
        assert [version.publisher for version in a.service.versions("m")] == [a.id, c.id]
        assert c.service.info("m")["claims"] == 2
        await a.service.import_model(restricted(model_file(tmp_path, 2), write=["admin"]), name="n")
        await c.service.pull("n")
        with pytest.raises(UserError, match="only admin may publish"):
            await publishing_of(c).publish("n", sign=True)


async def test_versions_that_their_publisher_advises_against_come_last(tmp_path: Path) -> None:
    async with mesh(tmp_path, "a", "c") as (a, c):
        for version in ("1.0", "2.0"):
            source = model_file(tmp_path, 1, seed=int(version[0]))
            await a.service.import_model(source, name="m", version=version, capabilities=["x"])
        publishing = publishing_of(a)
        said = await publishing.deprecate("m@latest", "It is wrong.", "m@1.0")
        assert (said["range"], said["versions"]) == ("==2.0", ["2.0"])
        assert [(row.version, row.deprecated) for row in c.service.rows("mesh")] == [("2.0", True), ("1.0", False)]
        about = c.service.info("m@2.0")["deprecation"]
        assert (about["by"], about["reason"], about["replacement"]) == ("a", "It is wrong.", "m@1.0")
        registry = await c.service.mesh_models()
        assert registry["m"]["versions"]["2.0"]["deprecated"] is True
        assert registry["m"]["versions"]["1.0"]["deprecated"] is False
        (row,) = publishing_of(c).deprecations()
        assert (row["name"], row["range"], row["by"], row["counts"]) == ("m", "==2.0", "a", "own")
        assert (await c.service.pull_capable(["x"])).version == "1.0"
        assert (await c.service.pull("m@2.0")).local, "who insists gets it"
        assert (await publishing.undeprecate("m@==2.0")) == {"name": "m", "range": "==2.0"}
        assert c.service.info("m@2.0")["deprecation"] is None
        with pytest.raises(UserError, match="does not advise against m"):
            await publishing.undeprecate("m@==2.0")


async def test_whose_word_counts(tmp_path: Path) -> None:
    async with mesh(tmp_path, "a", "b", "c") as (a, b, c):
        await a.service.import_model(model_file(tmp_path, 1), name="m")
        with pytest.raises(UserError, match="nobody would heed it"):
            await publishing_of(b).deprecate("m")
        b.roles = ("admin",)
        await publishing_of(b).deprecate("m")
        assert c.service.rows("mesh")[0].deprecated
        assert [row["counts"] for row in publishing_of(c).deprecations()] == ["all"]
        b.roles = ("edge",)
        (key,) = c.hub.advice
        c.hub.advice[key] = replace(c.hub.advice[key], admin=False)
        assert not c.service.rows("mesh")[0].deprecated, "it is no admin any more"
        assert [row["counts"] for row in publishing_of(c).deprecations()] == ["none"]


@pytest.mark.parametrize(
    ("spec", "reason", "replacement", "complaint"),
    [
        ("nothing", "", "", "Nobody has nothing"),
        ("m@>5", "", "", "Nobody has m@>5"),
        ("m", "x" * 201, "", "at most 200 printable characters"),
        ("m", "\x1b[2J", "", "at most 200 printable characters"),
        ("m", "", "a b", "is not a model name"),
    ],
)
async def test_what_cannot_be_said(tmp_path: Path, spec: str, reason: str, replacement: str, complaint: str) -> None:
    async with mesh(tmp_path, "a") as (a,):
        await a.service.import_model(model_file(tmp_path, 1), name="m")
        with pytest.raises(UserError, match=complaint):
            await publishing_of(a).deprecate(spec, reason, replacement)


async def test_what_was_said_is_said_again_after_a_start(tmp_path: Path) -> None:
    async with mesh(tmp_path, "a", "c") as (a, c):
        await a.service.import_model(model_file(tmp_path, 1), name="m")
        await publishing_of(a, alone=True).deprecate("m")
        assert publishing_of(a, alone=True).deprecations() == []
        assert not c.service.rows("mesh")[0].deprecated, "nobody has heard it"
        a.storage.decisions = Decisions(a.database)
        publishing_of(a).attach(a)
        assert c.service.rows("mesh")[0].deprecated

        def full(*_: object, **__: object) -> None:
            raise WireError("too much")

        a.peer.publish_deprecation = full
        publishing_of(a).attach(a)


async def test_of_what_one_node_says_of_a_name_so_much_counts(tmp_path: Path) -> None:
    async with mesh(tmp_path, "a", "c") as (a, c):
        await a.service.import_model(model_file(tmp_path, 1), name="m")
        rows = [Advice(a.id, "a", False, "m", f"<0.{number}", "", "", 0) for number in range(ADVICE_MOST)]
        fits = Advice(a.id, "a", False, "m", ">0", "It is wrong.", "", 0)
        for said, counts in ([*rows[1:], fits], True), ([*rows, fits], False):
            versions = c.service.versions()
            mark_deprecated(versions, said)
            assert [version.deprecation is not None for version in versions] == [counts]
