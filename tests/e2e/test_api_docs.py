"""The lines of docs/API.md as pasted, against a running node and a stand-in for a server with models of each kind."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.api.upstream import upstream
from tests.e2e.processes import NodeProcess

pytestmark = [pytest.mark.e2e, pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")]

DOCUMENT = (Path(__file__).parents[2] / "docs" / "API.md").read_text()
BLOCK = re.compile(r"(?:<!-- ([^>]*) -->\n)?```sh\n(.*?)```", re.DOTALL)
DEFAULT = "http://127.0.0.1:11451"


def blocks() -> Iterator[str]:
    for note, lines in BLOCK.findall(DOCUMENT):
        if not note.startswith("not run"):
            yield lines


async def test_every_line_works(tmp_path: Path) -> None:
    (tmp_path / ".curlrc").write_text("fail-with-body\nsilent\nshow-error\nmax-time = 120\n")
    async with upstream() as (server, _):
        home = tmp_path / "home"
        home.mkdir()
        settings = {"servers": [{"name": "lab", "url": f"{server.url}/v1"}]}
        (home / "config.json").write_text(json.dumps(settings))
        node = NodeProcess(home, "alpha")
        await trio.to_thread.run_sync(node.start)
        try:
            failed = [await run(lines, node, tmp_path) for lines in blocks()]
            described = await document(node)
        finally:
            await trio.to_thread.run_sync(node.kill)
    assert not [one for one in failed if one], "\n\n".join(one for one in failed if one)
    for path in described["paths"]:
        assert known(path), f"docs/API.md does not name {path}"


async def run(lines: str, node: NodeProcess, folder: Path) -> str:
    """Runs one block as a shell would; returns what went wrong."""
    script = "set -eo pipefail\n" + lines.replace(DEFAULT, node.info["http"])
    environment = {"PATH": "/usr/local/bin:/usr/bin:/bin", "CURL_HOME": str(folder), "HOME": str(folder)}
    command = ["bash", "-c", script]
    done = await trio.run_process(
        command, capture_stdout=True, capture_stderr=True, check=False, env=environment, cwd=folder
    )
    said = (done.stdout[-500:] + done.stderr).decode(errors="replace")
    return f"{lines}{said}" if done.returncode else ""


async def document(node: NodeProcess) -> Any:
    answer = await trio.run_process(["curl", "-s", f"{node.info['http']}/openapi.json"], capture_stdout=True)
    return json.loads(answer.stdout)


def known(path: str) -> bool:
    """Says whether the document names a route, by its own path or by that of an example."""
    pattern = re.escape(path)
    for name in re.findall(r"\\{\w+\\}", pattern):
        pattern = pattern.replace(name, r"[\w.${}:-]+")
    return re.search(pattern + r"(?![\w/])", DOCUMENT) is not None
