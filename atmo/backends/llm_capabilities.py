"""Capabilities of the models that servers list: what people and the router read about each. No I/O."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from atmo.backends.llm_names import SERVED, ModelFacts, billions_of, context_of, features_of, operations_of
from atmo.router.capability import (
    ANY_FEATURE,
    CHAT,
    COMPLETIONS,
    EMBEDDINGS,
    FEATURES,
    IMAGES,
    SPEECH,
    TRANSCRIPTION,
    VISION,
    Capability,
)
from atmo.wire import limits

_KINDS: tuple[tuple[re.Pattern[str], str, tuple[str, ...]], ...] = (
    (
        re.compile(r"code|coder|starcoder|devstral|codestral|granite-code"),
        "writes, explains and repairs program code",
        (
            "write a Python function that parses a CSV file",
            "why does this code throw an exception",
            "refactor this class and add unit tests",
            "write an SQL query that joins two tables",
            "explain what this regular expression does",
        ),
    ),
    (
        re.compile(r"llava|vision|[-_]vl|moondream|pixtral|bakllava|minicpm-v"),
        "describes and answers questions about images",
        ("what is in this picture", "describe this photo", "read the text in this screenshot"),
    ),
    (
        re.compile(r"math|numina|prover"),
        "solves mathematical problems",
        ("solve this equation", "prove that the sum is even", "compute the integral of x squared"),
    ),
    (
        re.compile(r"deepseek-r1|qwq|(^|[/_-])o[134]([._-]|$)|think|reason"),
        "reasons step by step about hard problems",
        (
            "think step by step about this puzzle",
            "plan the steps to solve this problem",
            "find the flaw in this argument",
        ),
    ),
    (
        re.compile(r"med(alpaca|itron|gemma|llama|42)|biomed|clinical|biogpt"),
        "answers medical questions",
        ("what are the symptoms of this disease", "which drugs interact with ibuprofen"),
    ),
    (
        re.compile(r"translat|nllb|(^|[/_-])aya|madlad|tower"),
        "translates between languages",
        ("translate this sentence into French", "what does this German word mean"),
    ),
)
_WORKS: Mapping[str, tuple[str, tuple[str, ...]]] = MappingProxyType(
    {
        COMPLETIONS: ("a language model that continues any text", ()),
        EMBEDDINGS: ("turns text into vectors for search by meaning", ()),
        IMAGES: ("draws pictures from descriptions", ("draw a castle by the sea", "make a picture of a red fox")),
        SPEECH: ("reads text aloud", ("read this sentence aloud", "say good morning")),
        TRANSCRIPTION: (
            "writes down what is said in a recording",
            ("transcribe this recording", "write down the talk"),
        ),
    }
)


@dataclass(frozen=True, slots=True)
class Terms:
    """On which terms the models of one server are offered.

    Attributes:
        source: Where they run, for people: "Ollama", "the server lab".
        prefix: Of the capabilities' ids: `ollama`, `openai:lab`.
        backend: Kind of runner.
        concurrency: Requests at once, for each model.
        price: US dollars for a thousand tokens.
        priority: Of `router.capability.PRIORITIES`, or empty.
        latency_class: Of `router.capability.LATENCY_CLASSES`, or empty.
        residency: Where the data stays, or empty.
        completes: Its chat models continue plain text, too.
        operations: What the models do where their names tell otherwise; empty leaves it to names.
    """

    source: str
    prefix: str
    backend: str
    concurrency: int
    price: float = 0.0
    priority: str = ""
    latency_class: str = ""
    residency: str = ""
    completes: bool = True
    operations: tuple[str, ...] = ()


def capabilities_of(model: str, facts: ModelFacts, terms: Terms) -> list[Capability]:
    """Returns the capabilities of one model of a server; none where its name is too long for an advert.

    Args:
        model: The server's own name for it, which requests use.
        facts: What the server says of it.
        terms: Of the server.
    """
    operations = _operations(model, facts, terms)
    found = []
    for operation in operations:
        # Few models do several things; all but the first get an id of their own.
        key = f"{terms.prefix}:{model}" if operation == operations[0] else f"{terms.prefix}:{model}#{operation}"
        if max(len(key), len(model)) > limits.NAME_CHARS:
            continue
        description, examples = _text(operation, model, facts, terms.source)
        found.append(
            Capability(
                id=key,
                operation=operation,
                model=model,
                description=description[:1_024],
                examples=examples,
                general=True,
                concurrency=terms.concurrency,
                cost_per_1k=terms.price,
                backend=terms.backend,
                features=_features(model, facts, terms) if operation == CHAT else (),
                size_b=billions_of(facts.size) or billions_of(model),
                context=facts.context or (context_of(model) if operation == CHAT else 0),
                device=facts.device,
                latency_class=terms.latency_class,
                priority=terms.priority,
                residency=terms.residency,
            )
        )
    return found


def _operations(model: str, facts: ModelFacts, terms: Terms) -> list[str]:
    does = facts.operations if facts.operations is not None else operations_of(model)
    if terms.operations:
        chosen = frozenset(terms.operations)
        # Of a server that does several things each model does what its name says, if the server does that.
        does = does & chosen or chosen - ({COMPLETIONS} if CHAT in chosen else set())
    return [operation for operation in SERVED if operation in does]


def _features(model: str, facts: ModelFacts, terms: Terms) -> tuple[str, ...]:
    features = set(facts.features if facts.features is not None else features_of(model))
    if COMPLETIONS in terms.operations if terms.operations else terms.completes:
        features.add(COMPLETIONS)
    return tuple(feature for feature in FEATURES if feature in features)


def _text(operation: str, model: str, facts: ModelFacts, source: str) -> tuple[str, tuple[str, ...]]:
    context = f"{facts.context} tokens of context" if facts.context else ""
    about = ", ".join(part for part in (facts.family, facts.size, facts.quantisation, context) if part)
    what, examples = _chat_text(model, facts) if operation == CHAT else _WORKS[operation]
    # The sentence ends before what a chat model is good at begins.
    text = f"{model} on {source}{f' ({about})' if about else ''}: {what}{'' if what.endswith('.') else '.'}"
    return f"{text} {facts.note}".strip(), examples


def _chat_text(model: str, facts: ModelFacts) -> tuple[str, tuple[str, ...]]:
    lower = model.lower()
    kinds = [(what, examples) for pattern, what, examples in _KINDS if pattern.search(lower)]
    sees = VISION in (facts.features or features_of(model)) and ANY_FEATURE not in (facts.features or ())
    if sees and not any("images" in what for what, _ in kinds):
        kinds += [(what, examples) for _, what, examples in _KINDS if "images" in what]
    special = f" It {' and '.join(what for what, _ in kinds)}." if kinds else ""
    return f"a language model that answers any prompt.{special}", tuple(text for _, texts in kinds for text in texts)
