from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from atmo.router.capability import ANOMALY, CHAT, CLASSIFY, EMBEDDINGS
from atmo.router.choice import Scores
from atmo.router.decision import Constraints, Decision, RouteRequest
from atmo.router.offer import Offer
from atmo.router.offers import Offers
from atmo.router.policy import PolicyConfig, decide
from atmo.router.table import NodeTable
from tests.router.offers import node, offer


def route(
    offers: Sequence[Offer],
    model: str = "auto",
    operation: str = CHAT,
    *,
    scores: Mapping[str, float] | None = None,
    table: NodeTable | None = None,
    now: float = 0.0,
    known: Sequence[str] | Mapping[str, str] = (),
    draw: int = 0,
    config: PolicyConfig | None = None,
    explain: bool = True,
    **constraints: Any,
) -> Decision:
    """Decides; `scores` go by description."""
    request = RouteRequest(operation, model, Constraints(**constraints), draw)
    by_key: Scores | None = None if scores is None else {(text,): value for text, value in scores.items()}
    kinds = known if isinstance(known, Mapping) else dict.fromkeys(known, "")
    return decide(
        request, Offers(offers), by_key, table or NodeTable(), now, kinds, config or PolicyConfig(), explain=explain
    )


def chosen(decision: Decision) -> str:
    assert decision.chosen is not None, decision.failure
    return f"{decision.chosen.capability.model} on {decision.chosen.node_name}"


def failing(table: NodeTable, number: int, capability: str, times: int = 3, now: float = 0.0) -> NodeTable:
    for _ in range(times):
        table.fail(table.begin(node(number), capability, now), now)
    return table


def served(table: NodeTable, number: int, capability: str, seconds: float, now: float = 0.0) -> NodeTable:
    table.end(table.begin(node(number), capability, now - seconds), now)
    return table


DOCS = offer("docs", 0, description="docs")
POEMS = offer("poems", 1, description="poems")
LLM = offer("llm", 2, general=True, description="llm")


