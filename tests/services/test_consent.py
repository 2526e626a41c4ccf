"""Whose models may come here, and which fit: the settings' policy, a person's decisions, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from atmo.errors import UserError
from atmo.identity import NodeId
from atmo.services.consent import Consent, ConsentNeeded, fingerprint
from atmo.services.vetting import ALLOWED_MOST, Allowed, Unfit
from atmo.storage.database import Database
from atmo.storage.decisions import Decision, Decisions, TrustPolicy
from atmo.transfer.requirements import MIB, Profile
from tests.services.hub import Node
from tests.services.kit import mesh, model_file
from tests.trust.kit import ANNA, BERT, EVE

ASK = TrustPolicy()


def consent(folder: Path, policy: TrustPolicy = ASK, port: Any = None) -> Consent:
    decisions = Decisions(Database(folder / "atmosphere.db"))
    return Consent(decisions, ANNA.node_id, lambda: port, policy, wall=lambda: 100.0)


def trusts(mine: Consent, publisher: NodeId) -> bool:
    """Says whether models of a publisher may come here without a question."""
    try:
        mine.check(publisher, "")
    except UserError:
        return False
    return True


def named(node: Node, name: str) -> Any:
    """A member whose certificate has that name."""
    return lambda who: SimpleNamespace(certificate=SimpleNamespace(name=name)) if who == node.id else None


async def test_a_first_time_publisher_needs_consent_which_is_remembered(tmp_path: Path) -> None:
    async with mesh(tmp_path, "a", "c", policy=ASK) as (a, c):
        await a.service.import_model(model_file(tmp_path, 1), name="one")
        await a.service.import_model(model_file(tmp_path, 2), name="two")
        asked = len(c.hub.requests)
        with pytest.raises(ConsentNeeded, match="was published by a") as refused:
            await c.service.pull("one")
        assert len(c.hub.requests) == asked, "nothing was fetched for it"
        about = refused.value.about
        assert about == {
            "node": str(a.id),
            "name": "a",
            "roles": ["edge"],
            "member": True,
            "fingerprint": fingerprint(a.id),
            "models": ["one", "two"],
        }
        with pytest.raises(ConsentNeeded):
            await c.service.pull("one", trust=str(c.id))
        with pytest.raises(UserError, match="Give the id"):
            await c.service.pull("one", trust="a")
        heard: list[Any] = []
        c.service.consent.audit = lambda *said: heard.append(said)
        assert (await c.service.pull("one", trust=about["node"])).local
        assert heard == [(a.id, "a", True)]
        assert (await c.service.pull("two")).local, "a is no stranger any more"
        (row,) = c.service.consent.rows()
        assert (row["name"], row["trusted"]) == ("a", True)
        assert (await c.service.consent.forget("a"))["node"] == str(a.id)
        assert c.service.consent.rows() == []


async def test_a_lie_about_the_publisher_gains_nothing(tmp_path: Path) -> None:
    async with mesh(tmp_path, "a", "b", "c", policy=ASK) as (a, b, c):
        b.roles = ("admin",)
        await a.service.import_model(model_file(tmp_path, 1), name="one")
        (told,) = a.published
        a.published = (replace(told, publisher=b.id),)
        with pytest.raises(UserError, match="its manifest contradicts"):
            await c.service.pull("one")
        a.published = (replace(told, publisher=None),)
        with pytest.raises(ConsentNeeded):
            await c.service.pull("one")
        assert c.service.local_models() == []
        assert (await c.service.pull("one", trust=True)).local
        assert list(c.service.consent._decisions.publishers) == [a.id]


async def test_of_two_claims_that_of_a_trusted_publisher_is_taken(tmp_path: Path) -> None:
    async with mesh(tmp_path, "a", "b", "c", "d", policy=ASK) as (a, b, c, d):
        await a.service.import_model(model_file(tmp_path, 1), name="one")
        await b.service.import_model(model_file(tmp_path, 1, seed=2), name="one")
        await d.service.pull("one", trust=True)
        most = d.service.local_models()[0].publisher
        other = b if most == a.id else a
        other.roles = ("founder", "admin")
        assert (await c.service.pull("one")).local
        assert c.service.local_models()[0].publisher == other.id, "though more nodes have the other one"
        info = c.service.info("one")
        assert info["claims"] == 2
        assert {claim["publisher"] for claim in info["rivals"]} == {str(a.id), str(b.id)}
        assert {claim["local"] for claim in info["rivals"]} == {True, False}


async def test_policies_of_the_settings(tmp_path: Path) -> None:
    async with mesh(tmp_path, "a", "c") as (a, c):
        for number, (policy, trusted) in enumerate(
            (
                (ASK, False),
                (TrustPolicy(first_time="allow"), True),
                (TrustPolicy(first_time="refuse"), False),
                (TrustPolicy(publishers=(str(a.id),)), True),
                (TrustPolicy(publishers=("central",)), True),
                (TrustPolicy(publishers=("a",)), False),
                (TrustPolicy(roles=("edge",)), True),
            )
        ):
            folder = tmp_path / str(number)
            folder.mkdir()
            c.peer.member = named(a, "central")
            assert trusts(consent(folder, policy, c), a.id) is trusted, policy
        with pytest.raises(UserError, match="none of the publishers that this node trusts"):
            consent(tmp_path, TrustPolicy(first_time="refuse"), c).check(a.id, "x 1")
        assert trusts(consent(tmp_path, ASK, c), ANNA.node_id), "one's own"
        c.peer.trust.is_revoked = lambda node: True
        with pytest.raises(UserError, match="put out of the mesh"):
            consent(tmp_path, TrustPolicy(first_time="allow"), c).check(a.id, "x 1")


async def test_without_a_mesh_only_decisions_and_ids_count(tmp_path: Path) -> None:
    mine = consent(tmp_path, TrustPolicy(publishers=(str(EVE.node_id), "bert")))
    assert trusts(mine, EVE.node_id)
    assert not trusts(mine, BERT.node_id)
    row = await mine.decide(str(BERT.node_id), trusted=False)
    assert (row["trusted"], row["roles"], row["member"], row["decided_at"]) == (False, [], False, 100.0)
    with pytest.raises(UserError, match="refused here"):
        mine.check(BERT.node_id, "x 1")
    await mine.decide(str(BERT.node_id)[:8].upper(), trusted=True)
    assert trusts(mine, BERT.node_id)


async def test_who_is_meant_has_to_be_clear(tmp_path: Path) -> None:
    mine = consent(tmp_path)
    with pytest.raises(UserError, match="No node is called 'bert'"):
        await mine.decide("bert", trusted=True)
    with pytest.raises(UserError, match="Nothing was decided"):
        await mine.forget(BERT.node_id)
    for node in (BERT.node_id, EVE.node_id):
        mine._decisions.decide(node, Decision(True, "twin", 1.0))
    with pytest.raises(UserError, match="2 nodes are called 'twin'"):
        await mine.forget("twin")


# --- what fits ----------------------------------------------------------------------------------------------------


async def test_what_does_not_fit_is_refused_unless_a_person_insists(tmp_path: Path) -> None:
    async with mesh(tmp_path, "a", "c") as (a, c):
        source = model_file(tmp_path, 1)
        needs = {
            "node_requirements": {"min_memory_mb": 9_000, "architectures": ["arm64"]},
            "requirements": ["torch>=9"],
        }
        source.with_name(source.name + ".yaml").write_text(yaml.safe_dump(needs))
        await a.service.import_model(source, name="m", capabilities=["x"])
        await a.service.import_model(model_file(tmp_path, 2), name="n", capabilities=["x"])
        c.profile = Profile(memory_mb=4_096, architecture="x86_64", packages=("numpy==1",))
        with pytest.raises(Unfit, match="does not fit here: it runs on arm64, and this is x86_64") as refused:
            await c.service.pull("m")
        assert "it needs 9000 MB of memory" in str(refused.value)
        assert "--force" in refused.value.hint
        assert c.storage.partials() == {}
        assert (await c.service.pull_capable(["x"])).name == "n", "the better one does not fit"
        assert (await c.service.pull("m", force=True)).local
        unmet = c.service.info("m")["unmet"]
        assert [line.split()[0] for line in unmet] == ["runs", "needs", "asks"]


async def test_owners_set_limits_that_are_known_before_anything_is_fetched(tmp_path: Path) -> None:
    async with mesh(tmp_path, "a", "c") as (a, c):
        for number in range(2):
            await a.service.import_model(model_file(tmp_path, number + 1), name=f"m{number}")
        c.profile = Profile(max_model_size_mb=2, max_models=1)
        with pytest.raises(Unfit, match="has 3 MiB, and models of at most 2 are wanted"):
            await c.service.pull("m1")
        await c.service.pull("m0")
        with pytest.raises(Unfit, match="one more than the 1 models"):
            await c.service.pull("m1")
        assert [protocol for _, _, protocol in c.hub.requests].count("atmo/manifest/1") == 1
        assert c.published[0].size_bytes < 2 * MIB
        assert (await c.service.pull("m1", force=True)).local


async def test_a_model_with_capabilities_that_nobody_has(tmp_path: Path) -> None:
    async with mesh(tmp_path, "a", "c", policy=ASK) as (a, c):
        await a.service.import_model(model_file(tmp_path, 1), name="m", capabilities=["x"])
        with pytest.raises(UserError, match="No node has a model with x and y"):
            await c.service.pull_capable(["x", "y"])
        with pytest.raises(ConsentNeeded):
            await c.service.pull_capable(["x"])
        assert (await c.service.pull_capable(["x"], trust=True)).name == "m"
        assert (await c.service.pull_capable(["x"])).local


async def test_what_people_allowed_is_bounded(tmp_path: Path) -> None:
    async with mesh(tmp_path, "c") as (c,):
        for number in range(ALLOWED_MOST + 5):
            c.service.vetting.allow(("m", str(number)), Allowed(force=True))
        assert len(c.service.vetting._allowed) == ALLOWED_MOST
        c.service.vetting.allow(("m", "9"), Allowed())
        assert ("m", "9") not in c.service.vetting._allowed
