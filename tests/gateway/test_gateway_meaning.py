"""Requests without a model's name, nobody who can, and specialists that have others write."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import trio
from numpy.typing import NDArray

from atmo.backends.base import as_object
from atmo.errors import RequestError
from atmo.gateway.asking import Asking
from atmo.gateway.gateway import Company, Gateway, GatewayConfig
from atmo.router.capability import CHAT, CLASSIFY, EMBEDDINGS, Capability
from tests.gateway.world import (
    Echo,
    Failing,
    Lengths,
    LoopNet,
    Node,
    Signs,
    answer,
    chat,
    embed,
    loop_net,
    refused,
)


class TestMeaning:
    async def mesh(self, net: LoopNet, **options: Any) -> Node:
        docs = Capability("rag:docs", CHAT, "docs", description="how to install and configure the product")
        cook = Capability("rag:cook", CHAT, "cook", description="recipes for cakes and soups")
        alpha = await net.add("alpha", Echo(docs, name="docs"), **options)
        await net.add("beta", Echo(cook, name="cook"))
        await net.add("gamma", Echo())
        return alpha

    async def test_what_is_asked_decides(self) -> None:
        async with loop_net() as net:
            alpha = await self.mesh(net)
            for text, model, rule in (
                ("recipes for soups and cakes please", "cook", "meaning"),
                ("how to install the product", "docs", "meaning"),
                ("write a poem", "echo", "general"),
            ):
                async with alpha.gateway.execute(CHAT, chat(text)) as execution:
                    (part,) = [as_object(part) async for part in execution]
                assert part["model"] == model
                assert execution.decision.rule == rule
            assert alpha.gateway.stats.routed_by_meaning == 2

    async def test_the_dry_run_decides_the_same_and_runs_nothing(self) -> None:
        async with loop_net() as net:
            alpha = await self.mesh(net)
            decision = await alpha.gateway.route(CHAT, chat("recipes for soups"))
            assert decision.chosen is not None
            assert decision.chosen.capability.model == "cook"
            assert alpha.gateway.stats.requests == 0

    async def test_a_broken_embedder_costs_meaning_only(self, caplog: pytest.LogCaptureFixture) -> None:
        async def broken(_texts: Sequence[str]) -> NDArray[np.float32]:
            await trio.lowlevel.checkpoint()
            raise OSError("no model file")

        async with loop_net() as net:
            alpha = await self.mesh(net, embed=broken)
            (part,) = await answer(alpha, chat("recipes for soups"))
            assert part["model"] == "echo"
            assert alpha.gateway.meaning.failures == 1
            await net.nursery.start(alpha.gateway.run)
            await trio.testing.wait_all_tasks_blocked()
            assert alpha.gateway.meaning.failures == 2
        assert "cannot embed" in caplog.text

    async def test_a_slow_embedder_does_not_hold_requests_up(self, autojump_clock: trio.testing.MockClock) -> None:
        async def slow(texts: Sequence[str]) -> NDArray[np.float32]:
            await trio.sleep(3 * len(texts))
            return await embed(texts)

        async with loop_net() as net:
            alpha = await self.mesh(net, embed=slow)
            began = trio.current_time()
            (part,) = await answer(alpha, chat("recipes for soups"))
            assert part["model"] == "echo"
            assert trio.current_time() - began < 10

    async def test_texts_are_embedded_in_the_background(self) -> None:
        async with loop_net() as net:
            alpha = await self.mesh(net)
            await net.nursery.start(alpha.gateway.run)
            await trio.testing.wait_all_tasks_blocked()
            assert len(alpha.gateway.meaning) == 3
            await net.add("delta", Echo(Capability("x", CHAT, "x", examples=("a", "b")), name="x"))
            alpha.gateway.offers_changed()
            await trio.testing.wait_all_tasks_blocked()
            assert len(alpha.gateway.meaning) == 5

    async def test_a_request_without_words(self) -> None:
        async with loop_net() as net:
            alpha = await self.mesh(net)
            silent = [{"type": "file", "file": {"file_id": "f"}}]
            decision = await alpha.gateway.route(CHAT, {"messages": [{"role": "user", "content": silent}]})
            assert decision.rule == "general"

    async def test_who_cannot_see_is_not_asked_about_images(self) -> None:
        async with loop_net() as net:
            alpha = await self.mesh(net)
            image = [{"type": "image_url", "image_url": {"url": "data:"}}]
            body = {"messages": [{"role": "user", "content": image}]}
            failure = (await alpha.gateway.route(CHAT, body)).failure
            assert failure is not None
            assert (failure.status, failure.code, failure.param) == (400, "unsupported_feature", "messages")
            seeing = Capability("echo:eye", CHAT, "eye", general=True, backend="echo", features=("vision",))
            await net.add("gamma", Echo(seeing, name="eye"))
            chosen = (await alpha.gateway.route(CHAT, body)).chosen
            assert chosen is not None
            assert chosen.capability.model == "eye"

    async def test_the_names_of_columns_choose_a_classifier(self) -> None:
        async with loop_net() as net:
            iris = Signs("iris", "flowers by sepal length and petal width")
            wine = Signs("wine", "wines by alcohol and malic acid")
            alpha = await net.add("alpha", iris, wine)
            body = {"data": [{"alcohol": 13.2, "malic acid": 1.8}]}
            decision = await alpha.gateway.route(CLASSIFY, body)
            assert decision.chosen is not None
            assert decision.chosen.capability.model == "wine"


class TestNobody:
    async def test_a_tracked_set_without_news(self) -> None:
        async with loop_net() as net:
            alpha = await net.add("alpha", Echo())
            await net.nursery.start(alpha.gateway.run)
            await trio.testing.wait_all_tasks_blocked()
            alpha.gateway.offers_changed()
            assert len(alpha.gateway.meaning) == 1

    async def test_unknown_unavailable_and_impossible(self) -> None:
        async with loop_net() as net:
            alpha, beta = await net.add("alpha", Lengths()), await net.add("beta", Echo())
            for model, status in (("zzz", 404), ("lengths", 400), ("echo@1", 404)):
                with pytest.raises(RequestError) as caught:
                    await answer(alpha, chat(model=model))
                assert caught.value.status == status
            net.dead.add(beta.id)
            for model in ("echo", "auto"):
                with pytest.raises(RequestError) as caught:
                    await answer(alpha, chat(model=model))
                assert caught.value.status == 503

    async def test_a_model_in_a_store_of_the_mesh_is_known(self) -> None:
        async with loop_net() as net:
            iris = SimpleNamespace(
                name="iris", version="1.0", type="classifier", format="onnx", size_bytes=9, nodes=["beta"], local=False
            )
            alpha = await net.add("alpha", Lengths(), stored=lambda: [iris])
            with pytest.raises(RequestError, match="atmo model pull iris") as caught:
                await answer(alpha, {"model": "iris", "data": [[1]]}, CLASSIFY)
            assert caught.value.status == 503

    @pytest.mark.parametrize(
        ("formats", "code"),
        [
            ([("safetensors", "classifier")], "model_not_runnable"),
            ([("onnx", "regressor"), ("pickle", "llm")], "model_not_runnable"),
            ([("pickle", "llm"), ("onnx", "classifier")], "model_unavailable"),
            ([("onnx", "classifier"), ("pickle", "llm")], "model_unavailable"),
        ],
    )
    async def test_a_model_that_this_version_cannot_run(self, formats: list[tuple[str, str]], code: str) -> None:
        async with loop_net() as net:
            rows = [SimpleNamespace(name="net", format=first, type=second) for first, second in formats]
            alpha = await net.add("alpha", Lengths(), stored=lambda: rows)
            with pytest.raises(RequestError) as caught:
                await answer(alpha, {"model": "net", "data": [[1]]}, CLASSIFY)
            assert (caught.value.status, caught.value.code) == (503, code)

    async def test_a_name_is_forgotten_in_time(self, autojump_clock: trio.testing.MockClock) -> None:
        async with loop_net() as net:
            alpha = await net.add("alpha", config=GatewayConfig(names=1))
            beta = await net.add("beta", Echo(), Lengths())
            alpha.gateway.offers()
            net.dead.add(beta.id)
            for model, operation, status in (("echo", CHAT, 404), ("lengths", EMBEDDINGS, 503)):
                decision = await alpha.gateway.route(operation, {"model": model})
                assert decision.failure is not None
                assert decision.failure.status == status
            autojump_clock.jump(601)
            decision = await alpha.gateway.route(EMBEDDINGS, {"model": "lengths"})
            assert decision.failure is not None
            assert decision.failure.status == 404

    async def test_without_a_mesh(self) -> None:
        async with loop_net() as net:
            node = await net.add("alpha", Echo())
            alone = Gateway(node.id, "alpha", node.pool, embed, lambda: None, stored=list)
            assert [offer.node_name for offer in alone.offers()] == ["alpha"]
            assert alone.company() == Company(1, 0, 0)
            assert [row["id"] for row in alone.models()] == ["echo"]

    async def test_the_mesh_is_left_between_decision_and_execution(self) -> None:
        async with loop_net() as net:
            alpha, _ = await net.add("alpha"), await net.add("beta", Echo())
            ports = iter([alpha.port])
            leaving = Gateway(alpha.id, "alpha", alpha.pool, embed, lambda: next(ports, None), stored=list)
            with pytest.raises(RequestError, match="has just left the mesh"):
                async with leaving.execute(CHAT, chat()):
                    raise AssertionError


class TestGenerate:
    async def test_a_general_model_answers_for_a_specialist(self) -> None:
        async with loop_net() as net:
            docs = Capability("rag:docs", CHAT, "docs", description="how to install")
            alpha, _ = await net.add("alpha", Echo(docs)), await net.add("beta", Echo())
            assert alpha.gateway.ghostwriter.write(chat("how to install")) is None
            await net.nursery.start(alpha.gateway.run)
            parts = alpha.gateway.ghostwriter.write(chat("how to install"), Asking(True))
            assert parts is not None
            assert [part["model"] async for part in parts] == ["echo"] * 5

    async def test_its_errors_arrive(self) -> None:
        async with loop_net() as net:
            alpha = await net.add("alpha", Failing(error=refused(500), after=1))
            await net.nursery.start(alpha.gateway.run)
            for stream in (True, False):
                parts = alpha.gateway.ghostwriter.write(chat(), Asking(stream))
                assert parts is not None
                with pytest.raises(RequestError, match=r"no|several"):
                    _ = [part async for part in parts]

    async def test_leaving_it_stops_the_work(self) -> None:
        async with loop_net() as net:
            backend = Failing(after=2)
            alpha = await net.add("alpha", backend)
            await net.nursery.start(alpha.gateway.run)
            parts = alpha.gateway.ghostwriter.write(chat(), Asking(True))
            assert parts is not None
            await anext(parts)
            await parts.aclose()
            await trio.testing.wait_all_tasks_blocked()
            assert alpha.pool.in_flight == 0

    async def test_no_general_model_no_answer(self) -> None:
        async with loop_net() as net:
            alpha = await net.add("alpha", Lengths())
            await net.nursery.start(alpha.gateway.run)
            assert alpha.gateway.ghostwriter.write(chat()) is None
