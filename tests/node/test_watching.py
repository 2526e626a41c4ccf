from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import trio
import trio.testing

from atmo.api.watch.events import TOPICS
from atmo.config.settings import Settings
from atmo.gateway.tracing import NO_TRACER
from atmo.net.driver import PeerDriver
from atmo.node.watching import Watching
from atmo.peer import LinkReady, NodeGone
from atmo.services.transfer import TransferRow
from tests.gateway.world import Echo, chat, loop_net, node_id

QUIET = Settings("alpha", access_log=False)
ROW = TransferRow(1, "far", "1.0.0", "pull", "running", "", 250, 1_000, 25.0, 5.0)


@dataclass
class Rows:
    """Transfers as they are said to stand."""

    now: list[TransferRow] = field(default_factory=list)
    over: list[TransferRow] = field(default_factory=list)
    asked: int = 0

    async def rows(self, *, over: bool = False) -> list[TransferRow]:
        await trio.lowlevel.checkpoint()
        self.asked += 1
        return self.now + (self.over if over else [])


def heard(watching: Watching, *topics: str) -> list[dict[str, Any]]:
    """Returns the list to which events of these topics are added."""
    events: list[dict[str, Any]] = []
    watching.events.listen(lambda raw: events.append(json.loads(raw)), topics or TOPICS)
    return events


class TestEvents:
    async def test_decisions_are_told_without_words(self, autojump_clock: object) -> None:
        watching = Watching(QUIET, node_id(1))
        async with loop_net() as net:
            alpha = await net.add("alpha", Echo())
            net.nursery.start_soon(watching.run, alpha.gateway, Rows())
            await trio.testing.wait_all_tasks_blocked()
            async with alpha.gateway.execute("chat", chat("nobody hears")):
                pass
            events = heard(watching, "routes")
            async with alpha.gateway.execute("chat", chat("my words")):
                pass
        (event,) = events
        assert (event["topic"], event["event"]) == ("routes", "decided")
        assert (event["data"]["model"], event["data"]["chosen"]["node_name"]) == ("echo", "alpha")
        assert "words" not in json.dumps(event)

    async def test_nodes_that_come_and_go(self) -> None:
        watching = Watching(QUIET, node_id(1))
        async with loop_net() as net:
            alpha = await net.add("alpha")
            driver = cast(PeerDriver, SimpleNamespace(observers=[], peer=alpha.port.peer, now=alpha.port.now))
            watching.attach(driver)
            (observe,) = driver.observers
            observe(NodeGone(node_id(1)))
            events = heard(watching)
            for event in (NodeGone(node_id(1)), LinkReady(node_id(9)), object()):
                observe(event)
        assert [(event["event"], event["data"]["node"]) for event in events] == [
            ("gone", str(node_id(1))),
            ("connected", str(node_id(9))),
        ]

    async def test_models_that_come_and_go(self) -> None:
        watching, names = Watching(QUIET, node_id(1)), ["a", "b"]
        look = watching.names("offered", lambda: names)
        events = heard(watching, "models")
        look()
        names[:] = ["b", "c"]
        look()
        look()
        assert [(event["event"], event["data"]) for event in events] == [
            ("offered", {"added": ["c"], "removed": ["a"], "models": 2})
        ]

    async def test_transfers_are_looked_at_while_somebody_listens(self, autojump_clock: object) -> None:
        watching, rows = Watching(QUIET, node_id(1)), Rows([ROW])
        async with loop_net() as net:
            alpha = await net.add("alpha")
            net.nursery.start_soon(watching.run, alpha.gateway, rows)
            await trio.sleep(10)
            assert rows.asked == 0
            events = heard(watching, "transfers")
            await trio.sleep(3)
            rows.now = [replace(ROW, bytes_done=500)]
            await trio.sleep(2)
            rows.now, rows.over = [], [replace(ROW, state="done", bytes_done=1_000)]
            await trio.sleep(2)
        told = [(event["event"], event["data"]["bytes_done"]) for event in events]
        assert told == [("running", 250), ("running", 500), ("done", 1_000)]


class TestSettings:
    async def test_the_access_log_is_a_file(self, tmp_path: Path) -> None:
        watching = Watching(replace(QUIET, access_log=tmp_path / "log"), node_id(1))
        assert len(watching.observers) == 1
        assert (tmp_path / "log").exists()
        assert Watching(QUIET, node_id(1)).observers == ()

    async def test_without_the_extra_the_node_runs_and_says_so(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setitem(sys.modules, "atmo.gateway.otel", None)
        watching = Watching(replace(QUIET, otel_endpoint="http://127.0.0.1:4318"), node_id(1))
        assert watching.tracer is NO_TRACER
        assert "install atmosphere-mesh[otel]" in caplog.text

    async def test_spans_are_recorded_where_an_endpoint_is_set(self, autojump_clock: object) -> None:
        pytest.importorskip("opentelemetry.exporter.otlp.proto.http", reason="the extra `otel` is not installed")
        from tests.gateway.otlp import collecting

        with collecting() as collector:
            watching = Watching(replace(QUIET, otel_endpoint=collector.url), node_id(1))
            async with loop_net() as net:
                alpha = await net.add("alpha", Echo(), tracer=watching.tracer)
                async with alpha.gateway.execute("chat", chat()):
                    pass
            close = watching._close
            await trio.to_thread.run_sync(close)
        assert {span.name for span in collector.spans} == {"route", "attempt", "run"}
