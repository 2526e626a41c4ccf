"""Keys of a real node: made and revoked while it runs and while it does not; the node never tells them anybody."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.processes import NodeProcess, wait_for

pytestmark = pytest.mark.e2e

EMBEDDER = "all-minilm-l6-v2"


def ask(node: NodeProcess, key: str, path: str = "embeddings", **fields: Any) -> httpx.Response:
    headers = {"authorization": f"Bearer {key}"} if key else {}
    with httpx.Client(base_url=node.url, headers=headers, trust_env=False, timeout=60, verify=False) as client:
        if path == "embeddings":
            return client.post(path, json={"model": EMBEDDER, "input": "hello", **fields})
        return client.get(path)


def test_keys_from_making_to_revoking(tmp_path: Path) -> None:
    node = NodeProcess(tmp_path / "alpha", "alpha", ["--no-lan"], {"ATMO_REQUIRE_KEY": "1", "ATMO_LOG_LEVEL": "debug"})
    early = node.atmo("key", "create", "--name", "early").strip()
    with node:
        late = node.atmo("key", "create", "--name", "late", "--models", "all-*", "--rate", "3/day").strip()
        assert early.startswith("sk-atmo-")
        assert early != late
        for key in ("", "sk-other", early[:-1] + "1", node.info["token"][:-1]):
            answer = ask(node, key)
            assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key"), key
        assert ask(node, early).status_code == 200
        answers = [ask(node, late), ask(node, late, path="models")]
        answers += [ask(node, late, model="atmosphere-docs"), ask(node, late)]
        assert [answer.status_code for answer in answers] == [200, 200, 400, 429]
        assert [row["id"] for row in answers[1].json()["data"]] == ["auto", EMBEDDER]
        assert int(answers[3].headers["retry-after"]) > 20_000
        node.atmo("status")  # commands have the node's own token
        rows = {row["name"]: row for row in node.json("key", "list")}
        assert rows["early"]["requests"] == 1
        assert rows["early"]["prompt_tokens"] > 0
        assert node.atmo("key", "revoke", "early").startswith("Key early")
        assert ask(node, early).status_code == 401
        wait_for(lambda: b"late" in b"".join(path.read_bytes() for path in node.home.glob("atmosphere.db*")))
        metrics = ask(node, node.info["token"], path="../metrics").text
        assert "atmo_admission_wrong_key" in metrics
        seen = metrics + json.dumps(node.ask("status"))
        assert node.stop()[0] == 0
        assert {row["name"]: row["requests"] for row in node.json("key", "list")} == {"early": 1, "late": 3}
        node.start()
        assert ask(node, early).status_code == 401
        node.atmo("key", "revoke", rows["late"]["id"])
        assert ask(node, late).status_code == 401
        token = node.info["token"]
    told = seen + node.log()
    kept = b"".join(path.read_bytes() for path in node.home.rglob("*") if path.is_file() and path.name != "node.json")
    for secret in (early, late):
        assert secret[8:40] not in told
        assert secret[8:40].encode() not in kept
    assert token not in told


def test_a_node_that_others_reach_wants_a_key(tmp_path: Path) -> None:
    with NodeProcess(tmp_path / "alpha", "alpha", ["--no-lan", "--http", "0.0.0.0:0"]) as node:
        assert "nobody can use" in node.log()
        assert "atmo key create" in node.log()
        address = node.info["http"].replace("0.0.0.0", "127.0.0.1")
        with httpx.Client(base_url=address, trust_env=False, verify=False, timeout=60) as client:
            assert client.get("/health").json() == {"status": "ok"}
            for path in ("/metrics", "/v1/models", "/v1/mesh/nodes", "/openapi.json", "/docs"):
                assert client.get(path).status_code == 401, path
            key = node.atmo("key", "create", "--name", "phone").strip()
            for path in ("/metrics", "/v1/models", "/v1/mesh/nodes", "/openapi.json", "/docs"):
                assert client.get(path, headers={"authorization": f"Bearer {key}"}).status_code == 200, path
