from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

from atmo.errors import RequestError
from atmo.gateway.asking import ANYBODY, Asking
from atmo.gateway.execution import Execution
from atmo.gateway.ghostwriter import Ghostwriter


@asynccontextmanager
async def broken(operation: str, body: Mapping[str, Any], asking: Asking = ANYBODY) -> AsyncGenerator[Execution, None]:
    raise ValueError("nobody foresaw this")
    yield  # type: ignore[unreachable]  # what makes this an async generator


async def test_what_nobody_foresaw_ends_the_answer_and_not_the_node(caplog: pytest.LogCaptureFixture) -> None:
    ghostwriter = Ghostwriter(broken, lambda: True)
    async with trio.open_nursery() as nursery:
        await nursery.start(ghostwriter.run)
        for _ in range(2):
            parts = ghostwriter.write({"messages": []})
            assert parts is not None
            with pytest.raises(RequestError) as caught:
                _ = [part async for part in parts]
            assert (caught.value.status, caught.value.code) == (500, "internal_error")
        nursery.cancel_scope.cancel()
    assert "nobody foresaw this" in caplog.text
    assert "nobody foresaw this" not in caught.value.message
