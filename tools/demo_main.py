"""The main job: three peers become one mesh, share a model, and answer one endpoint.

Usage: tools/demo [--keep]. With --keep the mesh stays up until Ctrl-C.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from demo_peers import DemoError, Peer, Result, running, wait_for
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

NAMES = ("anna", "ben", "cleo")
MODEL = "handwritten-digits"
TREES = 250
QUESTION = "How do I add a second machine with a join code?"
ANSWER_LINES = 9
PIPE_COLUMNS = 120
TESTED = 12
SENTENCES = ["A cat sleeps on the warm roof.", "A kitten naps in the sun.", "The invoice is due on Friday."]


@dataclass(frozen=True)
class Row:
    """One line of the final table: what ran where, by which path, how long, and why there."""

    what: str
    where: str
    path: str
    seconds: float
    reason: str


@dataclass
class Demo:
    """The peers and what has been seen so far."""

    console: Console
    folder: Path
    peers: list[Peer]
    rows: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    step: int = 0
    kept: bool = False

    def do(self, title: str, work: Callable[[], Result]) -> Result:
        """Runs one step, then prints a line about it and the notes that it took."""
        self.step += 1
        self.notes = []
        started = time.monotonic()
        with self.console.status(escape(title)):
            result = work()
        seconds = time.monotonic() - started
        self.console.print(f"[bold]{self.step:>2}.[/] {escape(title)} [dim]{seconds:.1f} s[/]", soft_wrap=True)
        for line in self.notes:
            self.console.print(f"    [dim]{escape(line)}[/]", soft_wrap=True)
        return result

    def note(self, *lines: str) -> None:
        self.notes.extend(lines)


def main() -> int:
    parser = argparse.ArgumentParser(prog="tools/demo", description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--keep", action="store_true", help="leave the mesh up until Ctrl-C and print its URLs")
    arguments = parser.parse_args()
    os.environ["NO_PROXY"] = "127.0.0.1"
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell without job control starts us with it ignored
    console = Console(highlight=False, width=None if sys.stdout.isatty() else PIPE_COLUMNS)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="atmosphere-demo-")))
        demo = Demo(console, folder, [Peer(name, folder) for name in NAMES])
        try:
            with running(demo.peers):
                run(demo)
                if arguments.keep:
                    keep(demo)
        except KeyboardInterrupt:
            console.print("Stopped; no process is left.")
            return 0 if demo.kept else 130
        except DemoError as error:
            return explain(demo, str(error))
        except Exception as error:  # noqa: BLE001 a newcomer shall see the peers' logs beside whatever went wrong
            return explain(demo, f"{type(error).__name__}: {error}")
    console.print("All three peers have ended; nothing of the demonstration is left on this machine.")
    return 0


def explain(demo: Demo, message: str) -> int:
    """Prints what went wrong and the end of each peer's log."""
    errors = Console(stderr=True, highlight=False)
    errors.print(f"[red]The demonstration failed[/] in step {demo.step}: {escape(message)}", soft_wrap=True)
    for peer in demo.peers:
        errors.print(f"[dim]--- the end of {peer.name}'s log[/]\n{escape(peer.tail())}", soft_wrap=True)
    return 1


def run(demo: Demo) -> None:
    """Runs every step, then prints the table."""
    anna, ben, cleo = demo.peers
    demo.do("Three peers run, each with a home and a key of its own", lambda: wait_ready(demo))
    demo.do("anna founds a mesh; ben and cleo join it by one-time codes", lambda: form_mesh(demo))
    images, labels = demo.do("Train a classifier of handwritten digits on scikit-learn's data", lambda: train(demo))
    demo.do("Import the trained model on anna", lambda: import_model(demo, anna))
    demo.do("Pull it to ben", lambda: pull(demo, ben, 1))
    demo.do("Pull it to cleo, from both holders at once", lambda: pull(demo, cleo, 2))
    ask(demo, cleo, images, labels)
    show(demo)


def wait_ready(demo: Demo) -> None:
    for peer in demo.peers:
        peer.wait_ready()
        demo.note(f"{peer.name:<5} {peer.url}/v1")


