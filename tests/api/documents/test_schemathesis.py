"""Requests made from `/openapi.json`, good ones and spoilt ones: no answer may say that the node failed.

The models behind are those of a stand-in for a server, the built-in embedder and the user guide.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import httpx
import hypothesis
import pytest
import schemathesis
import trio
from hypothesis import HealthCheck, Phase

from atmo.backends.embedder import Embedder
from atmo.backends.embeddings import EmbeddingsBackend
from tests.api.face import make_app, served
from tests.api.upstream import upstream
from tests.gateway.world import loop_net

EXAMPLES = 6
"""Of each operation and kind: together some 300 requests."""

UNMET = ("no_capability", "constraints_not_met")
"""Codes of 503 that say what is so: no model of the mesh does this, or none within the constraints of the request."""


def exercise(url: str) -> tuple[Counter[tuple[str, int]], list[str]]:
    """Sends what the document of the node at `url` leads to; returns how it answered, and where it failed."""
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
    seen: Counter[tuple[str, int]] = Counter()
    failed: list[str] = []
    for found in schema.get_all_operations():
        operation: Any = found.ok()  # type: ignore[union-attr]
        for mode in schemathesis.GenerationMode:
            _exercise(operation, mode, seen, failed)
    return seen, failed


def _exercise(
    operation: Any, mode: schemathesis.GenerationMode, seen: Counter[tuple[str, int]], failed: list[str]
) -> None:
    @hypothesis.seed(6)
    @hypothesis.settings(
        max_examples=EXAMPLES,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @hypothesis.given(case=operation.as_strategy(generation_mode=mode))
    def ask(case: Any) -> None:
        answer = case.call(timeout=20)
        seen[operation.label, answer.status_code] += 1
        if answer.status_code < 400:
            return
        code = answer.json()["error"]["code"]
        if answer.status_code >= 500 and code not in UNMET:
            failed.append(f"{operation.label}: {answer.status_code} {answer.text[:200]} for {case.as_curl_command()}")

    try:
        ask()
    except hypothesis.errors.Unsatisfiable:
        assert mode is schemathesis.GenerationMode.NEGATIVE, operation.label  # nothing there can be spoilt


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
async def test_no_request_makes_the_node_fail() -> None:
    async with loop_net() as net, upstream() as (_, backend):
        app = make_app(await net.add("alpha", backend, EmbeddingsBackend(Embedder())))
        async with served(app) as url:
            seen, failed = await trio.to_thread.run_sync(exercise, url)
            async with httpx.AsyncClient(base_url=url) as client:
                assert (await client.get("/health")).status_code == 200
    assert not failed, "\n".join(failed)
    for path in ("chat/completions", "completions", "embeddings", "images/generations", "audio/transcriptions"):
        assert seen[f"POST /v1/{path}", 200], path
        assert seen[f"POST /v1/{path}", 400], path
