"""What OpenAI's own client makes of keys that are refused."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import openai
import pytest
import trio

from atmo.api.account import Account
from atmo.api.keys import Admission
from atmo.services.keys import KeyService
from atmo.storage.database import Database
from tests.api.face import make_app, served
from tests.gateway.world import Echo, Lengths, loop_net


class World:
    """A node behind a real server that wants keys."""

    def __init__(self, keys: KeyService, url: str, seen: list[Account]) -> None:
        self.keys = keys
        self.url = url
        self.seen = seen

    async def fails(self, key: object, *, model: str = "echo", retries: int = 0) -> openai.APIStatusError:
        """Asks with a key; returns the error of the client."""

        def ask() -> openai.APIStatusError:
            with (
                openai.OpenAI(base_url=f"{self.url}/v1", api_key=str(key), max_retries=retries, timeout=20) as client,
                pytest.raises(openai.APIStatusError) as caught,
            ):
                client.chat.completions.create(model=model, messages=[{"role": "user", "content": "hi"}])
            return caught.value

        return await trio.to_thread.run_sync(ask)


@asynccontextmanager
async def world(folder: Path) -> AsyncIterator[World]:
    keys = KeyService(Database(folder / "atmosphere.db"))
    seen: list[Account] = []
    async with loop_net() as net:
        node = await net.add("alpha", Echo(), Lengths())
        app = make_app(node, admission=Admission(keys, required=True), observers=(seen.append,))
        async with served(app) as url:
            yield World(keys, url, seen)


async def test_errors_have_the_client_s_own_types(tmp_path: Path) -> None:
    async with world(tmp_path) as node:
        assert isinstance(await node.fails("unused"), openai.AuthenticationError)
        revoked = await node.keys.create("old")
        await node.keys.revoke("old")
        error = await node.fails(revoked["key"])
        assert isinstance(error, openai.AuthenticationError)
        assert error.code == "invalid_api_key"
        other = await node.keys.create("other", ("lengths",))
        assert isinstance(await node.fails(other["key"]), openai.PermissionDeniedError)
        rare = await node.keys.create("rare", rate="1/day")
        assert isinstance(await node.fails(rare["key"], model="none"), openai.NotFoundError)
        error = await node.fails(rare["key"])
        assert isinstance(error, openai.RateLimitError)
        assert error.code == "rate_limit_exceeded"
        assert int(error.response.headers["retry-after"]) > 80_000


async def test_a_spent_budget_is_not_tried_again(tmp_path: Path) -> None:
    async with world(tmp_path) as node:
        spent = await node.keys.create("spent", budget="0/month")
        error = await node.fails(spent["key"], retries=3)
        assert isinstance(error, openai.RateLimitError)
        assert (error.code, error.type) == ("insufficient_quota", "insufficient_quota")
        assert [account.error for account in node.seen] == ["insufficient_quota"]