def form_mesh(demo: Demo) -> None:
    """Creates the mesh on the first peer and lets the others in."""
    founder, *others = demo.peers
    founder.atmo("mesh", "create", "demo")
    demo.note(f"{founder.name:<5} $ atmo mesh create demo")
    for peer in others:
        code = founder.atmo("mesh", "invite").splitlines()[-1]
        demo.note(f"{founder.name:<5} $ atmo mesh invite")
        peer.atmo("mesh", "join", code)
        demo.note(f"{peer.name:<5} $ atmo mesh join {code[:24]}...")
    everyone = {peer.name for peer in demo.peers}
    for peer in demo.peers:
        wait_for(f"{peer.name} to see the whole mesh", partial(sees, peer, everyone))


def sees(peer: Peer, everyone: set[str]) -> bool:
    return {node["name"] for node in peer.get("/v1/mesh/nodes")["data"]} == everyone


def train(demo: Demo) -> tuple[Any, Any]:
    """Trains on three quarters of the images and saves the model; returns the other images and their labels."""
    import joblib
    from sklearn.datasets import load_digits
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    parts = train_test_split(digits.data, digits.target, test_size=0.25, random_state=7, stratify=digits.target)
    seen, unseen, seen_labels, unseen_labels = parts
    forest = RandomForestClassifier(n_estimators=TREES, random_state=7).fit(seen, seen_labels)
    file = demo.folder / f"{MODEL}.joblib"
    joblib.dump(forest, file)
    score = forest.score(unseen, unseen_labels)
    demo.note(f"{TREES} trees, {len(seen)} images; {score:.1%} of {len(unseen)} unseen ones are read rightly")
    return unseen, unseen_labels


def import_model(demo: Demo, peer: Peer) -> None:
    """Imports the file by command; the store holds it as ONNX, which runs no code on load."""
    file = demo.folder / f"{MODEL}.joblib"
    arguments = ["model", "import", str(file), "--name", MODEL, "--type", "classifier"]
    arguments += ["--description", "Reads handwritten digits: 64 grey values of an 8 x 8 image."]
    started = time.monotonic()
    told = peer.atmo(*arguments)
    demo.rows.append(Row("import", peer.name, "local", time.monotonic() - started, "the file is on its disk"))
    demo.note(f"{peer.name:<5} $ atmo model import {MODEL}.joblib --type classifier", told)


def pull(demo: Demo, peer: Peer, holders: int) -> None:
    """Pulls the model once the catalog tells of enough holders; checks that all of them sent chunks."""
    wait_for(f"{holders} holders in {peer.name}'s catalog", lambda: held_by(peer) >= holders)
    started = time.monotonic()
    row, sources = peer.pull(MODEL)
    seconds = time.monotonic() - started
    if len(sources) < holders:
        raise DemoError(f"{peer.name} pulled from {', '.join(sorted(sources)) or 'nobody'}, not from {holders} holders")
    size_mb = row["size_bytes"] / 1e6
    origin = f"from {' and '.join(sorted(sources))}"
    path = path_between(peer, sources)
    demo.rows.append(Row(f"pull, {size_mb:.1f} MB", peer.name, path, seconds, f"chunks came {origin}"))
    demo.note(f"{size_mb:.1f} MB {origin}, every chunk verified, {size_mb / seconds:.0f} MB/s")


def held_by(peer: Peer) -> int:
    rows = peer.get("/atmo/v1/models", scope="mesh")["models"]
    return max((len(row["nodes"]) for row in rows if row["name"] == MODEL), default=0)


def path_between(peer: Peer, others: set[str]) -> str:
    nodes = peer.get("/v1/mesh/nodes")["data"]
    return ", ".join(sorted({node["path"] for node in nodes if node["name"] in others}))


def ask(demo: Demo, peer: Peer, images: Any, labels: Any) -> None:
    """Uses the third peer's endpoint: embeddings, a streamed answer, classifications here and elsewhere."""
    from openai import OpenAI

    client = OpenAI(base_url=f"{peer.url}/v1", api_key="none")
    demo.do("Ask cleo's endpoint for embeddings, with the official openai client", lambda: embed(demo, client))
    demo.do(f"Stream an answer from the documentation: “{QUESTION}”", lambda: chat(demo, client))
    demo.do("Classify images of digits that no peer has seen", lambda: classify(demo, peer, images, labels))
    peer.atmo("model", "remove", MODEL)
    demo.do("The same after cleo has removed its copy", lambda: classify(demo, peer, images, labels, local=False))


