"""What is on offer, arranged: a decision looks at a few of many, and explaining it changes nothing."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from atmo.identity import NodeId
from atmo.router.capability import CHAT
from atmo.router.decision import RouteRequest
from atmo.router.offer import Offer
from atmo.router.offers import Offers
from atmo.router.policy import decide
from atmo.router.table import NodeTable, TableConfig
from tests.router.offers import node, offer


def many(count: int) -> list[Offer]:
    return [replace(offer("m", 1), node=NodeId(number.to_bytes(32, "big"))) for number in range(1, count + 1)]


def opened(table: NodeTable, one: Offer) -> None:
    for _ in range(3):
        table.fail(table.begin(one.node, one.capability.id, 0.0), 0.0)


def test_offers_are_told_as_they_are_now() -> None:
    load = 1
    offers = Offers([offer("m", 1), offer("e", 2)], lambda one: replace(one, load=load))
    assert [one.load for one in offers] == [1, 1]
    load = 2
    assert [one.load for one in offers] == [2, 2]
    assert [one.load for one in offers.lasting] == [0, 0]
    assert len(offers) == 2
    assert offers.models == ("m", "e")


def test_a_decision_asks_how_things_are_with_a_few_of_many() -> None:
    asked: list[Offer] = []

    def fresh(one: Offer) -> Offer:
        asked.append(one)
        return one

    offers = Offers(many(1_000), fresh)
    decision = decide(RouteRequest(CHAT, "m"), offers, None, NodeTable(), 0.0, explain=False)
    assert len(asked) == 5, "three that are compared, and who stands in besides"
    assert decision.chosen in asked
    assert len(decision.fallbacks) == 4
    assert decision.omitted == 995


def test_those_who_failed_are_not_among_the_few() -> None:
    table, offers = NodeTable(), many(40)
    for one in offers[:-1]:
        opened(table, one)
    decision = decide(RouteRequest(CHAT, "m"), Offers(offers), None, table, 1.0, explain=False)
    assert decision.chosen == offers[-1]
    assert len(decision.fallbacks) == 4


def test_everybody_is_drawn_alike_and_so_is_who_stands_in() -> None:
    offers = Offers(many(20))
    chosen: Counter[NodeId] = Counter()
    standing_in: Counter[NodeId] = Counter()
    for draw in range(2_000):
        decision = decide(RouteRequest(CHAT, "m", draw=draw), offers, None, NodeTable(), 0.0, explain=False)
        drawn = [one.offer.node for one in decision.candidates[:5]]
        assert len(set(drawn)) == 5
        assert decision.chosen is not None
        chosen[decision.chosen.node] += 1
        standing_in.update(drawn[3:])
    assert min(chosen.values()) > 70, "while nothing is known of any, none comes first"
    assert max(chosen.values()) < 130
    assert min(standing_in.values()) > 140
    assert max(standing_in.values()) < 260


def test_who_runs_more_at_once_gets_more_while_nothing_else_is_known() -> None:
    offers = Offers(
        replace(one, capability=replace(one.capability, concurrency=1 + 3 * (at % 2)))
        for at, one in enumerate(many(20))
    )
    chosen: Counter[int] = Counter()
    for draw in range(1_000):
        decision = decide(RouteRequest(CHAT, "m", draw=draw), offers, None, NodeTable(), 0.0, explain=False)
        assert decision.chosen is not None
        chosen[decision.chosen.capability.concurrency] += 1
    assert 2.0 < chosen[4] / chosen[1] < 4.0


numbers = st.integers(0, 12)


@given(
    st.lists(st.tuples(numbers, st.integers(0, 5), st.booleans(), st.sampled_from(["m", "n"])), max_size=20),
    st.lists(st.tuples(numbers, st.sampled_from(["m", "n"]), st.floats(0.0, 5.0)), max_size=20),
    st.lists(numbers, max_size=8),
    st.integers(0, 2**32 - 1),
    st.sampled_from(["m", "auto"]),
)
def test_explaining_changes_nothing(
    rows: list[tuple[int, int, bool, str]],
    served: list[tuple[int, str, float]],
    failed: list[int],
    draw: int,
    model: str,
) -> None:
    unique = {(number, name): (load, general) for number, load, general, name in rows}
    offers = Offers(
        offer(name, number, load=load, general=general) for (number, name), (load, general) in unique.items()
    )
    table = NodeTable()
    for number, name, seconds in served:
        table.end(table.begin(node(number), f"x:{name}", 0.0), seconds)
    for number in failed:
        table.fail(table.begin(node(number), "x:m", 0.0), 0.0)
    request = RouteRequest(CHAT, model, draw=draw)
    brief = decide(request, offers, {}, table, 1.0, explain=False)
    told = decide(request, offers, {}, table, 1.0)
    assert (brief.chosen, brief.fallbacks, brief.reason) == (told.chosen, told.fallbacks, told.reason)
    assert brief.failure == told.failure
    assert told.omitted == 0
    assert len(told.candidates) == len(offers)
    assert len(brief.candidates) + brief.omitted == len(offers)


def test_what_is_usual_of_a_capability_is_the_average_over_its_nodes() -> None:
    table = NodeTable(TableConfig(max_rows=2, ewma_weight=0.5))
    assert table.usual_s("c") is None
    table.end(table.begin(node(1), "c", 0.0), 4.0)
    table.end(table.begin(node(2), "c", 0.0), 2.0)
    assert table.usual_s("c") == 3.0
    table.end(table.begin(node(2), "c", 0.0), 4.0)
    assert table.usual_s("c") == 3.5
    assert table.usual_s("d") is None
    table.cancel(table.begin(node(3), "d", 0.0))
    assert table.usual_s("c") == 3.0, "the row unused longest went"
    table.cancel(table.begin(node(4), "d", 0.0))
    assert table.usual_s("c") is None
    table.cancel(table.begin(node(5), "d", 0.0))
    assert len(table) == 2


def test_an_unknown_node_is_taken_for_a_usual_one() -> None:
    table = NodeTable()
    table.end(table.begin(node(9), "x:m", 0.0), 1.5)
    decision = decide(RouteRequest(CHAT, "m"), Offers([offer("m", 1)]), None, table, 0.0)
    assert decision.candidates[0].service_s == 1.5
    table.end(table.begin(node(2), "x:n", 0.0), 0.5)
    offers = Offers([offer("other", 1, general=True), offer("n", 2, general=True)])
    decision = decide(RouteRequest(CHAT), offers, None, table, 0.0)
    assert [one.service_s for one in decision.candidates] == [0.5, 0.5], "of another model: like those beside it"
