"""What the name of a model tells: whether it embeds, chats or does neither, and what it is good at. No I/O.

Servers list names and little else. The rules are a guess that a server's own word (Ollama's `capabilities`) overrides:
embedding models are those whose name says embed, or one of the well-known families. Speech, image, moderation and
reranking models are not offered, for they answer neither chat nor embeddings.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from atmo.router.capability import CHAT, EMBEDDINGS, Capability
from atmo.wire import limits

_EMBEDDING = re.compile(
    r"embed|(^|[/_-])(bge|e5|gte|minilm|jina-clip|mxbai|nomic-bert|sfr|uae|stella|instructor|sentence-t5|labse)([.:_-]|$)"
    r"|all-mpnet|paraphrase-"
)
_NEITHER = re.compile(
    r"rerank|cross-encoder|whisper|(^|[/_-])tts([._-]|$)|text-to-speech|dall-e|stable-diffusion|flux|sdxl|(^|[/_-])sora"
    r"|moderation|transcribe|realtime|gpt-image|(^|[/_-])babbage|(^|[/_-])davinci|guard\d*([._:-]|$)|shieldgemma|imagen|veo"
)
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


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What a server tells about a model beyond its name; empty or 0 where it says nothing.

    Attributes:
        operations: Of `chat` and `embeddings`; None leaves it to the name.
        family: Such as `llama`.
        size: Such as `8.0B`.
        context: Tokens.
        vision: It takes images.
        note: A sentence to add.
    """

    operations: frozenset[str] | None = None
    family: str = ""
    size: str = ""
    context: int = 0
    vision: bool = False
    note: str = ""


def operations_of(name: str) -> frozenset[str]:
    """Returns what a model of this name does: chat, embeddings, or nothing that this version routes."""
    lower = name.lower()
    if _NEITHER.search(lower):
        return frozenset()
    return frozenset({EMBEDDINGS}) if _EMBEDDING.search(lower) else frozenset({CHAT})


def capabilities_of(
    model: str, source: str, prefix: str, facts: ModelFacts, *, backend: str, concurrency: int, price: float = 0.0
) -> list[Capability]:
    """Returns the capabilities of one model of a server; none where its name is too long for an advert.

    Args:
        model: The server's own name for it, which requests use.
        source: Where it runs, for people: "Ollama", "the server lab".
        prefix: Of the capability's id: `ollama`, `openai:lab`.
        facts: What the server says of it.
        backend: Kind of runner.
        concurrency: Requests at once.
        price: US dollars for a thousand tokens.
    """
    operations = facts.operations if facts.operations is not None else operations_of(model)
    found = []
    for operation in sorted(operations & {CHAT, EMBEDDINGS}):
        # Few models do both; the second gets an id of its own.
        key = f"{prefix}:{model}" if operation == CHAT or CHAT not in operations else f"{prefix}:{model}#embeddings"
        if max(len(key), len(model)) > limits.NAME_CHARS:
            continue
        description, examples = (_chat_text if operation == CHAT else _embedding_text)(model, source, facts)
        found.append(
            Capability(
                id=key,
                operation=operation,
                model=model,
                description=description[:1_024],
                examples=examples,
                general=True,
                concurrency=concurrency,
                cost_per_1k=price,
                backend=backend,
            )
        )
    return found


def _chat_text(model: str, source: str, facts: ModelFacts) -> tuple[str, tuple[str, ...]]:
    lower = model.lower()
    kinds = [(what, examples) for pattern, what, examples in _KINDS if pattern.search(lower)]
    if facts.vision and not any("images" in what for what, _ in kinds):
        kinds += [(what, examples) for _, what, examples in _KINDS if "images" in what]
    about = ", ".join(part for part in (facts.family, facts.size, _context(facts.context)) if part)
    special = f" It {' and '.join(what for what, _ in kinds)}." if kinds else ""
    text = f"{model} on {source}{f' ({about})' if about else ''}: a language model that answers any prompt.{special}"
    return f"{text} {facts.note}".strip(), tuple(example for _, examples in kinds for example in examples)


def _embedding_text(model: str, source: str, facts: ModelFacts) -> tuple[str, tuple[str, ...]]:
    about = ", ".join(part for part in (facts.family, facts.size, _context(facts.context)) if part)
    text = f"{model} on {source}{f' ({about})' if about else ''}: turns text into vectors for search by meaning."
    return f"{text} {facts.note}".strip(), ()


def _context(tokens: int) -> str:
    return f"{tokens} tokens of context" if tokens else ""
