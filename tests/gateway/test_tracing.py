from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atmo.gateway.asking import Asking
from atmo.gateway.tracing import NO_TRACER, TRACEPARENT_CHARS, trace_id, traceparent_untrusted
from atmo.router.capability import CHAT
from tests.gateway.world import Echo, chat, loop_net

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
PARENT = f"00-{TRACE}-{SPAN}-01"


class TestTraceparent:
    def test_the_specifications_example(self) -> None:
        assert traceparent_untrusted(PARENT) == PARENT
        assert trace_id(PARENT) == TRACE
        assert trace_id("") == ""

    @pytest.mark.parametrize(
        "value",
        [
            None,
            5,
            b"x",
            "",
            PARENT[:-1],
            PARENT + "-",
            PARENT + "-more",
            PARENT + "\n",
            PARENT.upper(),
            f"ff-{TRACE}-{SPAN}-01",
            f"00-{'0' * 32}-{SPAN}-01",
            f"00-{TRACE}-{'0' * 16}-01",
            f"00-{TRACE}-{SPAN}-0g",
            f"00-{TRACE}-{SPAN}_01",
            f"01-{TRACE}-{SPAN}-01x",
            f"01-{TRACE}-{SPAN}-01-" + "x" * 1_000,
            "00-" + "١" * 32 + f"-{SPAN}-01",
        ],
    )
    def test_anything_else_is_no_trace(self, value: Any) -> None:
        assert traceparent_untrusted(value) == ""

    @pytest.mark.parametrize("more", ["", "-", "-what-later-versions-add"])
    def test_a_later_version_is_read_as_the_first(self, more: str) -> None:
        assert traceparent_untrusted(f"cc-{TRACE}-{SPAN}-03{more}") == f"00-{TRACE}-{SPAN}-03"

    @given(st.text(max_size=80))
    def test_whatever_comes_out_is_valid_or_empty(self, text: str) -> None:
        found = traceparent_untrusted(text)
        assert found == "" or (len(found) == TRACEPARENT_CHARS and traceparent_untrusted(found) == found)


class TestWithoutTracer:
    def test_ids_are_passed_on(self) -> None:
        with NO_TRACER.span("any", PARENT, "server") as span:
            span.note("a", 1)
            span.fail("x")
            assert (span.traceparent, span.recording) == (PARENT, False)

    async def test_to_the_backend_of_another_node(self) -> None:
        async with loop_net() as net:
            alpha, echo = await net.add("alpha"), Echo()
            await net.add("beta", echo)
            for stream in (False, True):
                async with alpha.gateway.execute(CHAT, chat(), Asking(stream, trace=PARENT)) as execution:
                    assert [part async for part in execution]
            async with alpha.gateway.execute(CHAT, chat()) as execution:
                assert [part async for part in execution]
        assert [call.trace for call in echo.calls] == [PARENT, PARENT, ""]
