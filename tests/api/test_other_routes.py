from __future__ import annotations

from typing import Any

import pytest
import trio
from starlette.responses import Response

from atmo.api.routing import Router
from atmo.errors import RequestError, UserError
from atmo.router.capability import ANOMALY, Capability
from tests.api.face import Fits, in_process, make_app
from tests.gateway.world import Echo, Failing, Lengths, Signs, chat, loop_net, refused


class TestMl:
    @pytest.mark.parametrize("path", ["/v1/ml/classify", "/v1/ml/classify/predict"])
    @pytest.mark.parametrize("model", ["signs", "auto", None])
    async def test_predict_is_the_default(self, path: str, model: str | None) -> None:
        async with loop_net() as net:
            alpha = await net.add("alpha")
            await net.add("beta", Signs())
            async with in_process(make_app(alpha)) as client:
                answer = await client.post(path, json={"model": model, "data": [[1], [-1]]})
        assert answer.json()["data"] == ["positive", "negative"]
        assert answer.headers["x-atmosphere-node"] == "beta"

    async def test_the_action_of_the_path_reaches_the_backend(self) -> None:
        class Scores(Signs):
            def __init__(self) -> None:
                super().__init__()
                self.offered = (Capability("onnx:odd", ANOMALY, "odd"),)

        backend = Scores()
        async with loop_net() as net, in_process(make_app(await net.add("alpha", backend))) as client:
            for action in ("score", "detect", "predict"):
                assert (await client.post(f"/v1/ml/anomaly/{action}", json={"data": [[1]]})).status_code == 200
            assert [call.body["action"] for call in backend.calls] == ["score", "detect", "predict"]
            wrong = await client.post("/v1/ml/anomaly/paint", json={"data": [[1]]})
            differs = await client.post("/v1/ml/anomaly/score", json={"data": [[1]], "action": "fit"})
        assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "action")
        assert "differs from the path" in differs.json()["error"]["message"]

    async def test_fit_runs_here_whoever_else_could(self) -> None:
        trainer = Fits()
        async with loop_net() as net, in_process(make_app(await net.add("alpha"), trainer=trainer)) as client:
            first = await client.post("/v1/ml/classify", json={"action": "fit", "model": "m", "data": [], "labels": []})
            second = await client.post("/v1/ml/anomaly/fit", json={"data": []})
            named = await client.post("/v1/ml/anomaly/fit", json={"model": 5})
        assert first.json() == {"object": "model", "model": "m"}
        assert second.json()["model"] == "new"
        assert [operation for operation, _ in trainer.asked] == ["classify", "anomaly"]
        assert named.status_code == 400

    async def test_a_person_is_told_what_is_wrong_with_a_fit(self) -> None:
        class Refuses:
            async def fit(self, operation: str, body: Any) -> dict[str, Any]:
                await trio.lowlevel.checkpoint()
                raise UserError("The name is taken.", "Choose another.")

        async with loop_net() as net:
            alpha = await net.add("alpha")
            async with in_process(make_app(alpha, trainer=Refuses())) as client:
                answer = await client.post("/v1/ml/classify/fit", json={})
            async with in_process(make_app(alpha, trainer=None)) as client:
                none = await client.post("/v1/ml/classify/fit", json={})
        assert (answer.status_code, answer.json()["error"]["message"]) == (400, "The name is taken. Choose another.")
        assert none.status_code == 503


class TestMesh:
    async def test_nodes(self) -> None:
        async with loop_net() as net, in_process(make_app(await net.add("alpha"))) as client:
            answer = (await client.get("/v1/mesh/nodes")).json()
        assert answer["object"] == "list"
        assert answer["data"][0]["name"] == "alpha"

    async def test_route_runs_nothing(self) -> None:
        backend = Echo()
        async with loop_net() as net:
            alpha = await net.add("alpha", backend, Lengths())
            async with in_process(make_app(alpha)) as client:
                posted = await client.post("/v1/mesh/route", json=chat("hello"))
                asked = await client.get("/v1/mesh/route", params={"prompt": "hello"})
                embed = await client.post("/v1/mesh/route", json={"operation": "embeddings", "input": "x"})
                unknown = await client.post("/v1/mesh/route", json={"model": "zzz"})
                wrong = await client.post("/v1/mesh/route", json={"operation": ["chat"]})
        assert posted.json()["chosen"]["model"] == "echo"
        assert posted.json()["candidates"][0]["reason"] == "this machine is the only node that can run it now"
        assert asked.json()["rule"] == "only"
        assert embed.json()["model"] == "lengths"
        assert (unknown.status_code, unknown.json()["status"], unknown.json()["chosen"]) == (200, 404, None)
        assert wrong.status_code == 400
        assert backend.calls == []


class TestHealth:
    @pytest.mark.parametrize("path", ["/health", "/v1/health"])
    async def test_health(self, path: str) -> None:
        async with loop_net() as net:
            alpha = await net.add("alpha", Echo())
            await net.add("beta", Echo())
            async with in_process(make_app(alpha)) as client:
                answer = (await client.get(path)).json()
        assert answer["status"] == "ok"
        assert answer["node_id"] == str(alpha.id)
        assert (answer["name"], answer["mesh"], answer["peers"]) == ("alpha", {"id": "m", "name": "home"}, 1)
        assert (answer["nodes"], answer["neighbours"]) == (2, 1)
        assert (answer["capabilities"], answer["mesh_capabilities"], answer["in_flight"]) == (1, 2, 0)

    async def test_metrics(self) -> None:
        async with loop_net() as net:
            alpha = await net.add("alpha", Failing(error=refused(400)))
            app = make_app(alpha, stats=lambda: {"gateway": alpha.gateway.stats})
            async with in_process(app) as client:
                await client.post("/v1/chat/completions", json=chat())
                answer = await client.get("/metrics")
        assert answer.headers["content-type"].startswith("text/plain")
        assert "atmo_gateway_requests_total 1.0" in answer.text
        assert "atmo_gateway_errors_total 1.0" in answer.text
        assert "mesh_requests" not in answer.text
        assert "atmo_requests_in_flight 0.0" in answer.text


async def test_the_control_routes_are_served_alike() -> None:
    control = Router("/atmo/v1", shown=False)

    @control.get("/number/{value}")
    async def number(value: str) -> Response:
        await trio.lowlevel.checkpoint()
        if not value.isdecimal():
            raise RequestError(400, "no number", param="value")
        return Response(value)

    async with loop_net() as net, in_process(make_app(await net.add("alpha"), control=control)) as client:
        good = await client.get("/atmo/v1/number/5")
        bad = await client.get("/atmo/v1/number/five")
        document = (await client.get("/openapi.json")).json()
    assert good.text == "5"
    assert (bad.status_code, bad.json()["error"]["param"]) == (400, "value")
    assert not [path for path in document["paths"] if path.startswith("/atmo")]
