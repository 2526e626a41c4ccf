"""The control routes of transfers, previews, jobs and lists."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.api.control.test_control import Api, api, lines
from tests.api.faces import NODE_ID

__all__ = ["api"]


async def test_transfers(api: Api) -> None:
    assert (await api.client.get("/transfers")).json() == {"transfers": []}
    left = (await api.post("/models/pull-later", {"spec": "far"})).json()["transfer"]
    assert (left["id"], left["state"], left["percent"]) == (1, "running", 25.0)
    assert (await api.post("/transfers/pause", {"which": "1"})).json()["transfers"][0]["state"] == "paused"
    assert (await api.post("/transfers/resume", {"which": "far"})).json()["transfers"][0]["state"] == "running"
    cancelled = (await api.post("/transfers/cancel", {"which": "1", "keep": True})).json()["transfers"]
    assert (cancelled[0]["state"], cancelled[0]["reason"]) == ("cancelled", "kept")
    assert (await api.client.get("/transfers")).json() == {"transfers": []}
    assert len((await api.client.get("/transfers?over=1")).json()["transfers"]) == 1
    assert (await api.post("/transfers/pause", {"which": "9"})).status_code == 409
    assert (await api.post("/transfers/pause", {})).status_code == 400
    await api.post("/models/pull", {"spec": "far"})
    assert (await api.post("/models/pull-later", {"spec": "far"})).json()["model"]["name"] == "far"


async def test_a_preview(api: Api, tmp_path: Path) -> None:
    body = {"path": str(tmp_path / "iris.pkl"), "capabilities": ["x"], "name": None}
    seen = (await api.post("/models/preview", body)).json()
    assert (seen["name"], seen["capabilities"], seen["converted"]) == ("iris", ["x"], True)
    assert (await api.post("/models/preview", {"path": "iris.pkl"})).status_code == 400


async def test_a_folder(api: Api, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    *_, done = lines(await api.post("/models/import-folder", {"path": str(tmp_path)}))
    assert done["done"] == {"imported": [], "here": [], "skipped": [], "ignored": 1}
    gone = await api.post("/models/import-folder", {"path": str(tmp_path / "gone"), "type": "anomaly"})
    assert gone.status_code == 409


async def test_errors_that_programs_can_act_on(api: Api) -> None:
    asked = (await api.post("/models/pull", {"spec": "far@strange"})).json()["error"]
    assert (asked["code"], asked["about"]["node"]) == ("consent_needed", NODE_ID)
    *_, done = lines(await api.post("/models/pull", {"spec": "far@strange", "trust": NODE_ID}))
    assert done["done"]["name"] == "far"
    stopped = (await api.post("/models/pull", {"spec": "far@stopped"})).json()["error"]
    assert stopped["code"] == "stopped"


@pytest.mark.parametrize(
    ("job", "body", "field"),
    [
        ("pull", {"spec": 5}, "spec"),
        ("pull", {"spec": "a", "trust": 5}, "trust"),
        ("pull", {"spec": "a", "wait": "yes"}, "wait"),
        ("pull", {"capabilities": "a"}, "capabilities"),
        ("diff", {"base": "a"}, "target"),
        ("gc", {"dry_run": 1}, "dry_run"),
        ("gc", {"spec": "a"}, "spec"),
    ],
)
async def test_fields_that_are_wrong(api: Api, job: str, body: dict[str, object], field: str) -> None:
    response = await api.post(f"/models/{job}", body)
    assert response.status_code == 400
    assert response.json()["error"]["message"].startswith(f"{field} in the JSON body")


async def test_lists(api: Api) -> None:
    assert (await api.client.get("/publishers")).json()["publishers"][0]["name"] == "attic"
    assert (await api.client.get("/deprecations")).json()["deprecations"][0]["range"] == "<2"
    assert (await api.client.get("/updates")).json()["updates"][0]["active"] == "1.0"
    assert (await api.client.get("/deployment?name=far")).json()["total_models"] == 1
    assert (await api.client.get("/deployment?name=gone")).status_code == 409
