"""Writes a language model with random weights as a small GGUF file that llama.cpp loads and runs.

    python tools/make_gguf.py tiny.gguf
    python tools/make_gguf.py --kind embedding tiny-embedder.gguf
    python tools/make_gguf.py --width 512 --layers 8 --context 2048 big.gguf

It stands in where a test needs a real runner and no wisdom: it answers with printable gibberish, always the same for
the same seed, ends its answers by itself, keeps to grammars and JSON schemas, and calls the tools it is told to call.

The chat model is of architecture `llama` with one token for each byte (`gpt2` tokenizer without merges), so a prompt
has as many tokens as bytes. Channel 0 of its hidden state is the same for all tokens and no layer writes to it, which
makes the output matrix's column for it a bias: the printable bytes are likely, quotes and the end of an answer more so,
all others never drawn. The embedding model is a `bert` with a letter for each token and mean pooling.

The writer is our own: what the `gguf` package has beyond these lines, this needs nothing of.
Source: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import argparse
import string
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

ALIGNMENT = 32
_U32, _I32, _F32, _BOOL, _STRING, _ARRAY = 4, 5, 6, 7, 8, 9
_TYPE_F32, _TYPE_F16 = 0, 1
_NORMAL, _CONTROL = 1, 3
_MEAN = 1

Floats = NDArray[np.float32]

CHAT_TEMPLATE = """\
{%- if tools %}
{{- '<|im_start|>system\\n' }}
{%- if messages[0].role == 'system' %}{{- messages[0].content + '\\n\\n' }}{%- endif %}
{{- '# Tools\\n\\nFunctions are listed within <tools></tools>:\\n<tools>' }}
{%- for tool in tools %}{{- '\\n' }}{{- tool | tojson }}{%- endfor %}
{{- '\\n</tools>\\n\\nFor each call give a JSON object as here:\\n' }}
{{- '<|tool|>{"name": <function-name>, "arguments": <args-json-object>}<|end_tool|><|im_end|>\\n' }}
{%- elif messages[0].role == 'system' %}
{{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
{%- if message.role == 'user' or (message.role == 'system' and not loop.first) %}
{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
{%- elif message.role == 'assistant' %}
{{- '<|im_start|>assistant' }}
{%- if message.content %}{{- '\\n' + message.content }}{%- endif %}
{%- for tool_call in message.tool_calls %}
{%- if tool_call.function %}{%- set tool_call = tool_call.function %}{%- endif %}
{{- '\\n<|tool|>{"name": "' + tool_call.name + '", "arguments": ' }}
{{- tool_call.arguments if tool_call.arguments is string else tool_call.arguments | tojson }}
{{- '}<|end_tool|>' }}
{%- endfor %}
{{- '<|im_end|>\\n' }}
{%- elif message.role == 'tool' %}
{%- if loop.first or messages[loop.index0 - 1].role != 'tool' %}{{- '<|im_start|>user' }}{%- endif %}
{{- '\\n<tool_response>\\n' + message.content + '\\n</tool_response>' }}
{%- if loop.last or messages[loop.index0 + 1].role != 'tool' %}{{- '<|im_end|>\\n' }}{%- endif %}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}
"""
"""ChatML with a token that begins a tool call and one that ends it, which llama.cpp finds out by itself."""

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|tool|>", "<|end_tool|>")
LIKELY = {'"': 3.0, "}": 2.0, "]": 2.0, " ": 2.0, "<|im_end|>": 2.5, "<|tool|>": 2.0, "<|end_tool|>": 1.0}
"""Logits above those of other printable bytes, so that texts, objects and answers end after about 20 to 100 tokens."""
NEVER = -40.0
SPREAD = 0.8
"""Standard deviation of the logits of printable bytes."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What the model is like.

    Attributes:
        width: Of the hidden state; a multiple of 32.
        layers: Their number.
        context: Tokens it was made for.
        seed: Of the weights.
        half: Matrices as 16-bit floats.
        template: The chat template; none where empty.
    """

    width: int = 64
    layers: int = 2
    context: int = 8_192
    seed: int = 1
    half: bool = False
    template: str = CHAT_TEMPLATE

    @property
    def heads(self) -> int:
        """Heads of attention."""
        return max(1, self.width // 32)


def byte_symbols() -> list[str]:
    """Returns the character that stands for each byte in vocabularies of the kind `gpt2`."""
    plain = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in plain]
    return [chr(byte) if byte in plain else chr(256 + others.index(byte)) for byte in range(256)]


def chat_model(shape: Shape) -> tuple[dict[str, Any], dict[str, Floats]]:
    """Returns metadata and tensors of a model that chats."""
    random = np.random.default_rng(shape.seed)
    width, hidden, tokens = shape.width, shape.width * 2, [*byte_symbols(), *SPECIAL]
    metadata = {
        "general.architecture": "llama",
        "general.name": "Random bytes",
        "general.file_type": _U32_of(1 if shape.half else 0),
        "llama.vocab_size": _U32_of(len(tokens)),
        "llama.context_length": _U32_of(shape.context),
        "llama.embedding_length": _U32_of(width),
        "llama.block_count": _U32_of(shape.layers),
        "llama.feed_forward_length": _U32_of(hidden),
        "llama.attention.head_count": _U32_of(shape.heads),
        "llama.attention.head_count_kv": _U32_of(shape.heads),
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "llama.rope.dimension_count": _U32_of(width // shape.heads),
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [_NORMAL] * 256 + [_CONTROL] * len(SPECIAL),
        "tokenizer.ggml.merges": [],
        "tokenizer.ggml.bos_token_id": _U32_of(256),
        "tokenizer.ggml.eos_token_id": _U32_of(258),
        "tokenizer.ggml.padding_token_id": _U32_of(256),
        "tokenizer.ggml.add_bos_token": False,
    }
    if shape.template:
        metadata["tokenizer.chat_template"] = shape.template

    def matrix(rows: int, columns: int) -> Floats:
        return np.asarray(random.standard_normal((rows, columns)) / np.sqrt(columns), np.float32)

    embedding = random.standard_normal((len(tokens), width)).astype(np.float32)
    embedding[:, 0] = 4.0
    tensors = {"token_embd.weight": embedding}
    for layer in range(shape.layers):
        block = {
            "attn_norm": np.ones(width, np.float32),
            "attn_q": matrix(width, width),
            "attn_k": matrix(width, width),
            "attn_v": matrix(width, width),
            "attn_output": _silent(matrix(width, width)),
            "ffn_norm": np.ones(width, np.float32),
            "ffn_gate": matrix(hidden, width),
            "ffn_up": matrix(hidden, width),
            "ffn_down": _silent(matrix(width, hidden)),
        }
        tensors |= {f"blk.{layer}.{name}.weight": value for name, value in block.items()}
    tensors["output_norm.weight"] = np.ones(width, np.float32)
    tensors["output.weight"] = _output(random, tokens, width)
    return metadata, tensors


def _silent(matrix: Floats) -> Floats:
    """A matrix that leaves channel 0 of the hidden state alone."""
    matrix[0] = 0.0
    return matrix


def _output(random: np.random.Generator, tokens: Sequence[str], width: int) -> Floats:
    """The last matrix: random logits for what may be said, and the biases in column 0, which is about 2.5 to 4."""
    matrix: Floats = np.asarray(random.standard_normal((len(tokens), width)) * SPREAD / np.sqrt(width), np.float32)
    said = set(string.printable[:-5]) | {" "}
    for index, token in enumerate(tokens):
        text = chr(index) if index < 256 else token
        matrix[index, 0] = (LIKELY.get(text, 0.0) if text in said or text in LIKELY else NEVER) / 3
    return matrix


def embedding_model(shape: Shape) -> tuple[dict[str, Any], dict[str, Floats]]:
    """Returns metadata and tensors of a model that turns texts into vectors."""
    random = np.random.default_rng(shape.seed)
    width, hidden = shape.width, shape.width * 2
    letters = [*string.ascii_lowercase, *string.digits]
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokens += [f"\u2581{letter}" for letter in letters] + letters + [f"\u2581{mark}" for mark in string.punctuation]
    context = min(shape.context, 512)
    metadata = {
        "general.architecture": "bert",
        "general.name": "Random letters",
        "general.file_type": _U32_of(1 if shape.half else 0),
        "bert.context_length": _U32_of(context),
        "bert.embedding_length": _U32_of(width),
        "bert.block_count": _U32_of(shape.layers),
        "bert.feed_forward_length": _U32_of(hidden),
        "bert.attention.head_count": _U32_of(shape.heads),
        "bert.attention.layer_norm_epsilon": 1e-12,
        "bert.attention.causal": False,
        "bert.pooling_type": _U32_of(_MEAN),
        "tokenizer.ggml.model": "bert",
        "tokenizer.ggml.token_type_count": _U32_of(2),
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [_CONTROL] * 5 + [_NORMAL] * (len(tokens) - 5),
        "tokenizer.ggml.padding_token_id": _U32_of(0),
        "tokenizer.ggml.unknown_token_id": _U32_of(1),
        "tokenizer.ggml.cls_token_id": _U32_of(2),
        "tokenizer.ggml.seperator_token_id": _U32_of(3),
        "tokenizer.ggml.mask_token_id": _U32_of(4),
    }
    tensors: dict[str, Floats] = {}

    def linear(name: str, rows: int, columns: int) -> None:
        weights = random.standard_normal((rows, columns)) / np.sqrt(columns)
        tensors[f"{name}.weight"] = weights.astype(np.float32)
        tensors[f"{name}.bias"] = np.zeros(rows, np.float32)

    def norm(name: str) -> None:
        tensors[f"{name}.weight"] = np.ones(width, np.float32)
        tensors[f"{name}.bias"] = np.zeros(width, np.float32)

    tensors["token_embd.weight"] = random.standard_normal((len(tokens), width)).astype(np.float32)
    tensors["position_embd.weight"] = (random.standard_normal((context, width)) / 4).astype(np.float32)
    tensors["token_types.weight"] = np.zeros((2, width), np.float32)
    norm("token_embd_norm")
    for layer in range(shape.layers):
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            linear(f"blk.{layer}.{name}", width, width)
        norm(f"blk.{layer}.attn_output_norm")
        linear(f"blk.{layer}.ffn_up", hidden, width)
        linear(f"blk.{layer}.ffn_down", width, hidden)
        norm(f"blk.{layer}.layer_output_norm")
    return metadata, tensors


class _U32_of(int):  # noqa: N801 - it reads as a word in the tables above
    """A number that the file keeps as an unsigned one of 32 bits."""


def write_gguf(path: Path, metadata: Mapping[str, Any], tensors: Mapping[str, Floats], half: bool = False) -> None:
    """Writes a GGUF file of version 3; with `half`, matrices as 16-bit floats."""
    head = bytearray(b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(metadata)))
    for key, value in metadata.items():
        head += _text(key) + _value(value)
    stored = {name: array.astype("<f2" if half and array.ndim == 2 else "<f4") for name, array in tensors.items()}
    offset = 0
    for name, array in stored.items():
        kind = _TYPE_F16 if array.dtype.itemsize == 2 else _TYPE_F32
        sizes = array.shape[::-1]
        head += _text(name) + struct.pack(f"<I{len(sizes)}QIQ", len(sizes), *sizes, kind, offset)
        offset += _padded(array.nbytes)
    with path.open("wb") as file:
        file.write(head.ljust(_padded(len(head)), b"\0"))
        for array in stored.values():
            file.write(array.tobytes().ljust(_padded(array.nbytes), b"\0"))


def _padded(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def _text(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def _value(value: Any) -> bytes:
    kind, data = _typed(value)
    return struct.pack("<I", kind) + data


def _typed(value: Any) -> tuple[int, bytes]:
    match value:
        case bool():
            return _BOOL, struct.pack("<?", value)
        case _U32_of():
            return _U32, struct.pack("<I", value)
        case int():
            return _I32, struct.pack("<i", value)
        case float():
            return _F32, struct.pack("<f", value)
        case str():
            return _STRING, _text(value)
        case list():
            items = [_typed(item) for item in value]
            kind = items[0][0] if items else _STRING
            return _ARRAY, struct.pack("<IQ", kind, len(items)) + b"".join(data for _, data in items)
    raise TypeError(f"a GGUF file cannot keep {type(value).__name__}")


def make(path: Path, kind: str = "chat", shape: Shape = Shape()) -> None:
    """Writes one model.

    Args:
        path: The file.
        kind: `chat` or `embedding`.
        shape: What it is like.
    """
    metadata, tensors = chat_model(shape) if kind == "chat" else embedding_model(shape)
    write_gguf(path, metadata, tensors, shape.half)


def main() -> None:
    """Reads the command line and writes the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", type=Path, help="the file to write")
    parser.add_argument("--kind", choices=("chat", "embedding"), default="chat")
    parser.add_argument("--width", type=int, default=64, help="of the hidden state, a multiple of 32 [64]")
    parser.add_argument("--layers", type=int, default=2, help="[2]")
    parser.add_argument("--context", type=int, default=8_192, help="tokens the model was made for [8192]")
    parser.add_argument("--seed", type=int, default=1, help="of the weights [1]")
    parser.add_argument("--half", action="store_true", help="matrices as 16-bit floats")
    given = parser.parse_args()
    if given.width < 32 or given.width % 32 or given.layers < 1 or given.context < 64:
        parser.error("--width must be a multiple of 32, --layers at least 1, --context at least 64")
    make(given.path, given.kind, Shape(given.width, given.layers, given.context, given.seed, given.half))
    print(f"{given.path}: {given.path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