def embed(demo: Demo, client: Any) -> None:
    started = time.monotonic()
    raw = client.embeddings.with_raw_response.create(model="auto", input=SENTENCES)
    vectors = [row.embedding for row in raw.parse().data]
    told(demo, "embeddings", raw.headers, time.monotonic() - started)
    near, far = (sum(a * b for a, b in zip(vectors[0], vector, strict=True)) for vector in vectors[1:])
    if not near > far:
        raise DemoError("the vectors do not tell a kitten from an invoice")
    demo.note(f"{len(vectors[0])} dimensions; cat and kitten {near:.2f} alike, cat and invoice {far:.2f}")


def chat(demo: Demo, client: Any) -> None:
    started = time.monotonic()
    messages = [{"role": "user", "content": QUESTION}]
    raw = client.chat.completions.with_raw_response.create(model="auto", messages=messages, stream=True)
    pieces = [chunk.choices[0].delta.content or "" for chunk in raw.parse() if chunk.choices]
    told(demo, "chat, streamed", raw.headers, time.monotonic() - started)
    text = "".join(pieces).strip()
    if len(pieces) < 2 or len(text) < 80:
        raise DemoError(f"the documentation answered with {len(pieces)} pieces: {text!r}")
    lines = [line for line in text.splitlines() if line.strip()]
    demo.note(*lines[:ANSWER_LINES], f"... {len(text)} characters in {len(pieces)} pieces")


def classify(demo: Demo, peer: Peer, images: Any, labels: Any, local: bool = True) -> None:
    """Classifies a handful of images; which peer runs it is the router's choice."""
    wait_for("a classifier in the mesh", partial(ready, peer, local))
    body = {"model": MODEL, "data": images[:TESTED].tolist()}
    started = time.monotonic()
    answer = peer.post("/v1/ml/classify", body)
    what = "classification" if local else "classification, no copy"
    told(demo, what, answer.headers, time.monotonic() - started)
    got = [int(row["label"]) for row in answer.json()["predictions"]]
    wanted = [int(label) for label in labels[:TESTED]]
    right = sum(a == b for a, b in zip(got, wanted, strict=True))
    if right < 0.8 * TESTED:
        raise DemoError(f"only {right} of {TESTED} digits were read rightly: {got} instead of {wanted}")
    demo.note(f"read {' '.join(map(str, got))}: {right} of {TESTED} right, on {answer.headers['x-atmosphere-node']}")


def ready(peer: Peer, local: bool) -> bool:
    """Says whether the dry run finds the model where it is expected."""
    route = peer.post("/v1/mesh/route", {"operation": "classify", "model": MODEL}).json()
    places = [candidate["local"] for candidate in route["candidates"] if candidate["model"] == MODEL]
    return (True in places) is local and len(places) >= 2


def told(demo: Demo, what: str, headers: Mapping[str, str], seconds: float) -> None:
    """Adds the row that an answer's headers tell."""
    where, path, reason = (headers[f"x-atmosphere-{name}"] for name in ("node", "path", "reason"))
    demo.rows.append(Row(what, where, path, seconds, reason))


def show(demo: Demo) -> None:
    """Prints the table."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("what")
    table.add_column("where")
    table.add_column("path")
    table.add_column("ms", justify="right")
    table.add_column("why", ratio=1)
    for row in demo.rows:
        cells = (row.what, row.where, row.path, f"{row.seconds * 1000:,.0f}", row.reason)
        table.add_row(*(escape(cell) for cell in cells))
    demo.console.print(table)


def keep(demo: Demo) -> None:
    """Leaves the mesh up until Ctrl-C."""
    demo.kept = True
    command = Path(sys.executable).with_name("atmo")
    demo.console.print("The mesh stays up. Each of these is a base URL for any OpenAI client:")
    for peer in demo.peers:
        demo.console.print(f"  {peer.name:<5} {peer.url}/v1   (home {peer.home})", soft_wrap=True)
    demo.console.print(f"Look around with  {command} shell --home {demo.peers[0].home}", soft_wrap=True)
    demo.console.print("Stop it with Ctrl-C.")
    while True:
        time.sleep(3_600)


if __name__ == "__main__":
    sys.exit(main())
