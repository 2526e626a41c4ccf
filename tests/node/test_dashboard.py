"""The dashboard in docs/grafana asks for nothing but what a node exports."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from tests.node.test_running_modes import node

DASHBOARD = json.loads((Path(__file__).parents[2] / "docs" / "grafana" / "atmosphere.json").read_text())
METRIC = re.compile(r"\b(?:atmo|process|python)_\w+")
SELECTOR = re.compile(r"\b((?:atmo|process|python)_\w+)\{([^}]*)\}")
FROM_PROMETHEUS = {"instance", "job"}


def expressions() -> Iterator[str]:
    for panel in DASHBOARD["panels"]:
        yield from (target["expr"] for target in panel.get("targets", ()))
    yield from (str(one["query"]["query"]) for one in DASHBOARD["templating"]["list"] if one["type"] == "query")


def test_it_is_a_dashboard_that_grafana_can_import() -> None:
    assert DASHBOARD["schemaVersion"] >= 36
    assert DASHBOARD["uid"]
    assert DASHBOARD["title"] == "Atmosphere"
    panels: list[dict[str, Any]] = DASHBOARD["panels"]
    numbers = [panel["id"] for panel in panels]
    assert len(set(numbers)) == len(numbers)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24, panel["title"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, f"{panel['title']} covers another panel"
        taken |= cells
        assert panel["type"] == "row" or panel["targets"]
    for expression in expressions():
        assert expression.count("(") == expression.count(")"), expression
        assert METRIC.search(expression), expression


async def test_a_running_node_exports_all_of_it(tmp_path: Path) -> None:
    async with node(tmp_path / "alpha") as running:
        answer = await running.http.post("/v1/embeddings", json={"input": "The mesh is calm."})
        assert answer.status_code == 200
        text = (await running.http.get("/metrics")).text
    labels: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(text):
        if family.type == "counter":
            labels.setdefault(f"{family.name}_total", set())
        for sample in family.samples:
            labels.setdefault(sample.name, set()).update(sample.labels)
    for expression in expressions():
        for name in METRIC.findall(expression):
            assert name in labels, f"{name} is exported by no node: {expression}"
        for name, selector in SELECTOR.findall(expression):
            asked = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", selector)) - FROM_PROMETHEUS
            assert asked <= labels[name], f"{name} has no label {asked - labels[name]}"
