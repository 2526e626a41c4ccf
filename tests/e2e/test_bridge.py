"""Two real nodes: a model of HuggingFace's cache goes from one to the other, and is downloaded over HTTP."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from atmo.config.settings import load_settings
from atmo.node.bridging import places_of
from atmo.storage.bridge_find import BridgePlaces
from tests.e2e.processes import NodeProcess, join, wait_for, write_gguf
from tests.storage import samples

pytestmark = pytest.mark.e2e

MODEL = "org/tiny:tiny.gguf"
REVISION = "0123456789abcdef0123456789abcdef01234567"


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def blob(tmp_path: Path) -> Path:
    folder = tmp_path / "hf" / "hub" / "models--org--tiny"
    (folder / "blobs").mkdir(parents=True)
    write_gguf(folder / "blobs" / "new", 12_000_000)
    snapshot = folder / "snapshots" / REVISION
    snapshot.mkdir(parents=True)
    made = (folder / "blobs" / "new").rename(folder / "blobs" / digest(folder / "blobs" / "new"))
    (snapshot / "tiny.gguf").symlink_to(f"../../blobs/{made.name}")
    return made


@pytest.fixture
def nodes(tmp_path: Path, blob: Path) -> Iterator[tuple[NodeProcess, NodeProcess]]:
    farm = tmp_path / "user" / ".llamafarm" / "models"
    farm.mkdir(parents=True)
    (farm / "bad.pt").write_bytes(samples.torch_zip())
    variables = {
        "ATMO_BRIDGE": "1",
        "HOME": str(tmp_path / "user"),
        "HF_HOME": str(tmp_path / "hf"),
        "OLLAMA_MODELS": str(tmp_path / "none"),
        "MODEL_BRIDGE_HTTP_PORT": "0",
        "MODEL_BRIDGE_GOSSIP_INTERVAL": "5",
        "ATMOSPHERE_NODE_ID": "somebody",
    }
    holder = NodeProcess(tmp_path / "holder", "holder", variables=variables)
    reader = NodeProcess(tmp_path / "reader", "reader")
    with holder, reader:
        holder.atmo("mesh", "create", "home")
        join(holder, reader)
        yield holder, reader


def test_from_a_cache_to_another_node_and_over_http(nodes: tuple[NodeProcess, NodeProcess], blob: Path) -> None:
    holder, reader = nodes
    wait_for(lambda: any(row["name"] == MODEL for row in reader.json("model", "list", "--mesh")))
    reader.atmo("model", "pull", MODEL)
    (got,) = (path for path in (reader.home / "models").iterdir() if path.suffix == ".gguf")
    assert digest(got) == blob.name
    assert not list((holder.home / "models").glob("*.gguf")), "nothing was copied"
    (row,) = holder.json("model", "list")
    assert (row["name"], row["source"], row["version"]) == (MODEL, "huggingface", f"0+g{REVISION[:8]}")
    view = holder.ask("bridge/scan", {})
    assert view == holder.ask("bridge")
    assert {**view, "not_offered": 1} == holder.ask("status")["bridge"]
    assert "may run code" in view["not_offered"][0]["reason"]
    listed = {row["id"]: row for row in httpx.get(f"{holder.url}/models").json()["data"]}
    answer = httpx.get(holder.info["http"] + listed[MODEL]["download"], headers={"range": "bytes=0-3"})
    assert (answer.status_code, answer.content) == (206, b"GGUF")
    assert "ATMOSPHERE_NODE_ID says somebody" in holder.log()
    port = next(line.rsplit(":", 1)[1] for line in holder.log().splitlines() if "models can be downloaded" in line)
    catalog = httpx.get(f"http://127.0.0.1:{port}/v1/models").json()
    assert [model["sha256"] for model in catalog["models"]] == [blob.name]
    blob.unlink()
    wait_for(lambda: not holder.json("model", "list"), 30)


def test_a_port_that_is_taken_names_the_variable(nodes: tuple[NodeProcess, NodeProcess], tmp_path: Path) -> None:
    taken = nodes[0].info["http"].rsplit(":", 1)[1]
    other = NodeProcess(tmp_path / "other", "other", variables={"MODEL_BRIDGE_HTTP_PORT": taken})
    ended = other.run("node", "--http", "127.0.0.1:0", "--listen", "127.0.0.1:0")
    assert ended.returncode != 0
    assert "MODEL_BRIDGE_HTTP_PORT" in ended.stderr


def test_where_a_node_looks(tmp_path: Path) -> None:
    settings = load_settings(tmp_path, {"OLLAMA_MODELS": "/srv/ollama"})
    assert places_of(settings.bridge, tmp_path) == BridgePlaces(
        tmp_path / ".llamafarm" / "models", tmp_path / ".cache" / "huggingface" / "hub", Path("/srv/ollama")
    )
