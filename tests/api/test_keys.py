"""Who is let in: keys, rates and how much runs at once, asked of an application with no server between."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
from trio.testing import MockClock

from atmo.api.account import Account
from atmo.api.guard import Guard
from atmo.api.http.limits import HttpLimits
from atmo.api.keys import Admission
from atmo.services.keys import KeyService
from atmo.storage.database import Database
from atmo.trust.apikey import key_text
from tests.api.face import in_process, make_app
from tests.gateway.world import Echo, Lengths, chat, loop_net

NOW = 1_795_780_800.0
Seen = list[Account]


class World:
    """A guarded application that tells what it was asked, and keys for it."""

    def __init__(self, folder: Path, **more: Any) -> None:
        self.now = NOW
        self.keys = KeyService(Database(folder / "atmosphere.db"), lambda: self.now)
        self.admission = Admission(self.keys, token="node-token", **more)
        self.seen: Seen = []
        self.wait = trio.Event()
        self.wait.set()
        self.cost = 0.0
        self.guard = Guard(self._app, "127.0.0.1", (self.seen.append,), self.admission)

    async def _app(self, scope: Any, receive: Any, send: Any) -> None:
        await self.wait.wait()
        account: Account = scope["atmo.account"]
        account.prompt_tokens, account.completion_tokens, account.cost = 3, 4, self.cost
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": account.key.encode()})

    @asynccontextmanager
    async def client(self, key: str = "", address: str = "127.0.0.1") -> AsyncIterator[httpx.AsyncClient]:
        transport = httpx.ASGITransport(app=self.guard, client=(address, 1))
        headers = {"authorization": f"Bearer {key}"} if key else {}
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1", headers=headers) as client:
            yield client

    async def get(self, key: str = "", path: str = "/v1/models", address: str = "127.0.0.1") -> httpx.Response:
        async with self.client(key, address) as client:
            return await client.get(path)


def code(answer: httpx.Response) -> tuple[int, str]:
    error = answer.json()["error"]
    return answer.status_code, error["code"]


WRONG = (401, "invalid_api_key")


async def test_a_key_is_needed_where_it_is(tmp_path: Path) -> None:
    world = World(tmp_path, required=True)
    made = await world.keys.create("laptop")
    answer = await world.get()
    assert code(answer) == WRONG
    assert answer.headers["www-authenticate"] == "Bearer"
    assert "atmo key create" in answer.json()["error"]["message"]
    for path in ("/metrics", "/v1/health", "/v1/chat/completions", "/openapi.json", "/nothing", "/healthy"):
        assert code(await world.get(path=path)) == WRONG
    assert (await world.get(path="/health")).status_code == 200
    assert (await world.get(str(made["key"]), path="/health")).text == "laptop"
    assert [account.stranger for account in world.seen[-2:]] == [True, False]
    assert (await world.get(path="/atmo/v1/status")).status_code == 200
    assert (await world.get("node-token")).status_code == 200
    assert code(await world.get("node-toke")) == WRONG
    assert (await world.get(str(made["key"]))).text == "laptop"
    async with world.client() as client:
        for header in ("api-key", "x-api-key"):
            assert (await client.get("/v1/models", headers={header: str(made["key"])})).text == "laptop"
        for value in (f"bearer {made['key']}", f"Bearer  {made['key']}"):
            assert (await client.get("/v1/models", headers={"authorization": value})).text == "laptop"
        basic = {"authorization": f"Basic {made['key']}"}
        assert code(await client.get("/v1/models", headers=basic)) == WRONG


async def test_no_key_is_needed_on_loopback_but_one_of_ours_is_checked(tmp_path: Path) -> None:
    world = World(tmp_path)
    made = await world.keys.create("laptop")
    for key in ("", "unused", "sk-proj-whatever", "EMPTY"):
        assert (await world.get(key)).text == ""
    unknown, text = key_text(bytes(32)), str(made["key"])
    typo = text[:-1] + ("a" if text[-1] != "a" else "b")
    said = []
    for key in (unknown, typo, text[:-1]):
        answer = await world.get(key)
        assert code(answer) == WRONG
        said.append(answer.json()["error"]["message"])
        assert key[8:] not in answer.text
    assert "does not know" in said[0]
    assert "characters that are wrong" in said[1]
    assert "66 characters, this one 65" in said[2]
    assert (await world.get(text)).text == "laptop"
    await world.keys.revoke("laptop")
    assert "was revoked" in (await world.get(text)).json()["error"]["message"]


async def test_an_expired_key(tmp_path: Path) -> None:
    world = World(tmp_path)
    made = await world.keys.create("laptop", expires_s=60.0)
    world.now += 61.0
    answer = await world.get(str(made["key"]))
    assert code(answer) == WRONG
    assert "has expired" in answer.text


async def test_what_is_done_with_a_key_is_counted_when_it_was_let_in(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.cost = 0.6
    made = await world.keys.create("laptop", ("llama*",), budget="1.00/month")
    answers = [await world.get(str(made["key"])) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert code(answers[2]) == (429, "insufficient_quota")
    assert answers[2].json()["error"]["type"] == "insufficient_quota"
    assert answers[2].headers["x-should-retry"] == "false"
    row = world.keys.row("laptop")
    assert (row["requests"], row["prompt_tokens"], row["completion_tokens"], row["cost"]) == (2, 6, 8, 1.2)
    assert [account.models for account in world.seen] == [("llama*",), ("llama*",), ()]
    assert [(account.key, account.error) for account in world.seen][2] == ("laptop", "insufficient_quota")


async def test_the_rate_of_a_key(tmp_path: Path, autojump_clock: MockClock) -> None:
    world = World(tmp_path)
    made = await world.keys.create("laptop", rate="2/min")
    key = str(made["key"])
    answers = [await world.get(key) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert code(answers[2]) == (429, "rate_limit_exceeded")
    assert answers[2].headers["retry-after"] == "30"
    assert (await world.get()).status_code == 200
    await trio.sleep(30.5)
    assert (await world.get(key)).status_code == 200
    assert world.admission.stats.rate_limited == 1


async def test_the_rate_of_an_address(tmp_path: Path, autojump_clock: MockClock) -> None:
    world = World(tmp_path, limits=HttpLimits(address_rate=1.0, address_burst_s=5.0))
    for address, let_in in (("10.0.0.1", 5), ("10.0.0.2", 5), ("127.0.0.1", 20)):
        answers = [await world.get(address=address) for _ in range(20)]
        assert [answer.status_code for answer in answers] == [200] * let_in + [429] * (20 - let_in)
    await trio.sleep(1.1)
    assert (await world.get(address="10.0.0.1")).status_code == 200


async def test_loopback_can_be_limited_too(tmp_path: Path) -> None:
    world = World(tmp_path, limits=HttpLimits(address_rate=0.001, address_burst_s=5_000.0), limit_own=True)
    answers = [await world.get() for _ in range(6)]
    assert [answer.status_code for answer in answers] == [200] * 5 + [429]


async def test_what_runs_at_once_is_bounded_and_this_machine_has_room(tmp_path: Path) -> None:
    limits = HttpLimits(requests=10, own_requests=4, requests_per_address=3)
    world = World(tmp_path, limits=limits)
    world.wait = trio.Event()
    statuses: dict[str, list[int]] = {}

    async def ask(address: str) -> None:
        statuses.setdefault(address, []).append((await world.get(address=address)).status_code)

    async with trio.open_nursery() as nursery:
        for address in ("10.0.0.1", "10.0.0.2", "10.0.0.3", "127.0.0.1"):
            for _ in range(5):
                nursery.start_soon(ask, address)
            await trio.testing.wait_all_tasks_blocked()
        refused = {address: len(codes) for address, codes in statuses.items()}
        assert refused == {"10.0.0.1": 2, "10.0.0.2": 2, "10.0.0.3": 5, "127.0.0.1": 1}
        world.wait.set()
    assert all(codes.count(429) == refused[address] for address, codes in statuses.items())
    assert (await world.get(address="10.0.0.3")).status_code == 200


async def test_further_requests_on_a_websocket_are_asked_for(tmp_path: Path) -> None:
    world = World(tmp_path)
    made = await world.keys.create("laptop", rate="2/min")
    account = Account("WEBSOCKET", "/v1/stream", "127.0.0.1")
    headers = [(b"authorization", f"Bearer {made['key']}".encode())]
    assert world.admission.enter({"type": "websocket", "path": "/v1/stream", "headers": headers}, account) is None
    assert world.admission.again(account) is None
    refusal = world.admission.again(account)
    assert refusal is not None
    assert refusal.status == 429
    await world.keys.revoke("laptop")
    refusal = world.admission.again(account)
    assert refusal is not None
    assert refusal.status == 401
    assert world.admission.again(Account(address="127.0.0.1")) is None


@pytest.mark.parametrize("make", [lambda text: text, lambda text: text[:-3] + "xyz"])
async def test_keys_are_not_in_logs(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, make: Callable[[str], str]
) -> None:
    caplog.set_level("DEBUG")
    world = World(tmp_path, required=True)
    key = make(str((await world.keys.create("laptop"))["key"]))
    answer = await world.get(key)
    told = f"{caplog.text} {answer.text} {answer.headers} {world.seen}"
    assert key[8:] not in told


async def test_what_a_key_may_not_use_is_neither_listed_nor_run(tmp_path: Path) -> None:
    keys = KeyService(Database(tmp_path / "atmosphere.db"), lambda: NOW)
    made = await keys.create("laptop", ("len*",))
    async with loop_net() as net:
        app = make_app(await net.add("alpha", Echo(), Lengths()), admission=Admission(keys))
        headers = {"authorization": f"Bearer {made['key']}"}
        async with in_process(app) as client:
            free = [row["id"] for row in (await client.get("/v1/models")).json()["data"]]
            listed = [row["id"] for row in (await client.get("/v1/models", headers=headers)).json()["data"]]
            assert (free, listed) == (["auto", "echo", "lengths"], ["auto", "lengths"])
            assert (await client.get("/v1/models/echo", headers=headers)).status_code == 404
            refused = await client.post("/v1/chat/completions", json=chat(model="echo"), headers=headers)
            assert code(refused) == (403, "model_not_allowed")
            assert refused.json()["error"]["type"] == "permission_error"
            unknown = await client.post("/v1/chat/completions", json=chat(model="ecko"), headers=headers)
            assert code(unknown) == (404, "model_not_found")
            assert "'echo'" not in unknown.text
            auto = await client.post("/v1/chat/completions", json=chat(), headers=headers)
            assert code(auto) == (403, "model_not_allowed")
            body = {"model": "lengths", "input": "four"}
            assert (await client.post("/v1/embeddings", json=body, headers=headers)).status_code == 200
            dry = await client.post("/v1/mesh/route", json={"model": "echo", "prompt": "hi"}, headers=headers)
            assert dry.json()["error"]["code"] == "model_not_allowed"
            assert (await client.post("/v1/chat/completions", json=chat(model="echo"))).status_code == 200
    assert keys.row("laptop")["requests"] == 7
