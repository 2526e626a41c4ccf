"""The control routes over ASGI: what they answer, what they refuse, and that nobody's job outlives its client."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

from atmo.api.control.body import MAX_BODY_BYTES
from atmo.api.control.ndjson import KEEP_ALIVE_S, Job, JobResponse
from atmo.services.jobs import JOBS
from tests.api.face import application
from tests.api.faces import MemoryMesh, MemoryModels, Row, hundred, memory_routes

TOKEN = "secret-token"


class Api:
    """An application with the control routes and a client that holds the token."""

    def __init__(self) -> None:
        self.mesh = MemoryMesh()
        self.models = MemoryModels()
        self.app = application(memory_routes(TOKEN, self.mesh, self.models, lambda: {"name": "kitchen"}))
        self.client = self.connect({"authorization": f"Bearer {TOKEN}"})

    def connect(self, headers: dict[str, str]) -> httpx.AsyncClient:
        return httpx.AsyncClient(
            transport=httpx.ASGITransport(self.app), base_url="http://node/atmo/v1", headers=headers
        )

    async def post(self, path: str, body: Any = None) -> httpx.Response:
        return await self.client.post(path, json={} if body is None else body)


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    made = Api()
    async with made.client:
        yield made


def lines(response: httpx.Response) -> list[dict[str, Any]]:
    return [json.loads(line) for line in response.text.splitlines()]


ROUTES = [
    ("GET", "/status"),
    ("GET", "/config"),
    ("GET", "/mesh/nodes"),
    ("POST", "/mesh/create"),
    ("POST", "/mesh/invite"),
    ("POST", "/mesh/join"),
    ("POST", "/mesh/revoke"),
    ("POST", "/mesh/hand-over"),
    ("POST", "/mesh/doctor"),
    ("GET", "/models"),
    ("GET", "/models/far"),
    ("POST", "/models/preview"),
    ("POST", "/models/import"),
    ("POST", "/models/import-folder"),
    ("POST", "/models/pull-later"),
    ("POST", "/models/remove"),
    *(("POST", f"/models/{name}") for name in JOBS),
    ("GET", "/publishers"),
    ("GET", "/deprecations"),
    ("GET", "/updates"),
    ("GET", "/deployment"),
    ("GET", "/transfers"),
    ("POST", "/transfers/pause"),
    ("POST", "/transfers/resume"),
    ("POST", "/transfers/cancel"),
]


@pytest.mark.parametrize(("method", "path"), ROUTES)
@pytest.mark.parametrize("given", [None, "Bearer wrong", "Bearer ", TOKEN, "Bearer \xff"])
async def test_every_route_wants_the_token(api: Api, method: str, path: str, given: str | None) -> None:
    headers = {} if given is None else {"authorization": given.encode("latin-1").decode("latin-1")}
    request = httpx.Request(
        method,
        "http://node/atmo/v1" + path,
        headers=[(b"authorization", v.encode("latin-1")) for v in headers.values()],
    )
    async with api.connect({}) as stranger:
        response = await stranger.send(request)
    assert response.status_code == 401
    assert response.headers["www-authenticate"] == "Bearer"
    assert "token" in response.json()["error"]["message"]


def test_every_route_is_in_the_list() -> None:
    router = memory_routes(TOKEN, MemoryMesh(), MemoryModels(), dict)
    known = {(method, path.replace("far", "{name:path}")) for method, path in ROUTES}
    found = {(route.method, route.path.removeprefix("/atmo/v1")) for route in router.routes}
    assert found == known


async def test_the_doctor(api: Api) -> None:
    response = await api.post("/mesh/doctor")
    assert [check["verdict"] for check in response.json()["checks"]] == ["good", "bad"]


async def test_status(api: Api) -> None:
    response = await api.client.get("/status")
    assert (response.status_code, response.json()) == (200, {"name": "kitchen"})


async def test_a_mesh_from_its_creation_to_a_revocation(api: Api) -> None:
    assert (await api.post("/mesh/create", {"name": "home"})).json()["name"] == "home"
    invited = (await api.post("/mesh/invite", {"role": "gateway", "expires_s": 60})).json()
    assert invited == {"code": "atmo1-gateway", "role": "gateway", "expires_at": 1_060.0}
    assert (await api.post("/mesh/invite")).json()["expires_at"] == 87_400.0
    assert (await api.post("/mesh/join", {"code": "atmo1-x"})).json()["name"] == "home"
    nodes = (await api.client.get("/mesh/nodes")).json()["nodes"]
    assert nodes[0]["name"] == "kitchen"
    assert (await api.post("/mesh/hand-over", {"node": "kitchen"})).json() == {"id": "a" * 52, "name": "kitchen"}
    assert (await api.post("/mesh/revoke", {"node": "kitchen", "force": "yes"})).status_code == 400
    assert (await api.post("/mesh/revoke", {"node": "kitchen", "force": True})).json() == {
        "id": "a" * 52,
        "name": "kitchen",
    }


async def test_models_from_import_to_removal(api: Api, tmp_path: Path) -> None:
    file = tmp_path / "iris.onnx"
    file.write_bytes(b"x")
    body = {
        "path": str(file),
        "version": "2.0",
        "type": "classifier",
        "capabilities": ["a", "b"],
        "description": "Irises",
        "name": None,
    }
    imported = await api.post("/models/import", body)
    assert imported.headers["content-type"] == "application/x-ndjson"
    progress, done = lines(imported)
    assert progress["progress"]["phase"] == "hash"
    assert progress["progress"]["sources"] == []
    assert done["done"]["name"] == "iris"
    assert api.models.imported == {
        "path": file,
        "name": None,
        "version": "2.0",
        "kind": "classifier",
        "capabilities": ("a", "b"),
        "description": "Irises",
    }
    names = {}
    for scope in ("local", "mesh", "available"):
        names[scope] = [m["name"] for m in (await api.client.get(f"/models?scope={scope}")).json()["models"]]
    assert names == {"local": ["iris"], "mesh": ["iris", "far"], "available": ["far"]}
    assert (await api.client.get("/models/iris")).json()["manifest"]["name"] == "iris"
    assert (await api.post("/models/remove", {"spec": "iris"})).json()["removed"][0]["name"] == "iris"


async def test_a_pull_tells_its_progress(api: Api) -> None:
    *progress, done = lines(await api.post("/models/pull", {"spec": "far@>=1"}))
    assert [line["progress"]["bytes_done"] for line in progress] == [0, 40, 80]
    assert progress[0]["progress"]["eta_s"] == 9.0
    assert done["done"]["version"] == "1.0.0"


async def test_a_pull_that_breaks_ends_with_its_error(api: Api) -> None:
    response = await api.post("/models/pull", {"spec": "far@broken"})
    assert response.status_code == 200
    vanished = {"message": "kitchen vanished", "type": "api_error", "param": None, "code": None, "hint": ""}
    assert lines(response)[-1] == {"error": vanished}


CODE = "code in the JSON body has to be a text that is not empty."
TAKES_CODE = "Send a JSON object; this request takes code."
SECONDS = "expires_s in the JSON body has to be a number of seconds above 0."
FORCE = "force in the JSON body has to be true or false."


@pytest.mark.parametrize(
    ("path", "body", "status", "message", "hint"),
    [
        (
            "/models/pull",
            {"spec": "gone"},
            409,
            "Nobody in the mesh has the model gone.",
            "See `atmo model list --mesh`.",
        ),
        ("/models/import", {"path": "/gone"}, 409, "/gone: there is no such file.", ""),
        ("/models/remove", {"spec": "gone"}, 409, "The model gone is not on this machine.", ""),
        ("/mesh/invite", {}, 409, "This node is in no mesh.", "Create one with `atmo mesh create NAME`."),
        ("/mesh/join", {"code": "zz"}, 409, "This is not a join code.", "Ask for a new one."),
        ("/mesh/join", {"code": "unreachable"}, 502, "kitchen did not answer", ""),
        ("/mesh/join", {}, 400, CODE, 'Send it as {"code": "..."}.'),
        ("/mesh/join", {"code": " "}, 400, CODE, 'Send it as {"code": "..."}.'),
        ("/mesh/join", {"code": "a", "x": 1}, 400, "x in the JSON body is no field of this request.", TAKES_CODE),
        ("/mesh/join", [1], 400, "The body is not a JSON object.", TAKES_CODE),
        ("/mesh/invite", {"expires_s": 0}, 400, SECONDS, 'Send it as {"expires_s": 3600}.'),
        ("/mesh/invite", {"expires_s": True}, 400, SECONDS, 'Send it as {"expires_s": 3600}.'),
        ("/mesh/revoke", {"node": "a", "force": 1}, 400, FORCE, 'Send it as {"force": true}.'),
        (
            "/models/import",
            {"path": "x.onnx"},
            400,
            "path: x.onnx is not absolute.",
            "The node has another working directory.",
        ),
        (
            "/models/import",
            {"path": "/x", "capabilities": "a"},
            400,
            "capabilities in the JSON body has to be a list of names.",
            'Send it as {"capabilities": ["..."]}.',
        ),
        (
            "/models/import",
            {"path": "/x", "description": 1},
            400,
            "description in the JSON body has to be a text.",
            'Send it as {"description": "..."}.',
        ),
    ],
)
async def test_errors(api: Api, path: str, body: Any, status: int, message: str, hint: str) -> None:
    response = await api.post(path, body)
    error = response.json()["error"]
    assert (response.status_code, error["message"], error["hint"]) == (status, message, hint)
    assert set(error) == {"message", "type", "param", "code", "hint"}


async def test_other_errors(api: Api) -> None:
    assert (await api.client.get("/models?scope=all")).status_code == 400
    assert (await api.client.get("/models/gone")).status_code == 409
    assert (await api.client.post("/mesh/join", content=b"{")).json()["error"]["message"] == "The body is not JSON."
    assert (await api.client.post("/mesh/join", content=b"[" * 50_000)).status_code == 400
    assert (await api.client.post("/mesh/join", content=b" " * (MAX_BODY_BYTES + 1))).status_code == 413


class Exchange:
    """One ASGI request whose client may leave at any time."""

    def __init__(self) -> None:
        self.left = trio.Event()
        self.asked = False
        self.sent: list[dict[str, Any]] = []

    async def receive(self) -> dict[str, Any]:
        await trio.lowlevel.checkpoint()
        if not self.asked:
            self.asked = True
            return {"type": "http.request", "body": b"", "more_body": False}
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        await trio.lowlevel.checkpoint()
        self.sent.append(message)

    async def run(self, job: Job) -> None:
        await JobResponse(job)({"type": "http"}, self.receive, self.send)


async def test_a_client_that_leaves_cancels_its_pull(nursery: trio.Nursery) -> None:
    models, exchange = MemoryModels(), Exchange()

    async def job(report: Any) -> dict[str, Any]:
        return (await models.pull("far@slow", progress=report)).to_json()

    nursery.start_soon(exchange.run, job)
    while not models.waiting:
        await trio.testing.wait_all_tasks_blocked()
    exchange.left.set()
    await trio.testing.wait_all_tasks_blocked()
    assert models.cancelled
    assert json.loads(exchange.sent[-1]["body"])["progress"]["bytes_done"] == 80


async def test_a_slow_reader_gets_the_newest_report_only(nursery: trio.Nursery) -> None:
    exchange = Exchange()

    async def job(report: Any) -> dict[str, Any]:
        await trio.lowlevel.checkpoint()
        for done in range(1_000):
            report(hundred(bytes_done=done))
        await trio.testing.wait_all_tasks_blocked()
        return Row("x").to_json()

    await exchange.run(job)
    bodies = [json.loads(message["body"]) for message in exchange.sent[1:]]
    assert [body["progress"]["bytes_done"] for body in bodies[:-1]] == [999]
    assert bodies[-1]["done"]["name"] == "x"
    assert [message["more_body"] for message in exchange.sent[1:]] == [True, False]


async def test_a_bug_in_a_service_is_not_swallowed(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> list[dict[str, Any]]:
        raise ExceptionGroup("two", [ValueError("a"), ValueError("b")])

    monkeypatch.setattr(api.mesh, "nodes", broken)
    with pytest.RaisesGroup(ValueError, ValueError):
        await api.client.get("/mesh/nodes")


async def test_the_last_report_is_told_even_when_the_end_follows_at_once() -> None:
    exchange = Exchange()

    async def job(report: Any) -> dict[str, Any]:
        report(hundred("here already"))
        await trio.lowlevel.checkpoint()
        return {}

    await exchange.run(job)
    assert [next(iter(json.loads(message["body"]))) for message in exchange.sent[1:]] == ["progress", "done"]


async def test_silence_is_broken_by_empty_lines(autojump_clock: trio.testing.MockClock) -> None:
    exchange = Exchange()

    async def job(report: Any) -> dict[str, Any]:
        await trio.sleep(2.5 * KEEP_ALIVE_S)
        return {}

    await exchange.run(job)
    assert [message["body"] for message in exchange.sent[1:]] == [b"\n", b"\n", b'{"done": {}}\n']


@pytest.mark.parametrize("bug", [ZeroDivisionError("x"), ExceptionGroup("two", [ValueError("a"), ValueError("b")])])
async def test_a_bug_in_a_job_is_logged_and_told(bug: Exception, caplog: pytest.LogCaptureFixture) -> None:
    exchange = Exchange()

    async def job(report: Any) -> dict[str, Any]:
        await trio.lowlevel.checkpoint()
        raise bug

    await exchange.run(job)
    assert exchange.sent[0]["status"] == 500
    assert "inside the node" in json.loads(exchange.sent[1]["body"])["error"]["message"]
    (record,) = caplog.records
    assert record.exc_info is not None
    assert record.exc_info[1] is bug


async def test_a_node_that_ends_ends_its_jobs() -> None:
    async def job(report: Any) -> dict[str, Any]:
        await trio.lowlevel.checkpoint()
        raise BaseExceptionGroup("two", [KeyboardInterrupt(), ValueError("b")])

    with pytest.RaisesGroup(pytest.RaisesGroup(KeyboardInterrupt, ValueError)):
        await Exchange().run(job)
