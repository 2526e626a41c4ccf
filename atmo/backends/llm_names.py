"""What the name of a model tells: what it does, what it may be given, how large it is. No I/O.

Servers list names and little else. The rules are a guess that a server's own word (Ollama's `capabilities`, LM Studio's
`type`, llama-server's modalities) overrides. Moderation, reranking, video and realtime models do nothing that this
version routes and are not offered. What nobody can tell of a model of an unknown family is taken to be there: the
server refuses what it cannot do, and a request that nobody is tried for helps no one.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from atmo.router.capability import (
    ANY_FEATURE,
    AUDIO,
    CHAT,
    COMPLETIONS,
    EMBEDDINGS,
    IMAGES,
    JSON_SCHEMA,
    SPEECH,
    TOOLS,
    TRANSCRIPTION,
    VISION,
)

SERVED = (CHAT, COMPLETIONS, EMBEDDINGS, IMAGES, SPEECH, TRANSCRIPTION)
"""Operations of models that servers list; the first ones keep the plain id where a model does several."""

MAX_BILLIONS = 100_000.0


def _words(*words: str) -> str:
    """Returns a pattern for any of `words` as a part of a name of its own."""
    return rf"(?:^|[/_.:-])(?:{'|'.join(words)})(?=[._:/-]|\d|$)"


_NOTHING = re.compile(
    r"rerank|cross-encoder|moderation|realtime|guard\d*(?:[._:-]|$)|shieldgemma|colbert|" + _words("sora", "veo")
)
_OPERATIONS: tuple[tuple[re.Pattern[str], str], ...] = (
    (
        re.compile(r"whisper|transcri|sensevoice|parakeet|" + _words("asr", "canary", "moonshine")),
        TRANSCRIPTION,
    ),
    (
        re.compile(
            r"text-to-speech|speecht5|cosyvoice|chatterbox|" + _words("x?tts", "kokoro", "piper", "bark", "orpheus")
        ),
        SPEECH,
    ),
    (
        re.compile(
            r"dall-e|stable-diffusion|sdxl|gpt-image|chatgpt-image|qwen-image|z-image|kandinsky|hidream|"
            + _words("flux", "imagen", "sd3", "sd-turbo", "grok-2-image", "seedream", "dreamshaper")
        ),
        IMAGES,
    ),
    (re.compile(_words("babbage", "davinci") + r"|gpt-3\.5-turbo-instruct"), COMPLETIONS),
    (
        re.compile(
            r"embed|all-mpnet|paraphrase-|"
            + _words("bge", "e5", "gte", "minilm", "jina-clip", "mxbai", "sfr", "uae", "stella", "sentence-t5")
            + r"|(?:^|[/_-])(?:all-minilm|labse|instructor)"
        ),
        EMBEDDINGS,
    ),
)

_VISION = re.compile(
    r"llava|vision|[-_]?vl(?:[-_:.]|\d|$)|moondream|pixtral|bakllava|minicpm-[ov]|multimodal|omni|molmo|idefics|paligemma"
    r"|internvl|smolvlm|glm-4\.?\d*v|gpt-4o|gpt-4-turbo|gpt-4\.1|gpt-5|chatgpt-4o|claude-(?:3|opus|sonnet|haiku|[4-9])"
    r"|gemini|gemma-?3n?(?!.*(?:[:_-]270m|[:_-]1b))|llama-?4|mistral-small-?3\.[1-9]|mistral-(?:small|medium)-(?:latest|250[3-9])"
    r"|grok-(?:2-vision|4)|nova-(?:lite|pro|premier)|deepseek-ocr|(?:^|[/_-])o(?:1|3|4-mini)(?:-20|-pro|$)"
)
_AUDIO = re.compile(
    r"gpt-4o(?:-mini)?-audio|gpt-audio|qwen-?2(?:\.\d)?-audio|omni|ultravox|voxtral|phi-4-multimodal|gemini|minicpm-o"
    r"|gemma-?3n"
)
_NO_TOOLS = re.compile(
    r"llama-?2(?![\d.])|tinyllama|vicuna|alpaca|codellama|(?:^|[/_-])gemma(?:-?2)?(?:[:_-]|$)|phi-?[123](?![\d.])|falcon|mpt-"
    r"|starcoder|wizardlm|orca|stablelm|zephyr|dolly|pythia|gpt-?2(?![\d.])|gpt-j|gpt-neo|opt-|bloom|moondream|bakllava|llava"
    r"|o1-(?:mini|preview)|(?:^|[/_-])base(?:[:_-]|$)"
)
_FAMILIES = re.compile(
    r"llama|qwen|mi[sx]tral|ministral|magistral|devstral|codestral|gemma|phi-?\d|deepseek|gpt-|command-|granite|falcon|yi-|glm"
    r"|kimi|smollm|olmo|hermes|vicuna|starcoder|nemotron|internlm|exaone|solar|stablelm|(?:^|[/_-])o[134](?:[._-]|$)|qwq|mpt-"
    r"|claude|gemini|grok|aya|dbrx|jamba|lfm|minimax|ernie|hunyuan|wizardlm|orca|zephyr"
)
"""Families of which it is known whether they take images and sound; of others nothing is ruled out."""

_CONTEXTS: tuple[tuple[re.Pattern[str], int], ...] = (
    (re.compile(r"(?:^|/)gpt-4\.1"), 1_047_576),
    (re.compile(r"(?:^|/)gpt-5"), 400_000),
    (re.compile(r"(?:^|/)(?:gpt-4o|chatgpt-4o|gpt-4-turbo)"), 128_000),
    (re.compile(r"(?:^|/)(?:o1|o3|o4-mini)(?:-(?!mini|preview)|$)"), 200_000),
    (re.compile(r"(?:^|/)gpt-3\.5-turbo(?!-instruct)"), 16_385),
    (re.compile(r"(?:^|/)claude-"), 200_000),
    (re.compile(r"(?:^|/)gemini-(?:1\.5-flash|2)"), 1_048_576),
)
"""Of models whose server does not tell. Source: the makers' documentation, which may grow; a guess that errs low."""