class TestModel:
    def test_by_name(self) -> None:
        decision = route([DOCS, POEMS, LLM], "poems")
        assert chosen(decision) == "poems on n1"
        assert decision.rule == "model"
        assert decision.reason == "the request names poems; n1 is the only node that can run it now"
        assert [(one.offer.capability.model, one.verdict) for one in decision.candidates] == [
            ("poems", "chosen"),
            ("docs", "ruled out"),
            ("llm", "ruled out"),
        ]

    def test_an_older_version_is_ruled_out(self) -> None:
        decision = route([offer("iris", 1, version="1.0"), offer("iris", 2, version="2.0")], "iris")
        assert chosen(decision) == "iris on n2"
        assert decision.candidates[1].reason == "another version"

    def test_the_only_model(self) -> None:
        decision = route([offer("a", 1, version="1.0"), offer("a", 2, version="1.1")])
        assert (chosen(decision), decision.rule) == ("a on n2", "only")
        assert decision.candidates[1].reason == "an older version"

    def test_a_near_specialist_wins_and_general_models_stand_in(self) -> None:
        paid = offer("paid", 3, general=True, description="paid", cost_per_1k=2)
        scores = {"docs": 0.6, "poems": 0.5, "llm": 0.9, "paid": 0.1}
        decision = route([paid, DOCS, POEMS, LLM], scores=scores)
        assert (chosen(decision), decision.rule) == ("docs on n0", "meaning")
        assert [one.capability.model for one in decision.fallbacks] == ["llm", "paid"]
        assert [one.reason for one in decision.candidates[1:]] == [
            "stands in when the better model cannot",
            "stands in when the better model cannot",
            "docs is nearer to the request (0.60 against 0.50)",
        ]
        assert decision.candidates[0].similarity == 0.6

    def test_far_specialists_leave_it_to_the_general_model(self) -> None:
        decision = route([DOCS, POEMS, LLM], scores={"docs": 0.46, "poems": 0.2})
        assert (chosen(decision), decision.rule) == ("llm on n2", "general")
        assert [one.reason for one in decision.candidates[1:]] == [
            "similarity 0.46 is below 0.47",
            "similarity 0.20 is below 0.47",
        ]

    def test_the_cheapest_general_model_comes_first(self) -> None:
        paid = offer("paid", 0, general=True, cost_per_1k=1)
        decision = route([paid, LLM], scores={})
        assert chosen(decision) == "llm on n2"
        assert decision.fallbacks == (paid,)

    def test_without_a_general_model_the_nearest_specialist_takes_it(self) -> None:
        decision = route([DOCS, POEMS], scores={"poems": 0.3, "docs": 0.1})
        assert (chosen(decision), decision.rule) == ("poems on n1", "nearest")

    def test_a_specialist_that_could_not_be_compared(self) -> None:
        decision = route([DOCS, POEMS, LLM], scores={"docs": 0.5})
        assert decision.candidates[-1].reason == "what it does could not be compared with the request"

    def test_older_versions_of_the_near_specialist(self) -> None:
        old, new = offer("d", 1, version="1.0", description="docs"), offer("d", 2, version="1.1", description="docs")
        decision = route([old, new, LLM], scores={"docs": 0.6})
        assert (chosen(decision), decision.candidates[-1].reason) == ("d on n2", "an older version")

    def test_a_chat_without_words_goes_to_a_general_model_else_here(self) -> None:
        assert chosen(route([DOCS, POEMS, LLM])) == "llm on n2"
        assert chosen(route([POEMS, DOCS])) == "docs on n0"

    def test_numbers_alone_do_not_choose_a_classifier(self) -> None:
        two = [offer("iris", 1, operation=CLASSIFY), offer("wine", 2, operation=CLASSIFY)]
        decision = route(two, operation=CLASSIFY)
        assert decision.failure is not None
        assert (decision.failure.status, decision.failure.code) == (400, "model_required")
        assert "name one of iris, wine" in decision.reason
        assert chosen(route(two[:1], operation=CLASSIFY)) == "iris on n1"
        assert chosen(route(two, operation=CLASSIFY, scores={"wine": 0.2})) == "wine on n2"

    def test_embeddings_always_come_from_the_same_model(self) -> None:
        own = offer("minilm", 0, operation=EMBEDDINGS, backend="builtin")
        others = [offer("minilm", 3, operation=EMBEDDINGS), offer("a", 0, operation=EMBEDDINGS, backend="ollama")]
        decision = route([*others, own], operation=EMBEDDINGS)
        assert (chosen(decision), decision.rule) == ("minilm on n0", "default")
        assert decision.candidates[-1].reason == "another model is the default"

    def test_auto_is_the_same_as_nothing(self) -> None:
        assert route([LLM], "").to_json() == route([LLM], "auto").to_json()


