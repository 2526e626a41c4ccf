"""What the settings mean for the pool, and how a configured join code is redeemed."""

from __future__ import annotations

import logging
import math
from typing import Any, cast

import pytest
import trio

from atmo.backends.pool import PoolConfig
from atmo.config.settings import Settings
from atmo.config.sharing import SharingSettings
from atmo.errors import RemoteError, UserError
from atmo.node.terms import JOIN_AGAIN_MOST_S, JOIN_AGAIN_S, join_configured, pool_config
from atmo.services.mesh import MeshService


class Doors:
    """A mesh that lets in, or fails, in the order given; only what joining asks of a `MeshService`."""

    def __init__(self, *answers: Exception | None) -> None:
        self.answers = list(answers)
        self.tried: list[float] = []
        self.joined = False

    def mesh(self) -> dict[str, Any] | None:
        return {"name": "home"} if self.joined else None

    async def join(self, code: str) -> dict[str, Any]:
        assert code == "the-code"
        await trio.lowlevel.checkpoint()
        self.tried.append(trio.current_time())
        answer = self.answers.pop(0)
        if answer is not None:
            raise answer
        self.joined = True
        return {"name": "home"}


async def redeem(doors: Doors) -> None:
    await join_configured(cast(MeshService, doors), "the-code")


def test_limits_of_the_pool() -> None:
    assert pool_config(Settings("n")) == PoolConfig(max_running=math.inf, max_queued=math.inf)
    sharing = SharingSettings(max_concurrent_requests=3, max_queue_depth=7)
    limits = pool_config(Settings("n", sharing=sharing))
    assert (limits.max_running, limits.max_queued) == (3, 7)


async def test_until_somebody_answers(autojump_clock: trio.testing.MockClock) -> None:
    doors = Doors(*[RemoteError("no way")] * 8, None)
    began = trio.current_time()
    await redeem(doors)
    waits = [later - earlier for earlier, later in zip(doors.tried, doors.tried[1:], strict=False)]
    assert doors.tried[0] == began
    assert waits == [min(JOIN_AGAIN_S * 2**number, JOIN_AGAIN_MOST_S) for number in range(8)]


async def test_not_where_it_is_refused(autojump_clock: object, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        doors = Doors(UserError("The code has expired."))
        await redeem(doors)
    assert len(doors.tried) == 1
    assert "The code has expired." in caplog.text
    assert "the-code" not in caplog.text


async def test_not_where_the_node_is_a_member() -> None:
    doors = Doors()
    doors.joined = True
    await redeem(doors)
    assert doors.tried == []
