"""Real `atmo node` processes: a mesh by code, models for everybody, any OpenAI client, and a holder that dies."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from tests.e2e.processes import COMMAND_S, NodeProcess, environment, join, wait_for, write_gguf

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[NodeProcess]]:
    """Three nodes in one mesh."""
    root = tmp_path_factory.mktemp("mesh")
    nodes = [NodeProcess(root / name, name) for name in ("anna", "bert", "cleo")]
    try:
        for node in nodes:
            node.start()
        nodes[0].atmo("mesh", "create", "home")
        for guest in nodes[1:]:
            join(nodes[0], guest)
        for node in nodes:
            wait_for(lambda node=node: len([row for row in node.json("mesh", "nodes") if row["path"]]) == 3)
        yield nodes
    finally:
        for node in nodes:
            node.kill()


def test_nodes_are_listed_with_the_fields_that_programs_rely_on(mesh: list[NodeProcess]) -> None:
    rows = mesh[1].json("mesh", "nodes")
    assert {row["name"] for row in rows} == {"anna", "bert", "cleo"}
    for row in rows:
        assert {"id", "name", "roles", "path", "rtt_ms", "last_seen_s"} <= set(row)
    served = httpx.get(mesh[1].url + "/mesh/nodes").json()
    assert {row["id"] for row in served["data"]} == {row["id"] for row in rows}


def test_the_official_client_works_unchanged(mesh: list[NodeProcess]) -> None:
    with openai.OpenAI(base_url=mesh[2].url, api_key="none", max_retries=0) as client:
        names = {model.id for model in client.models.list()}
        assert {"all-minilm-l6-v2", "atmosphere-docs"} <= names
        reply = client.embeddings.create(model="all-minilm-l6-v2", input=["hello", "world"])
        assert [len(item.embedding) for item in reply.data] == [384, 384]
        floats = client.embeddings.create(model="auto", input="hello", encoding_format="float")
        assert floats.data[0].embedding == pytest.approx(reply.data[0].embedding, abs=1e-6)
        question = [{"role": "user", "content": "How do I join a mesh with a code?"}]
        answer = client.chat.completions.create(model="auto", messages=question)  # type: ignore[arg-type]
        text = answer.choices[0].message.content or ""
        assert "join" in text
        chunks: list[Any] = list(
            client.chat.completions.create(model="atmosphere-docs", messages=question, stream=True)  # type: ignore[arg-type]
        )
        assert len({chunk.id for chunk in chunks}) == 1
        assert chunks[0].choices[0].delta.role == "assistant"
        assert chunks[-1].choices[0].finish_reason == "stop"
        assert "join" in "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
        with pytest.raises(openai.NotFoundError, match="no-such-model"):
            client.embeddings.create(model="no-such-model", input="x")
        with pytest.raises(openai.BadRequestError):
            client.chat.completions.create(model="auto", messages=[])


def test_a_fitted_model_is_used_and_pulled_elsewhere(mesh: list[NodeProcess]) -> None:
    rows = [[float(i % 7), float(i % 5)] for i in range(60)]
    labels = ["high" if row[0] > 3 else "low" for row in rows]
    fitted = httpx.post(
        mesh[0].url + "/ml/classify",
        json={"action": "fit", "model": "levels", "data": rows, "labels": labels},
        timeout=120,
    )
    assert fitted.status_code == 200, fitted.text
    assert fitted.json()["version"]
    query = {"action": "predict", "model": "levels", "data": [[6.0, 1.0], [0.0, 1.0]]}
    at_once = httpx.post(mesh[0].url + "/ml/classify", json=query, timeout=60)
    assert at_once.status_code == 200, at_once.text
    wait_for(lambda: httpx.post(mesh[1].url + "/ml/classify", json=query, timeout=60).status_code == 200)
    remote = httpx.post(mesh[1].url + "/ml/classify", json=query, timeout=60)
    assert remote.headers["x-atmosphere-node"] == "anna"
    assert [item["label"] for item in remote.json()["predictions"]] == ["high", "low"]
    mesh[1].atmo("model", "pull", "levels")
    wait_for(lambda: httpx.post(mesh[1].url + "/ml/classify", json=query).headers.get("x-atmosphere-node") == "bert")
    assert httpx.post(mesh[1].url + "/ml/classify", json=query).json()["predictions"] == remote.json()["predictions"]
    wait_for(lambda: "loaded: true" in (mesh[1].home / "models" / "registry.yaml").read_text())


def test_a_dry_run_gives_candidates_and_reasons(mesh: list[NodeProcess]) -> None:
    decision = httpx.post(
        mesh[0].url + "/mesh/route", json={"messages": [{"role": "user", "content": "how do I pull a model?"}]}
    ).json()
    assert decision["candidates"]
    assert all(candidate["reason"] for candidate in decision["candidates"])


@pytest.mark.parametrize("die", [False, True], ids=["all live", "a holder dies in the middle"])
def test_a_big_model_comes_from_two_holders(mesh: list[NodeProcess], tmp_path: Path, die: bool) -> None:
    size = 400 * 2**20 if die else 48 * 2**20  # by TCP half of it has come when progress is told for the second time
    name = "big-doomed" if die else "big"
    file = tmp_path / "weights.gguf"
    write_gguf(file, size)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    anna, bert, cleo = mesh
    anna.atmo("model", "import", str(file), "--name", name, "--version", "1.0.0")
    bert.atmo("model", "pull", name)
    wait_for(lambda: holders(cleo, name) == {"anna", "bert"})
    doomed = NodeProcess(bert.home.parent / f"doomed-{name}", "doomed") if die else None
    try:
        if doomed:
            doomed.start()
            join(anna, doomed)
            wait_for(lambda: holders(doomed, name) >= {"anna", "bert"})
            doomed.atmo("model", "pull", name)
            wait_for(lambda: holders(cleo, name) == {"anna", "bert", "doomed"})
        began = time.monotonic()
        row = pull_and_kill(cleo, name, doomed) if doomed else cleo.json("model", "pull", name)
        print(f"{size / 2**20:.0f} MiB in {time.monotonic() - began:.1f} s")
    finally:
        if doomed:
            doomed.kill()
    assert row["sha256"] == digest
    listed = {row["name"]: row for row in cleo.json("model", "list")}
    assert listed[name]["local"] is True
    assert {"name", "version", "sha256", "size_bytes", "format", "nodes", "local"} <= set(listed[name])
    stored = [
        path
        for path in (cleo.home / "models").rglob("*")
        if path.is_file() and path.stat().st_size == row["size_bytes"]
    ]
    assert digest in {hashlib.sha256(path.read_bytes()).hexdigest() for path in stored}
    cleo.atmo("model", "remove", name)
    assert name not in {row["name"] for row in cleo.json("model", "list")}


def pull_and_kill(node: NodeProcess, name: str, doomed: NodeProcess) -> dict[str, Any]:
    """Pulls a model and kills one of its holders as soon as the progress shows that it sends and more is to come."""
    headers = {"authorization": f"Bearer {node.info['token']}"}
    url = f"{node.info['http']}/atmo/v1/models/pull"
    died_at = None
    with httpx.stream("POST", url, json={"spec": name}, headers=headers, timeout=COMMAND_S) as answer:
        for line in answer.iter_lines():
            report = json.loads(line) if line.strip() else {}
            assert "error" not in report, report
            if "done" in report:
                assert died_at is not None, f"{doomed.name} never sent anything while chunks were missing"
                row: dict[str, Any] = report["done"]
                return row
            progress = report.get("progress", {})
            done, total = progress.get("bytes_done", 0), progress.get("bytes_total", 0)
            if died_at is None and doomed.name in progress.get("sources", ()) and 0 < done < total * 3 // 4:
                doomed.kill()
                died_at = done
    raise AssertionError(f"the answer was cut short: {node.log()}")


def holders(node: NodeProcess, name: str) -> set[str]:
    """Returns the names of the nodes that have a model, as `node` knows it."""
    return {holder for row in node.json("model", "list", "--mesh") if row["name"] == name for holder in row["nodes"]}


def test_ctrl_c_ends_a_node_within_two_seconds_and_leaves_its_home_whole(tmp_path: Path) -> None:
    node = NodeProcess(tmp_path / "solo", "solo").start()
    node.atmo("mesh", "create", "alone")
    code, seconds = node.stop()
    assert code == 0
    assert seconds < 2.0
    assert not (node.home / "run" / "node.json").exists()
    assert node.json("status")["running"] is False
    assert node.json("mesh", "nodes")[0]["name"] == "solo"


def test_a_killed_node_starts_again(tmp_path: Path) -> None:
    node = NodeProcess(tmp_path / "solo", "solo").start()
    identity = node.info["node_id"]
    node.kill()
    with node:
        assert node.info["node_id"] == identity


def test_two_nodes_on_one_home_or_port_are_refused_in_one_line(tmp_path: Path) -> None:
    with NodeProcess(tmp_path / "solo", "solo") as node:
        second = node.run("node", "--http", "127.0.0.1:0", "--listen", "127.0.0.1:0")
        assert second.returncode == 1
        assert second.stderr.count("\n") == 1, second.stderr
        taken = node.info["http"].removeprefix("http://")
        other = subprocess.run(
            [
                sys.executable,
                "-m",
                "atmo",
                "--home",
                str(tmp_path / "b"),
                "node",
                "--http",
                taken,
                "--listen",
                "127.0.0.1:0",
            ],
            capture_output=True,
            text=True,
            timeout=60,
            env=environment(),
            check=False,
        )
        assert other.returncode == 1
        assert "in use" in other.stderr
        listen = node.info["listen"][0]
        third = subprocess.run(
            [
                sys.executable,
                "-m",
                "atmo",
                "--home",
                str(tmp_path / "c"),
                "node",
                "--http",
                "127.0.0.1:0",
                "--listen",
                listen,
            ],
            capture_output=True,
            text=True,
            timeout=60,
            env=environment(),
            check=False,
        )
        assert third.returncode == 1
        assert listen.split(":")[1] in third.stderr