class TestNobody:
    def failure(self, decision: Decision) -> tuple[int, str, str]:
        assert decision.chosen is None
        assert decision.failure is not None
        return decision.failure.status, decision.failure.code, decision.failure.message

    def test_unknown_model(self) -> None:
        status, code, message = self.failure(route([LLM, DOCS], "lln"))
        assert (status, code) == (404, "model_not_found")
        assert message.startswith(
            "The model 'lln' does not exist: for chat the mesh has docs, llm. Did you mean 'llm'?"
        )
        assert "GET /v1/models" in message

    def test_unknown_model_in_an_empty_mesh(self) -> None:
        status, _, message = self.failure(route([], "gpt-4o"))
        assert status == 404
        assert "no model does chat yet" in message

    def test_a_long_list_is_cut(self) -> None:
        many = [offer(f"model{number}", number) for number in range(1, 12)]
        assert "and 3 more" in self.failure(route(many, "zzz"))[2]

    def test_no_such_version(self) -> None:
        status, code, message = self.failure(route([offer("iris", version="1.0")], "iris@>=2"))
        assert (status, code) == (404, "model_not_found")
        assert message == "No version of 'iris' fits 'iris@>=2': the mesh has 1.0."
        message = self.failure(route([LLM], "llm@2", known=["llm"]))[2]
        assert message == "No version of 'llm' fits 'llm@2': it has none, ask for 'llm'."

    def test_not_a_version(self) -> None:
        status, code, _ = self.failure(route([offer("iris", version="1.0")], "iris@new"))
        assert (status, code) == (400, "invalid_model_version")

    @pytest.mark.parametrize("model", ["iris", "iris@2.0"])
    def test_a_model_that_exists_but_nobody_runs(self, model: str) -> None:
        status, code, message = self.failure(route([LLM], model, known=["iris"]))
        assert (status, code) == (503, "model_unavailable")
        assert "atmo model pull iris" in message

    @pytest.mark.parametrize("model", ["net", "net@2.0"])
    def test_a_model_that_nobody_can_run_yet(self, model: str) -> None:
        status, code, message = self.failure(route([LLM], model, known={"net": "the format safetensors"}))
        assert (status, code) == (503, "model_not_runnable")
        assert "cannot run models of the format safetensors" in message
        assert "pull" not in message

    def test_a_model_of_another_operation(self) -> None:
        status, code, message = self.failure(route([LLM, offer("iris", operation=CLASSIFY)], "iris"))
        assert (status, code) == (400, "model_not_supported")
        assert message.endswith("send it to /v1/ml/classify.")
        strange = self.failure(route([offer("iris", operation="paint")], "iris"))
        assert strange[2] == "The model 'iris' does paint, not chat."

    @pytest.mark.parametrize(
        ("operation", "hint"),
        [(CHAT, "ollama pull"), (EMBEDDINGS, "embedder"), (ANOMALY, "fit"), ("x", "can, or join")],
    )
    def test_nothing_can_do_it(self, operation: str, hint: str) -> None:
        other = offer("m", operation="another")
        status, code, message = self.failure(route([other], operation=operation))
        assert (status, code) == (503, "no_capability")
        assert hint in message
        assert "atmo mesh join CODE" in message

    def test_constraints_rule_everybody_out(self) -> None:
        for model in ("auto", "llm"):
            decision = route([LLM, POEMS], model, local_only=True)
            assert self.failure(decision)[:2] == (503, "constraints_not_met")
            assert decision.candidates[0].reason == "the request allows this machine only"

    def test_it_tells_as_an_error(self) -> None:
        decision = route([], "x")
        assert decision.failure is not None
        error = decision.failure.error()
        assert (error.status, error.code, error.param) == (404, "model_not_found", "model")
        assert decision.to_json()["error"] == error.body()["error"]
        assert decision.to_json()["chosen"] is None


class TestConstraints:
    def test_each_rules_out(self) -> None:
        far = offer("llm", 3, rtt_s=0.5, general=True)
        unknown = offer("llm", 4, rtt_s=None, general=True)
        paid = offer("llm", 5, cost_per_1k=2, general=True)
        offers = [far, unknown, paid, LLM, DOCS]
        decision = route(offers, max_rtt_s=0.1, max_cost_per_1k=1, general_only=True)
        assert chosen(decision) == "llm on n2"
        assert [one.reason for one in decision.candidates[1:]] == [
            "500 ms away, the request allows 100 ms",
            "an unknown time away, the request allows 100 ms",
            "costs 2 for 1,000 tokens, the request allows 1",
            "the request wants a general model",
        ]


