"""Whether the documentation answers what people ask, and keeps silent about everything else.

The weight of words and the threshold in `atmo.backends.passage_index` were chosen on these questions, 30 more, and 150
requests of CLINC150 as things that are not in the documentation: of those none but "what is your name" was above 0.34.
"""

import pytest
import trio

from atmo.backends.embedder import Embedder
from atmo.backends.passage_index import RELEVANT, Hit, PassageIndex
from atmo.backends.rag import RagBackend, builtin_docs
from atmo.router.choice import THRESHOLD

EMBEDDER = Embedder()

ANSWERED = {
    "How do I add a second machine to the mesh?": "meshes.md#Adding a second machine",
    "What is a join code?": "meshes.md#Adding a second machine",
    "my invitation expired, what now?": "troubleshooting.md#The join code is refused",
    "which port do I have to open in the firewall?": "meshes.md#Which ports",
    "how can I kick out a stolen laptop": "security.md#When a machine is lost",
    "list all nodes": "meshes.md#Seeing which machines",
    "how do I import an ONNX file": "models.md#Importing a model",
    "download a model from another computer": "models.md#Pulling a model",
    "can I pull a certain version range?": "models.md#Pulling a model",
    "does it work with ollama?": "language-models.md#Using Ollama",
    "use vLLM or a cloud provider with an API key": "language-models.md#Adding an OpenAI-compatible server",
    "how do I use model auto": "endpoint.md#Letting the mesh choose",
    "why did my request go to that node?": "endpoint.md#Seeing why",
    "what does a 503 error mean": "endpoint.md#Errors of the endpoint",
    "make embeddings for a list of sentences": "embeddings.md#Making sentence embeddings",
    "train a classifier on my data": "machine-learning.md#Training a classifier",
    "detect outliers in sensor readings": "machine-learning.md#Finding anomalies",
    "how can I chat with my own notes?": "documents.md#Adding a folder",
    "is the traffic between machines encrypted?": "security.md#Encryption",
    "are pickle files dangerous": "security.md#Safe handling",
    "port 11451 is already in use": "troubleshooting.md#The port is already in use",
    "what can I do in the shell": "getting-started.md#The shell",
    "ATMO_HOME": "getting-started.md#Where a node keeps its files",
    "x-atmosphere-reason": "endpoint.md#Seeing why",
    "How do I let another machine into my mesh?": "meshes.md#Adding a second machine",
    "invite my colleague's computer": "meshes.md#Adding a second machine",
    "can I use the same code twice?": "meshes.md#How long an invitation",
    "how long is an invitation valid?": "meshes.md#How long an invitation",
    "leave a mesh": "meshes.md#Leaving a mesh",
    "give a friend admin rights": "meshes.md#Roles",
    "what happens if a computer is switched off?": "meshes.md#What happens when",
    "the two computers cannot find one another": "troubleshooting.md#The machines do not see",
    "how do I share a model with my other computers?": "models.md#Sharing a model",
    "where are my models saved on disk?": "models.md#Where models are stored",
    "how do I let my PDF and text files be searched?": "documents.md#Adding a folder",
    "use GPT through my own API key": "language-models.md#Adding an OpenAI-compatible server",
    "how do I rename my node?": "getting-started.md#Changing the name",
    "can I run it without internet?": "getting-started.md#Working offline",
    "I lost my phone, how do I block it?": "security.md#When a machine is lost",
    "How do I make an API key for another machine?": "keys.md#Making a key",
    "atmo key create": "keys.md#Making a key",
    "How do I open the endpoint to the network?": "keys.md#Opening the endpoint",
    "can my phone use the endpoint?": "keys.md#Opening the endpoint",
    "limit how many requests a key may send": "keys.md#Limiting a key",
    "take a key back": "keys.md#Seeing what keys do",
    "why do I get 401 invalid_api_key?": "keys.md#A key is refused",
    "CORS": "keys.md#Using the endpoint from a web page",
    "where do settings come from?": "configuration.md#Settings, and which of them wins",
    "is my config.json right?": "configuration.md#Showing and checking",
    "What is the provider mode?": "configuration.md#Modes of a node",
    "run a node headless": "configuration.md#Modes of a node",
    "keep a model private": "configuration.md#Hiding models",
    "How do I run a GGUF model?": "language-models.md#Running a GGUF model",
    "does it work with LM Studio?": "language-models.md#Servers that are found",
    "does it support the responses api?": "endpoint.md#The Responses API",
    "a request must not leave this computer": "endpoint.md#Constraints",
    "how can I watch the node with Prometheus?": "watching.md#Metrics",
    "where is the access log?": "watching.md#The access log",
    "send traces to OpenTelemetry": "watching.md#Tracing requests",
    "forecast my sales": "machine-learning.md#Forecasting",
    "the gguf model does not run": "troubleshooting.md#A GGUF file",
}

NOT_ANSWERED = (
    "Write a poem about the sea",
    "What is the capital of France?",
    "Explain quantum entanglement",
    "how do I cook risotto",
    "What is 17 times 23?",
    "Who won the world cup in 1998?",
    "Give me a workout plan",
    "What should I name my cat?",
    "hello there",
    "how do I fix a flat tyre",
    "tell me a joke",
    "how do plants grow",
)


async def _search_all() -> dict[str, list[Hit]]:
    project = builtin_docs()
    assert project is not None
    index = PassageIndex(project.folder, EMBEDDER)
    await index.refresh(600)
    return {question: await index.search(question, 3) for question in (*ANSWERED, *NOT_ANSWERED)}


@pytest.fixture(scope="module")
def hits() -> dict[str, list[Hit]]:
    return trio.run(_search_all)


@pytest.mark.parametrize("question", ANSWERED)
def test_the_passage_that_answers_is_among_the_first_three(hits: dict[str, list[Hit]], question: str) -> None:
    found = [hit.passage.source for hit in hits[question] if hit.score >= RELEVANT]
    assert any(source.startswith(ANSWERED[question]) for source in found)


@pytest.mark.parametrize("question", NOT_ANSWERED)
def test_nothing_is_relevant_to_other_questions(hits: dict[str, list[Hit]], question: str) -> None:
    assert hits[question][0].score < RELEVANT


async def test_routing_by_meaning_finds_the_documentation() -> None:
    project = builtin_docs()
    assert project is not None
    (capability,) = await RagBackend([project], EMBEDDER).discover()
    texts = await EMBEDDER.embed([capability.description, *capability.examples])
    near = (await EMBEDDER.embed(list(ANSWERED)) @ texts.T).max(axis=1)
    far = (await EMBEDDER.embed(NOT_ANSWERED) @ texts.T).max(axis=1)
    assert (near >= THRESHOLD).mean() > 0.6
    assert far.max() < THRESHOLD
