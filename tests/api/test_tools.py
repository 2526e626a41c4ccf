from __future__ import annotations

from typing import Any

import jsonschema
import pytest

from atmo.api.account import Account
from atmo.api.tools import TOOLS
from atmo.router.capability import ANOMALY, CHAT, Capability
from tests.api.face import in_process, make_app
from tests.gateway.world import Echo, Failing, Lengths, Signs, chat, loop_net, refused

CALL = {
    "tool_name": "llamafarm_chat",
    "params": {**chat("What is machine learning?"), "model": "echo", "temperature": 0.7, "max_tokens": 500},
    "context": {"request_id": "req-abc123", "source_node": "node-xyz", "user_id": "user-456"},
}
"""The example of seed 003."""

ANSWER = {
    "type": "object",
    "required": ["success", "data", "duration_ms", "metadata"],
    "properties": {
        "success": {"type": "boolean"},
        "duration_ms": {"type": "integer", "minimum": 0},
        "metadata": {
            "type": "object",
            "required": ["node_id", "timestamp"],
            "properties": {
                "model": {"type": "string"},
                "node_id": {"type": "string"},
                "timestamp": {"type": "integer"},
            },
        },
        "error": {"type": "object", "required": ["message", "type", "param", "code"]},
    },
}
"""The shape of seed 003, and what is in it where a call failed."""


class Odd(Signs):
    """Finds nothing odd; remembers what it was asked."""

    def __init__(self) -> None:
        super().__init__("odd")
        self.offered = (Capability("onnx:odd", ANOMALY, "odd"),)


async def call(client: Any, body: Any, status: int = 200) -> dict[str, Any]:
    answer = await client.post("/v1/tools/execute", json=body)
    assert answer.status_code == status, answer.text
    value: dict[str, Any] = answer.json()
    jsonschema.validate(value, ANSWER)
    return value


class TestExecute:
    async def test_the_contracts_example(self) -> None:
        accounts: list[Account] = []
        async with loop_net() as net:
            alpha = await net.add("alpha")
            beta = await net.add("beta", echo := Echo())
            async with in_process(make_app(alpha, observers=(accounts.append,))) as client:
                answer = await call(client, CALL)
        assert answer["success"] is True
        assert answer["data"]["choices"][0]["message"]["role"] == "assistant"
        assert answer["data"]["usage"]["total_tokens"] == 2
        about = answer["metadata"]
        assert (about["model"], about["node_id"], about["request_id"]) == ("echo", str(beta.id), "req-abc123")
        assert (accounts[0].operation, accounts[0].request_id, accounts[0].completion_tokens) == (CHAT, "req-abc123", 1)
        assert echo.calls[0].request_id == "req-abc123"

    async def test_each_tool_is_an_operation(self) -> None:
        odd = Odd()
        async with loop_net() as net:
            alpha = await net.add("alpha", Lengths(), Signs(), odd)
            async with in_process(make_app(alpha)) as client:
                vectors = await call(client, {"tool_name": "llamafarm_embed", "params": {"input": ["abc"]}})
                classes = await call(client, {"tool_name": "classify", "params": {"data": [[1], [-1]]}})
                for action in ("detect", "score"):
                    name = {"detect": "detect_anomalies", "score": "score_anomalies"}[action]
                    await call(client, {"tool_name": name, "params": {"data": [[1]]}})
        assert vectors["data"]["data"][0]["embedding"] == [3.0, 0.5, 3.0, 4.0]
        assert classes["data"]["data"] == ["positive", "negative"]
        assert [one.body["action"] for one in odd.calls] == ["detect", "score"]

    @pytest.mark.parametrize(
        ("change", "status", "param", "words"),
        [
            ({"tool_name": "dance"}, 404, "tool_name", "no tool 'dance'"),
            ({"tool_name": 5}, 400, "tool_name", "GET /v1/tools"),
            ({"params": []}, 400, "params", "must be an object"),
            ({"params": {}}, 400, "messages", "'messages'"),
            ({"params": chat(temperature=9)}, 400, "temperature", "temperature"),
            ({"params": chat(stream=True)}, 400, "params.stream", "leave it out"),
            ({"params": chat(model="nobody's")}, 404, "model", "nobody's"),
            ({"context": []}, 200, None, ""),
            ({"context": "x"}, 400, "context", "must be an object"),
            ({"context": {"request_id": "a b"}}, 400, "context.request_id", "letters"),
            ({"tool_name": "detect_anomalies", "params": {"action": "fit"}}, 400, "params.action", "fixed"),
        ],
    )
    async def test_what_is_wrong_is_said_in_the_contracts_shape(
        self, change: dict[str, Any], status: int, param: str | None, words: str
    ) -> None:
        async with loop_net() as net, in_process(make_app(await net.add("alpha", Echo()))) as client:
            answer = await call(client, CALL | change, status)
        assert answer["success"] is (status == 200)
        if status != 200:
            assert answer["data"] is None
            assert answer["error"]["param"] == param
            assert words in answer["error"]["message"]

    async def test_a_node_that_is_busy_says_when_to_come_again(self) -> None:
        async with loop_net() as net:
            alpha = await net.add("alpha", Failing(error=refused(503)))
            async with in_process(make_app(alpha)) as client:
                answer = await client.post("/v1/tools/execute", json={**CALL, "params": chat()})
        assert (answer.status_code, answer.json()["success"]) == (503, False)
        assert "retry-after" in answer.headers


class TestList:
    async def test_tools_come_with_schemas_of_their_parameters(self) -> None:
        async with loop_net() as net, in_process(make_app(await net.add("alpha"))) as client:
            rows = (await client.get("/v1/tools")).json()["data"]
        assert {"llamafarm_chat", "llamafarm_generate", "llamafarm_embed", "chat", "embed", "classify"} <= {
            row["name"] for row in rows
        }
        for row in rows:
            jsonschema.Draft202012Validator.check_schema(row["parameters"])
            assert row["function"]["name"] == row["name"]
            assert "stream" not in row["parameters"]["properties"]
        schema = TOOLS["chat"].schema()
        jsonschema.validate(chat(), schema)
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({"messages": 5}, schema)