class TestNode:
    def test_the_shortest_expected_finish_wins(self) -> None:
        table = served(served(NodeTable(), 1, "x:m", 2.0), 2, "x:m", 1.0)
        decision = route([offer("m", 1), offer("m", 2)], "m", table=table)
        assert chosen(decision) == "m on n2"
        assert decision.candidates[0].reason == "n2 finishes first, in about 1.0 s"
        assert decision.candidates[1].reason == "would finish in about 2.0 s, the chosen one in 1.0 s"

    def test_waiting_counts(self) -> None:
        assert chosen(route([offer("m", 1, load=4), offer("m", 2, load=1)], "m")) == "m on n2"
        assert chosen(route([offer("m", 1, load=4, concurrency=8), offer("m", 2, load=1)], "m")) == "m on n1"

    def test_the_less_used_of_two_that_would_finish_alike(self) -> None:
        assert chosen(route([offer("m", 1, load=3, concurrency=4), offer("m", 2, concurrency=4)], "m")) == "m on n2"

    def test_distance_counts(self) -> None:
        near, far, unknown = offer("m", 1, rtt_s=0.001), offer("m", 2, rtt_s=0.01), offer("m", 3, rtt_s=None)
        decision = route([unknown, far, near], "m")
        assert [one.offer.node_name for one in decision.candidates] == ["n1", "n2", "n3"]
        assert decision.candidates[2].to_json()["rtt_ms"] is None

    def test_what_we_sent_counts_before_gossip_tells(self) -> None:
        table = NodeTable()
        table.begin(node(1), "x:m", 0.0)
        assert chosen(route([offer("m", 1, rtt_s=0.0), offer("m", 2, rtt_s=0.02)], "m", table=table)) == "m on n2"

    def test_this_machine_wins_near_ties(self) -> None:
        table = served(served(NodeTable(), 0, "x:m", 1.2), 1, "x:m", 1.0)
        decision = route([offer("m", 1, rtt_s=0.0), offer("m", 0)], "m", table=table)
        assert chosen(decision) == "m on n0"
        assert decision.candidates[0].reason == "this machine finishes in about 1.2 s, and nobody is much faster"
        assert decision.candidates[1].reason == "hardly faster than this machine"
        slow = served(NodeTable(), 0, "x:m", 2.0)
        served(slow, 1, "x:m", 1.0)
        assert chosen(route([offer("m", 1, rtt_s=0.0), offer("m", 0)], "m", table=slow)) == "m on n1"

    def test_this_machine_first_when_it_is_first(self) -> None:
        decision = route([offer("m", 1), offer("m", 0)], "m")
        assert decision.candidates[0].reason == "this machine finishes first, in about 3.0 s"

    def test_unknown_operations_have_a_prior_too(self) -> None:
        decision = route([offer("m", 1, operation="paint", rtt_s=0.0)], "m", "paint")
        assert decision.candidates[0].finish_s == 1.0

    def test_old_observations_fade(self) -> None:
        table = served(served(NodeTable(), 1, "x:m", 9.0, now=10.0), 2, "x:m", 1.0, now=10.0)
        fresh = route([offer("m", 1), offer("m", 2)], "m", table=table, now=10.0)
        later = route([offer("m", 1), offer("m", 2)], "m", table=table, now=610.0)
        assert fresh.candidates[1].service_s == pytest.approx(9.0)
        assert later.candidates[1].service_s == pytest.approx(5.0, abs=0.01)

    def test_three_are_drawn_from_many(self) -> None:
        many = [offer("m", number, rtt_s=number / 1_000) for number in range(1, 11)]
        picks = Counter(chosen(route(many, "m", draw=draw)) for draw in range(300))
        assert len(picks) >= 7
        assert max(picks.values()) < 150
        decision = next(d for d in (route(many, "m", draw=draw) for draw in range(300)) if chosen(d) != "m on n1")
        skipped = next(one for one in decision.candidates if one.offer.node_name == "n1")
        assert skipped.reason == "not among the nodes drawn for comparison this time"
        assert decision == route(many, "m", draw=decision.request.draw)

    def test_fallbacks_are_bounded(self) -> None:
        many = [offer("m", number) for number in range(1, 100)]
        decision = route(many, "m")
        assert len(decision.fallbacks) == 4
        assert len(set(decision.fallbacks)) == 4
        assert decision.chosen not in decision.fallbacks
        assert len(decision.candidates) == 64
        assert decision.omitted == 35
        assert [one.verdict for one in decision.candidates[:6]] == ["chosen", *["fallback"] * 4, "passed over"]

    def test_the_list_of_others_is_bounded(self) -> None:
        many = [offer(f"m{number}", number) for number in range(1, 100)]
        decision = route([*many, offer("e", operation=EMBEDDINGS)], "m5")
        assert (len(decision.candidates), decision.omitted) == (64, 35)
        assert (len(route(many, "x").candidates), route(many, "x").omitted) == (64, 35)


