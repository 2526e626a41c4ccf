"""What others are told of is what they may use; who may ask is asked first."""

from __future__ import annotations

from dataclasses import replace

import pytest

from atmo.backends.exposure import Exposure, Listing
from atmo.config.settings import Settings
from atmo.config.sharing import SharingSettings
from atmo.errors import RequestError
from atmo.gateway.asking import ANYBODY
from atmo.gateway.terms import Terms
from atmo.net.path_report import PathReport
from atmo.node.terms import terms_of
from atmo.router.capability import CHAT, Capability
from tests.gateway.world import Echo, LoopPort, Node, chat, loop_net, node_id

OPEN, PRIVATE = (Capability(f"echo:{name}", CHAT, name, general=True, backend="echo") for name in ("open", "private"))
HIDING = Terms(told=Exposure(Listing(hide=("private",))).told)


async def ask(node: Node, model: str) -> str:
    async with node.gateway.execute(CHAT, chat("abc", model=model), ANYBODY) as execution:
        return execution.offer.node_name


async def test_what_is_hidden_is_for_this_machine_alone() -> None:
    async with loop_net() as net:
        owner = await net.add("owner", Echo(OPEN, PRIVATE), terms=HIDING)
        other = await net.add("other")
        assert await ask(owner, "private") == "owner"
        assert await ask(other, "open") == "owner"
        with pytest.raises(RequestError) as caught:
            await ask(other, "private")
        assert caught.value.code == "model_not_found"
        assert [row["id"] for row in owner.gateway.models()] == ["open", "private"]


async def test_what_was_told_before_it_was_hidden_is_not_run() -> None:
    async with loop_net() as net:
        owner = await net.add("owner", Echo(OPEN, PRIVATE))
        other = await net.add("other")
        assert await ask(other, "private") == "owner"
        owner.gateway.server._terms = HIDING
        with pytest.raises(RequestError) as caught:
            await ask(other, "private")
        assert caught.value.code == "capability_gone"


async def test_a_feature_that_was_told_before_it_was_hidden_is_not_used() -> None:
    seeing = replace(OPEN, features=("vision",))
    picture = [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]
    body = {"model": "open", "messages": [{"role": "user", "content": picture}]}
    async with loop_net() as net:
        owner = await net.add("owner", Echo(seeing))
        other = await net.add("other")
        async with other.gateway.execute(CHAT, body, ANYBODY) as execution:
            assert execution.offer.node_name == "owner"
        owner.gateway.server._terms = Terms(told=Exposure(off=frozenset({"vision"})).told)
        with pytest.raises(RequestError) as caught:
            async with other.gateway.execute(CHAT, body, ANYBODY):
                pass
        assert (caught.value.status, caught.value.code) == (400, "unsupported_feature")


async def test_others_are_refused_who_may_not_ask() -> None:
    async with loop_net() as net:
        friend = node_id(2)
        await net.add("owner", Echo(OPEN), terms=Terms(admits=lambda node: node == friend))
        assert await ask(await net.add("friend"), "open") == "owner"
        stranger = await net.add("stranger")
        with pytest.raises(RequestError) as caught:
            await ask(stranger, "open")
        assert (caught.value.status, caught.value.code) == (403, "not_local")


@pytest.mark.parametrize(
    ("address", "admitted"),
    [
        ("127.0.0.1:5", True),
        ("[::1]:5", True),
        ("93.184.216.34:5", False),
        ("[2606:2800:220:1:248:1893:25c8:1946]:5", False),
        (None, False),
    ],
)
async def test_local_only_goes_by_the_path_on_which_a_node_asks(address: str | None, admitted: bool) -> None:
    async with loop_net() as net:
        port = (await net.add("owner")).port

        class Reached(LoopPort):
            def path(self, _node: object) -> PathReport:  # type: ignore[override]
                return PathReport("lan", address, 1.0, (), "")

        local = Settings("owner", sharing=SharingSettings(local_only=True))
        assert terms_of(local, lambda: Reached(net, port.node)).admits(node_id(2)) is admitted
        assert not terms_of(local, lambda: port).admits(node_id(2)), "there is no link"
        assert not terms_of(local, lambda: None).admits(node_id(2))
        assert terms_of(Settings("owner"), lambda: None).admits(node_id(2))