_SIZE = re.compile(r"(?<![a-z0-9.])e?(?:(\d{1,3})x)?(\d{1,5}(?:\.\d{1,3})?)[ _-]?([bmt])(?![a-z0-9])")


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What a server tells about a model beyond its name; None, empty or 0 where it says nothing.

    Attributes:
        operations: Of `router.capability.OPERATIONS`.
        features: Of `vision`, `audio`, `tools` and `json_schema`.
        family: Such as `llama`.
        size: Such as `8.0B`.
        context: Tokens.
        quantisation: Such as `Q4_K_M`.
        device: `cpu` or `gpu`.
        note: A sentence to add.
    """

    operations: frozenset[str] | None = None
    features: frozenset[str] | None = None
    family: str = ""
    size: str = ""
    context: int = 0
    quantisation: str = ""
    device: str = ""
    note: str = ""


def operations_of(name: str) -> frozenset[str]:
    """Returns what a model of this name does; nothing where it does nothing that this version routes."""
    lower = name.lower()
    if _NOTHING.search(lower):
        return frozenset()
    return frozenset({next((operation for pattern, operation in _OPERATIONS if pattern.search(lower)), CHAT)})


def is_known_family(name: str) -> bool:
    """Returns whether a model of this name is a language model of a family that is known here."""
    return bool(_FAMILIES.search(name.lower()))


def features_of(name: str) -> frozenset[str]:
    """Returns what a chat model of this name may be given; `ANY_FEATURE` alone where its family is not known."""
    lower = name.lower()
    found = {VISION} if _VISION.search(lower) else set()
    if _AUDIO.search(lower):
        found.add(AUDIO)
    if not found and not is_known_family(lower):
        return frozenset({ANY_FEATURE})
    # Every server that is worth its name holds answers to a schema, whatever the model.
    found.add(JSON_SCHEMA)
    if not _NO_TOOLS.search(lower):
        found.add(TOOLS)
    return frozenset(found)


def billions_of(text: str) -> float:
    """Returns how many billions of parameters a name or a size such as `8x7B` tells; 0 where it tells none."""
    match = _SIZE.search(text.lower())
    if match is None:
        return 0.0
    experts, number, unit = match.groups()
    value = float(number) * int(experts or 1) * {"b": 1.0, "m": 0.001, "t": 1_000.0}[unit]
    return round(value, 4) if value <= MAX_BILLIONS else 0.0


def context_of(name: str) -> int:
    """Returns the tokens of a well-known model of a cloud; 0 where nobody knows."""
    return next((tokens for pattern, tokens in _CONTEXTS if pattern.search(name.lower())), 0)