class TestBreaker:
    def test_a_node_that_fails_is_asked_last(self) -> None:
        table = failing(NodeTable(), 1, "x:m")
        decision = route([offer("m", 1, rtt_s=0.0), offer("m", 2, rtt_s=0.9)], "m", table=table, now=1.0)
        assert chosen(decision) == "m on n2"
        assert decision.candidates[0].reason == "n2 is the only node that can run it now"
        assert decision.candidates[1].reason == "failed 3 times in a row, asked again after a pause"

    def test_but_it_is_asked_when_nobody_else_is_left(self) -> None:
        decision = route([offer("m", 1)], "m", table=failing(NodeTable(), 1, "x:m"), now=1.0)
        assert chosen(decision) == "m on n1"
        assert decision.candidates[0].reason == "n1 failed 3 times in a row, but nobody else is left"

    def test_another_model_stands_in_first(self) -> None:
        table = failing(NodeTable(), 0, "x:docs")
        decision = route([DOCS, LLM], scores={"docs": 0.9}, table=table, now=1.0)
        assert chosen(decision) == "llm on n2"
        assert decision.fallbacks == (DOCS,)

    def test_one_failure_makes_a_node_less_likely(self) -> None:
        table = failing(NodeTable(), 1, "x:m", times=1)
        assert chosen(route([offer("m", 1, rtt_s=0.0), offer("m", 2, rtt_s=0.9)], "m", table=table)) == "m on n2"

    def test_after_the_pause_one_request_tries_it_again(self) -> None:
        table = failing(NodeTable(), 1, "x:m")
        offers = [offer("m", 1, rtt_s=0.0), offer("m", 2, rtt_s=0.9)]
        decision = route(offers, "m", table=table, now=6.0)
        assert chosen(decision) == "m on n1"
        assert decision.candidates[0].reason == "n1 is on trial after 3 failures in a row"
        assert decision.candidates[0].breaker == "half-open"
        table.begin(node(1), "x:m", 6.0)
        assert chosen(route(offers, "m", table=table, now=6.0)) == "m on n2"

    def test_one_that_asked_to_wait_is_asked_last_until_then(self) -> None:
        table = NodeTable()
        table.defer(table.begin(node(1), "x:m", 0.0), 0.0, 3.0)
        offers = [offer("m", 1, rtt_s=0.0), offer("m", 2, rtt_s=0.9)]
        decision = route(offers, "m", table=table, now=1.0)
        assert chosen(decision) == "m on n2"
        assert decision.candidates[1].reason == "takes no more for 2.0 s, as it said"
        alone = route(offers[:1], "m", table=table, now=1.0)
        assert alone.candidates[0].reason == "n1 asked to wait for 2.0 s, but nobody else is left"
        assert chosen(route(offers, "m", table=table, now=3.0)) == "m on n1"


def test_the_dry_run_is_json() -> None:
    decision = route([DOCS, POEMS, LLM], scores={"docs": 0.61234, "poems": 0.1})
    body = json.loads(json.dumps(decision.to_json()))
    assert body["object"] == "route"
    assert body["model"] == "docs"
    assert body["requested_model"] == "auto"
    assert body["chosen"]["node_name"] == "n0"
    assert body["fallbacks"][0]["model"] == "llm"
    assert body["candidates"][0]["similarity"] == 0.6123
    assert body["candidates"][0]["finish_ms"] == 3_000.0
    assert set(body["candidates"][0]) == set(body["candidates"][2])
    assert "error" not in body
