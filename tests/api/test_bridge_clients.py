"""Programs that people download with, against the bridge on a real socket."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import httpx
import pytest
import trio

from tests.api.bridge_world import GGUF, MIB, TINY, World, make_world
from tests.api.face import served
from tests.storage.bridge_kit import sha256


@pytest.fixture
def world(tmp_path: Path) -> World:
    return make_world(tmp_path)


async def _run(*command: str) -> int:
    done = await trio.run_process(list(command), check=False, capture_stdout=True, capture_stderr=True)
    return done.returncode


@pytest.mark.e2e
async def test_curl_resumes(world: World) -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    target = world.folder / "got.gguf"
    target.write_bytes(GGUF[:1_234_567])
    async with served(world.app()) as url:
        assert await _run("curl", "-sS", "-f", "-C", "-", "-o", str(target), f"{url}{TINY}") == 0
        assert sha256(target.read_bytes()) == world.blob.name
        named = world.folder / "named"
        named.mkdir()
        command = ["curl", "-sS", "-f", "-OJ", "--output-dir", str(named), f"{url}{TINY}@0+g01234567"]
        assert await _run(*command) == 0
    assert [path.name for path in named.iterdir()] == ["tiny.gguf"]


@pytest.mark.e2e
async def test_aria2_fetches_over_four_connections_and_resumes(world: World) -> None:
    if shutil.which("aria2c") is None:
        pytest.skip("aria2c is not installed")
    target = world.folder / "aria"
    options = ["-x4", "-s4", "-k1M", "--no-conf", "--allow-overwrite=false", "-q", "-d", str(target)]
    async with served(world.app()) as url:
        slow = [*options, "--max-overall-download-limit=200K"]
        with trio.move_on_after(2):
            await _run("aria2c", *slow, f"{url}{TINY}")
        assert await _run("aria2c", "-c", *options, f"{url}{TINY}") == 0
    (got,) = target.iterdir()
    assert (got.name, sha256(got.read_bytes())) == ("tiny.gguf", world.blob.name)


@pytest.mark.e2e
async def test_a_client_of_huggingface_s_kind_resumes(world: World) -> None:
    """It asks for the head first, then for the rest of what it has, and checks size and hash at the end."""
    async with served(world.app()) as url, httpx.AsyncClient(base_url=url) as client:
        head = await client.head(TINY, headers={"accept-encoding": "identity"})
        size, etag = int(head.headers["content-length"]), head.headers["etag"].strip('"')
        have = GGUF[: 2 * MIB + 5]
        async with client.stream("GET", TINY, headers={"range": f"bytes={len(have)}-"}) as answer:
            assert answer.status_code == 206
            async for data in answer.aiter_raw():
                have += data
    assert (len(have), hashlib.sha256(have).hexdigest()) == (size, etag)
