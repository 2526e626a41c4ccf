"""A GGUF model of the store, run by llama.cpp on one machine and asked from another."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.e2e.processes import NodeProcess, join, wait_for

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))

from make_gguf import make

pytestmark = pytest.mark.e2e
pytest.importorskip("xllamacpp", reason="the extra gguf is not installed")


def client(node: NodeProcess) -> openai.OpenAI:
    return openai.OpenAI(base_url=node.url, api_key="none", max_retries=0, timeout=60)


def children(pid: int) -> list[int]:
    """Returns the processes that run models for a node."""
    found = " ".join(path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/children")).split()
    return [int(child) for child in found if b"gguf_child" in Path(f"/proc/{child}/cmdline").read_bytes()]


def test_a_model_is_imported_asked_and_reached_through_the_mesh(tmp_path: Path) -> None:
    make(tmp_path / "tiny.gguf")
    arguments = ("--name", "tiny", "--version", "1.0.0", "--capabilities", "chat", "--type", "llm")
    with NodeProcess(tmp_path / "anna", "anna") as anna, NodeProcess(tmp_path / "ben", "ben") as ben:
        anna.atmo("mesh", "create", "lab")
        join(anna, ben)
        printed = anna.atmo("model", "import", str(tmp_path / "tiny.gguf"), *arguments)
        assert printed.startswith("Imported tiny 1.0.0: gguf")
        here, there = client(anna), client(ben)
        wait_for(lambda: "tiny" in [model.id for model in here.models.list()])
        assert not children(anna.info["pid"]), "a model is loaded when it is asked"
        messages: Any = [{"role": "user", "content": "Hello"}]
        answer = here.chat.completions.create(model="tiny", messages=messages, max_tokens=12, seed=4)
        text = answer.choices[0].message.content
        assert text
        [child] = children(anna.info["pid"])
        wait_for(lambda: "tiny" in [model.id for model in there.models.list()])
        stream: Any = there.chat.completions.create(model="tiny", messages=messages, max_tokens=12, seed=4, stream=True)
        assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == text
        assert children(anna.info["pid"]) == [child]
        assert not children(ben.info["pid"])
        assert here.completions.create(model="tiny", prompt="Once", max_tokens=3).usage is not None
        messages[0]["content"] = "a" * 30_000
        with pytest.raises(openai.BadRequestError, match="maximum context length") as caught:
            there.chat.completions.create(model="tiny", messages=messages)
        assert caught.value.code == "context_length_exceeded"
        assert "yes" in anna.atmo("model", "list")
        anna.stop()
        wait_for(lambda: not Path(f"/proc/{child}").exists())
