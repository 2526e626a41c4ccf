"""What a request cannot do without, what it asks of whoever runs it, and who is asked first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from atmo.router.capability import ANY_FEATURE, CHAT, COMPLETIONS, EMBEDDINGS, FEATURES, IMAGES, Capability
from atmo.router.decision import Constraints, Decision, RouteRequest
from atmo.router.offer import Offer
from atmo.router.offers import Offers
from atmo.router.policy import decide
from atmo.router.table import NodeTable
from tests.router.offers import node, offer


def route(
    offers: Sequence[Offer],
    model: str = "auto",
    operation: str = CHAT,
    needs: Sequence[str] = (),
    table: NodeTable | None = None,
    **constraints: Any,
) -> Decision:
    request = RouteRequest(operation, model, Constraints(**constraints), 0, frozenset(needs))
    return decide(request, Offers(offers), None, table or NodeTable(), 0.0)


def model_of(decision: Decision) -> str:
    assert decision.chosen is not None, decision.failure
    return decision.chosen.capability.model


def refusal(decision: Decision) -> tuple[int, str, str | None]:
    assert decision.failure is not None
    return decision.failure.status, decision.failure.code, decision.failure.param


PLAIN = offer("plain", 1, general=True)
EYE = offer("eye", 2, general=True, features=("vision", "completions"), cost_per_1k=1.0)
CLOUD = offer("cloud", 3, general=True, features=(ANY_FEATURE,), cost_per_1k=2.0)


def test_a_chat_model_may_continue_texts_too() -> None:
    assert Capability("a", CHAT, "a", features=("completions",)).operations == (CHAT, COMPLETIONS)
    assert Capability("a", CHAT, "a").operations == (CHAT,)
    assert Capability("a", EMBEDDINGS, "a", features=("completions",)).operations == (EMBEDDINGS,)
    assert model_of(route([PLAIN, EYE], operation=COMPLETIONS)) == "eye"


def test_who_lacks_a_feature_is_ruled_out() -> None:
    decision = route([PLAIN, EYE, CLOUD], needs=["vision"])
    assert model_of(decision) == "eye"
    assert [one.reason for one in decision.candidates if one.offer is PLAIN] == ["cannot look at images"]


def test_a_model_of_which_nobody_knows_is_taken_to_do_it() -> None:
    assert model_of(route([PLAIN, CLOUD], needs=["tools", "json_schema"])) == "cloud"
    assert Capability("a", CHAT, "a", features=(ANY_FEATURE,)).lacks(FEATURES) == []


@pytest.mark.parametrize(
    ("need", "param"),
    [("vision", "messages"), ("audio", "messages"), ("tools", "tools"), ("json_schema", "response_format")],
)
def test_a_named_model_that_lacks_a_feature(need: str, param: str) -> None:
    decision = route([PLAIN, CLOUD], "plain", needs=[need])
    assert refusal(decision) == (400, "unsupported_feature", param)
    assert decision.failure is not None
    assert "'plain' cannot" in decision.failure.message
    assert "'auto'" in decision.failure.message


def test_a_mesh_that_lacks_a_feature() -> None:
    decision = route([PLAIN], needs=["vision"])
    assert refusal(decision) == (400, "unsupported_feature", "messages")
    assert decision.failure is not None
    assert decision.failure.message == "No model for chat here can look at images."


@pytest.mark.parametrize(
    ("constraints", "capability", "reason"),
    [
        ({"models": ("llama*",)}, {}, "the key of the request may not use it"),
        ({"min_size_b": 7}, {}, "has an unknown number of parameters, the request wants 7 billion"),
        ({"min_size_b": 7}, {"size_b": 3.2}, "has 3.2 billion parameters, the request wants 7 billion"),
        ({"residency": "US"}, {}, "does not promise that data stays in US"),
        ({"residency": "US"}, {"residency": "EU"}, "does not promise that data stays in US"),
        ({"gpu_only": True}, {"device": "cpu"}, "runs on a CPU, the request wants a GPU"),
        ({"local_only": True}, {}, "the request allows this machine only"),
    ],
)
def test_constraints_rule_out(constraints: dict[str, Any], capability: dict[str, Any], reason: str) -> None:
    bad = offer("bad", 1, general=True, **capability)
    good = offer("llama", 0, general=True, size_b=8.0, residency="us", device="gpu")
    decision = route([bad, good], **constraints)
    assert model_of(decision) == "llama"
    assert [one.reason for one in decision.candidates if one.offer is bad] == [reason]
    assert refusal(route([bad], **constraints))[0] in (403, 503)


def test_a_key_that_may_not_use_a_model() -> None:
    assert refusal(route([PLAIN, EYE], "plain", models=("e*",))) == (403, "model_not_allowed", "model")
    decision = route([PLAIN], models=("e*", "f*"))
    assert decision.failure is not None
    assert decision.failure.message == "Your key may not use any model that does chat; it may use e*, f*."
    assert model_of(route([PLAIN, EYE], models=("e*",))) == "eye"
    both = route([PLAIN, EYE], models=("e*",), local_only=True)
    assert refusal(both) == (503, "constraints_not_met", None)
    assert both.failure is not None
    assert "(eye on " in both.failure.message
    assert ": the request allows this machine only): relax" in both.failure.message


def test_a_node_that_is_expected_too_late() -> None:
    table = NodeTable()
    for number, seconds in ((1, 4.0), (2, 1.0)):
        table.end(table.begin(node(number), "x:m", 0.0 - seconds), 0.0)
    slow, quick = offer("m", 1, rtt_s=0.0), offer("m", 2, rtt_s=0.0)
    decision = route([slow, quick], table=table, max_finish_s=2.0)
    assert decision.chosen is not None
    assert decision.chosen.node == node(2)
    assert decision.fallbacks == ()
    refused = route([slow, quick], table=table, max_finish_s=0.5)
    assert refusal(refused) == (503, "constraints_not_met", "atmosphere.max_latency_ms")
    assert refused.failure is not None
    assert "within 500 ms, the soonest takes about 1.0 s" in refused.failure.message


def test_low_priority_stands_in_only() -> None:
    low, other = offer("m", 0, priority="low"), offer("m", 1)
    decision = route([low, other])
    assert decision.chosen is other
    assert decision.fallbacks == (low,)
    assert decision.candidates[1].reason == "has low priority: it stands in only"
    assert route([low]).chosen is low


def test_high_priority_is_preferred_while_it_is_not_much_slower() -> None:
    high, other = offer("m", 1, priority="high", rtt_s=0.02), offer("m", 2, rtt_s=0.01)
    decision = route([high, other])
    assert decision.chosen is high
    assert decision.reason.endswith("n1 has high priority and finishes in about 3.0 s")
    assert decision.candidates[1].reason == "has no such priority as the chosen one"
    far = offer("m", 1, priority="high", rtt_s=9.0)
    assert route([far, other]).chosen is other


def test_an_operation_that_needs_no_meaning_takes_the_same_model_each_time() -> None:
    offers = [offer("flux", 1, operation=IMAGES), offer("dall-e-3", 2, operation=IMAGES)]
    decision = route(offers, operation=IMAGES)
    assert (decision.rule, model_of(decision)) == ("default", "dall-e-3")
    assert decision.reason.startswith("dall-e-3 is the model for images where none is named")
