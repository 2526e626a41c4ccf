"""Keys on `WS /v1/stream`: who is let in, and what a key may use and hear."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio
from trio_websocket import wrap_client_stream

from atmo.api.keys import Admission
from atmo.api.watch.events import EventHub
from atmo.services.keys import KeyService
from atmo.storage.database import Database
from tests.api.face import make_app, served
from tests.api.test_stream import Client
from tests.gateway.world import Echo, Lengths, chat, loop_net


@asynccontextmanager
async def dialled(url: str, key: str) -> AsyncIterator[Client]:
    host = url.removeprefix("http://")
    async with await trio.open_tcp_stream("127.0.0.1", int(host.partition(":")[2])) as stream:
        async with trio.open_nursery() as nursery:
            headers = [(b"authorization", f"Bearer {key}".encode())]
            socket = await wrap_client_stream(nursery, stream, host, "/v1/stream", extra_headers=headers)
            yield Client(socket)
            await socket.aclose()


async def ask(client: Client, **more: Any) -> dict[str, Any]:
    """Sends a request; returns how it ended."""
    await client.say(id="a", type="request", **more)
    return (await client.until("done", "error"))[-1]


async def test_a_key_counts_for_each_request_and_hears_of_its_own(tmp_path: Path) -> None:
    keys, hub = KeyService(Database(tmp_path / "db"), lambda: 1_795_780_800.0), EventHub()
    made = await keys.create("laptop", ("echo",))
    other = await keys.create("phone")
    async with loop_net() as net:
        admission = Admission(keys, required=True)
        app = make_app(await net.add("alpha", Echo(), Lengths()), admission=admission, events=hub)
        with trio.fail_after(20):
            async with served(app) as url, dialled(url, str(made["key"])) as laptop:
                async with dialled(url, str(other["key"])) as phone:
                    for client in (laptop, phone):
                        await client.say(type="subscribe", topics=["requests", "routes", "nodes"])
                        assert (await client.hear())["type"] == "subscribed"
                    hub.publish("routes", "decided", {})
                    await laptop.say(id="a", type="request", body=chat())
                    heard = await laptop.until("done")
                    hub.publish("nodes", "gone", {})
                    own = [one for one in [*heard, await laptop.hear()] if one["type"] == "event"]
                    strange = await phone.hear()
                not_for_it = await ask(laptop, operation="embeddings", body={"input": "x"})
                await keys.revoke("laptop")
                revoked = await ask(laptop, body=chat())
                hub.publish("nodes", "back", {})
                closed = await laptop.closed()
    assert sorted(event["topic"] for event in own) == ["nodes", "requests"]
    assert next(event for event in own if event["topic"] == "requests")["data"]["key"] == "laptop"
    assert strange["topic"] == "nodes", "requests of other keys are none of its business, nor are decisions"
    assert not_for_it["type"] == "error"
    assert (revoked["type"], revoked["status"]) == ("error", 401)
    assert closed == (1008, "the key does not count any more")


async def test_without_a_key_nobody_gets_in(tmp_path: Path) -> None:
    keys = KeyService(Database(tmp_path / "db"), lambda: 1_795_780_800.0)
    async with (
        loop_net() as net,
        served(make_app(await net.add("alpha"), admission=Admission(keys, required=True))) as url,
    ):
        host = url.removeprefix("http://")
        async with await trio.open_tcp_stream("127.0.0.1", int(host.partition(":")[2])) as stream:
            asked = f"GET /v1/stream HTTP/1.1\r\nhost: {host}\r\nupgrade: websocket\r\nconnection: upgrade\r\n"
            key = "sec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
            await stream.send_all((asked + key).encode())
            with trio.fail_after(10):
                assert (await stream.receive_some()).split()[1] in (b"401", b"403")
