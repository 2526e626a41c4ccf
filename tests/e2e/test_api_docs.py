"""The lines of docs/API.md as pasted, against a running node and a stand-in for a server with models of each kind."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import trio

from atmo.api.documents.openapi import operations
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
            examples = [await answered(node, described, *row, tmp_path) for row in operations(described)]
        finally:
            node.kill()
    assert not [one for one in failed if one], "\n\n".join(one for one in failed if one)
    assert sum(examples) > 25
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


async def answered(
    node: NodeProcess, described: Any, path: str, method: str, operation: dict[str, Any], folder: Path
) -> bool:
    """Sends the example of an operation; says whether its answer was JSON, which then is what the document says."""
    line = operation["x-codeSamples"][0]["source"].replace(DEFAULT, node.info["http"])
    command = ["bash", "-c", line]
    done = await trio.run_process(command, capture_stdout=True, capture_stderr=True, check=False, cwd=folder)
    try:
        answer = json.loads(done.stdout)
    except ValueError:
        return False
    name = "Error" if "error" in answer and "success" not in answer and "id" not in answer else schema_of(operation)
    schema = {"$ref": f"#/components/schemas/{name}", "components": described["components"]}
    jsonschema.Draft202012Validator(schema).validate(answer)
    assert name != "Error" or "RESPONSE_ID" in line or "JOIN_CODE" in line or "download" in line, f"{method} {path}"
    return True


def schema_of(operation: dict[str, Any]) -> str:
    """Returns the name of the schema of an operation's answer in JSON, `Error` where it has none."""
    content = operation["responses"]["200"]["content"].get("application/json", {})
    return str(content.get("schema", {}).get("$ref", "Error")).rpartition("/")[2]


async def document(node: NodeProcess) -> Any:
    answer = await trio.run_process(["curl", "-s", f"{node.info['http']}/openapi.json"], capture_stdout=True)
    return json.loads(answer.stdout)


def known(path: str) -> bool:
    """Says whether the document names a route, by its own path or by that of an example."""
    pattern = re.escape(path)
    for name in re.findall(r"\\{\w+\\}", pattern):
        pattern = pattern.replace(name, r"[\w.${}:-]+")
    return re.search(pattern + r"(?![\w/])", DOCUMENT) is not None
