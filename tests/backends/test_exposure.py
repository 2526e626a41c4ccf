"""What the mesh is told of capabilities, and what the owner adds to them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from atmo.backends.exposure import CATEGORIES, Exposure, Hints, Listing, category_of
from atmo.router.capability import (
    ANOMALY,
    CHAT,
    CLASSIFY,
    EMBEDDINGS,
    IMAGES,
    SPEECH,
    TRANSCRIPTION,
    Capability,
)

LLAMA = Capability("ollama:llama3.2:latest", CHAT, "llama3.2:latest", general=True, backend="ollama")
SEEING = replace(LLAMA, id="ollama:llava", model="llava", features=("tools", "vision", "audio"))
DOCS = Capability("rag:docs", CHAT, "docs", backend="rag")


@pytest.mark.parametrize(
    ("listing", "told"),
    [
        (Listing(), True),
        (Listing(everything=False), False),
        (Listing(everything=False, expose=("llama3*",)), True),
        (Listing(everything=False, expose=("llama3.2",)), True),
        (Listing(everything=False, expose=("qwen*",)), False),
        (Listing(hide=("llama3.2",)), False),
        (Listing(hide=("llama3.2:latest",)), False),
        (Listing(hide=("llama3.2:1b",)), True),
        (Listing(expose=("llama3.2",), hide=("*3.2",)), False),
        (Listing(expose=("qwen",)), True),
    ],
)
def test_lists_of_models(listing: Listing, told: bool) -> None:
    assert Exposure(models=listing).told(LLAMA) == (LLAMA if told else None)
    assert Exposure(projects=listing).told(LLAMA) == LLAMA, "it is no project"


def test_lists_of_projects() -> None:
    assert Exposure(projects=Listing(hide=("docs",))).told(DOCS) is None
    assert Exposure(models=Listing(hide=("docs",))).told(DOCS) == DOCS, "it is no model"
    farm = Capability("llamafarm:rag:legal", CHAT, "legal", backend="llamafarm")
    assert Exposure(projects=Listing(everything=False, expose=("docs",))).told(farm) is None


@pytest.mark.parametrize(
    ("capability", "category"),
    [
        (LLAMA, "llm"),
        (DOCS, "rag"),
        (Capability("a", EMBEDDINGS, "m"), "embeddings"),
        (Capability("a", IMAGES, "m"), "vision"),
        (Capability("a", SPEECH, "m"), "audio"),
        (Capability("a", TRANSCRIPTION, "m"), "audio"),
        (Capability("a", CLASSIFY, "m"), "ml"),
        (Capability("a", ANOMALY, "m"), "ml"),
        (Capability("llamafarm:llm:m", CHAT, "m", backend="llamafarm"), "llm"),
        (Capability("llamafarm:rag:m", CHAT, "m", backend="llamafarm"), "rag"),
        (Capability("llamafarm:project:m", CHAT, "m", backend="llamafarm"), "rag"),
        (Capability("llamafarm:agent:m", CHAT, "m", backend="llamafarm"), "agents"),
        (Capability("llamafarm", CHAT, "m", backend="llamafarm"), "llm"),
    ],
)
def test_each_capability_has_one_category(capability: Capability, category: str) -> None:
    assert category_of(capability) == category
    assert Exposure(off=frozenset({category})).told(capability) is None
    assert Exposure(off=frozenset(CATEGORIES) - {category, "vision", "audio"}).told(capability) == capability


def test_a_chat_model_loses_what_is_switched_off() -> None:
    told = Exposure(off=frozenset({"vision"})).told(SEEING)
    assert told == replace(SEEING, features=("tools", "audio"))
    told = Exposure(off=frozenset({"vision", "audio", "rag"})).told(SEEING)
    assert told == replace(SEEING, features=("tools",))
    assert Exposure(off=frozenset({"vision"})).told(LLAMA) is LLAMA
    unknown = replace(LLAMA, features=("*",))
    assert Exposure(off=frozenset({"rag"})).told(unknown) is unknown
    told = Exposure(off=frozenset({"vision"})).told(unknown)
    assert told is not None
    assert (told.lacks({"tools", "audio"}), told.lacks({"vision"})) == ([], ["vision"])


def test_hints() -> None:
    hints = Hints(2, "high", "regional", "EU", 0.5)
    hinted = hints.on(replace(LLAMA, concurrency=8))
    assert (hinted.concurrency, hinted.priority, hinted.latency_class) == (2, "high", "regional")
    assert (hinted.residency, hinted.cost_per_1k) == ("EU", 0.5)
    cloud = replace(LLAMA, concurrency=1, priority="low", latency_class="global", residency="US", cost_per_1k=2.0)
    assert hints.on(cloud) == cloud, "the backend knows better"
    assert Hints().on(SEEING) == SEEING
