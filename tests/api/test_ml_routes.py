"""`/v1/ml/*` of groups, forecasts and plain vectors, with the backends that really do it."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.types import Receive, Scope, Send

from atmo.api.account import account_of
from atmo.backends.ml_children import ChildrenBackend
from tests.api.face import in_process, make_app
from tests.backends.graphs import TinyEmbedder
from tests.gateway.world import Lengths, loop_net

SERIES = [float(one % 4 + one / 10) for one in range(24)]


async def test_groups_and_forecasts_of_another_node() -> None:
    async with loop_net() as net:
        alpha = await net.add("alpha")
        await net.add("beta", ChildrenBackend(TinyEmbedder()))
        async with in_process(make_app(alpha)) as client:
            rows = [[0, 0], [0, 1], [9, 9], [9, 8]]
            groups = await client.post("/v1/ml/cluster", json={"data": rows, "k": 2}, timeout=60)
            ahead = await client.post("/v1/ml/forecast", json={"data": SERIES, "horizon": 2, "season": 4}, timeout=60)
    assert groups.headers["x-atmosphere-node"] == "beta"
    found = groups.json()["clusters"]
    assert (found[0] == found[1], found[2] == found[3], found[0] == found[2]) == (True, True, False)
    assert ahead.json()["forecast"] == pytest.approx([2.4, 3.5], abs=0.2)


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("cluster", {}, "data"),
        ("cluster", {"data": [[1], [2], [3]], "k": 9}, "k"),
        ("forecast", {}, "data"),
        ("forecast", {"data": [1, 2, 3]}, "data"),
        ("forecast", {"data": SERIES, "horizon": 0}, "horizon"),
        ("forecast", {"data": SERIES, "action": "paint"}, "action"),
        ("embed", {}, "texts"),
        ("embed", {"texts": []}, "input"),
    ],
)
async def test_requests_that_are_none(path: str, body: dict[str, Any], param: str) -> None:
    async with loop_net() as net:
        alpha = await net.add("alpha", ChildrenBackend(TinyEmbedder()), Lengths())
        async with in_process(make_app(alpha)) as client:
            answer = await client.post(f"/v1/ml/{path}", json=body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


@pytest.mark.parametrize("field", ["texts", "input", "data"])
async def test_plain_vectors(field: str) -> None:
    async with loop_net() as net, in_process(make_app(await net.add("alpha", Lengths()))) as client:
        answer = await client.post("/v1/ml/embed", json={field: ["ab", "abc"]})
    assert answer.json() == {
        "object": "ml.embeddings",
        "model": "lengths",
        "dimensions": 4,
        "embeddings": [[2.0, 0.5, 3.0, 4.0], [3.0, 0.5, 3.0, 4.0]],
    }


async def test_a_key_fits_models_of_its_own_names_only() -> None:
    async with loop_net() as net:
        app = make_app(await net.add("alpha"))

        async def as_guest(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] == "http":
                account_of(scope).models = ("guest-*",)
            await app(scope, receive, send)

        async with in_process(as_guest) as client:
            refused = await client.post("/v1/ml/anomaly/fit", json={"model": "pumps", "data": []})
            allowed = await client.post("/v1/ml/anomaly/fit", json={"model": "guest-pumps", "data": []})
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "model_not_allowed")
    assert allowed.status_code == 200
