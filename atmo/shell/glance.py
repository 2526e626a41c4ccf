"""What the prompt knows without asking: the state of the mesh and the names in it, refreshed behind its back."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document

from atmo.errors import UserError
from atmo.shell.client import Connector, NodeClient
from atmo.shell.commands import SCOPES, Shell
from atmo.shell.text import count_text, printable

REFRESH_S = 3.0
LEAVE_S = 0.5
"""How long leaving the shell waits for a look that is under way."""


@dataclass(frozen=True)
class State:
    """One look at the mesh."""

    name: str = ""
    mesh: str = ""
    nodes: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    trouble: str = ""


def look(client: NodeClient) -> State:
    """Asks the node once.

    Raises:
        UserError: It does not answer.
    """
    status: Mapping[str, Any] = client.status()
    mesh = status.get("mesh") or {}
    return State(
        name=str(status.get("name", "")),
        mesh=str(mesh.get("name", "")) if isinstance(mesh, Mapping) else str(mesh),
        nodes=tuple(sorted({str(node["name"]) for node in client.nodes()})),
        models=tuple(sorted({str(model["name"]) for model in client.models("mesh")})),
    )


class Glance:
    """Looks at the mesh in a thread of its own while the prompt waits.

    Args:
        connect: Finds the node that runs now; used by that thread only, and closed by it.
        on_change: Called from that thread when something looks different.
    """

    def __init__(self, connect: Connector, on_change: Callable[[], None] = lambda: None) -> None:
        self._connect = connect
        self._on_change = on_change
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="shell glance", daemon=True)
        self.state = State()

    def __enter__(self) -> Glance:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join(LEAVE_S)

    def _run(self) -> None:
        try:
            while True:
                self._look()
                if self._ended.wait(REFRESH_S):
                    return
        finally:
            self._connect.close()

    def _look(self) -> None:
        try:
            state = look(self._connect())
        except UserError as error:
            state = State(trouble=error.message)
        if state != self.state:
            self.state = state
            self._on_change()

    def toolbar(self, model: str) -> str:
        """Returns the line below the prompt."""
        state = self.state
        if state.trouble:
            return f" {printable(state.trouble)}"
        if not state.name:
            return " ..."
        mesh = f"mesh {state.mesh}" if state.mesh else "no mesh yet"
        counts = f"{count_text(len(state.nodes), 'node')} · {count_text(len(state.models), 'model')}"
        return printable(f" {state.name} · {mesh} · {counts} · asking {model}")


class ShellCompleter(Completer):
    """Completes commands, then what each one takes."""

    def __init__(self, shell: Shell, state: Callable[[], State]) -> None:
        self._shell = shell
        self._state = state

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterator[Completion]:
        """Yields what may stand at the cursor."""
        before = document.text_before_cursor.lstrip()
        word = before.rpartition(" ")[2]
        for option, meta in self._options(before.split(" ")[:-1]):
            if option.startswith(word):
                yield Completion(option, start_position=-len(word), display_meta=meta)

    def _options(self, typed: list[str]) -> list[tuple[str, str]]:
        state = self._state()
        models, nodes = [(name, "model") for name in state.models], [(name, "node") for name in state.nodes]
        if not typed:
            return [(name, command.summary) for name, command in self._shell.commands.items()]
        if typed[0] in ("pull", "use"):
            return models if len(typed) == 1 else []
        if typed == ["models"]:
            return [(scope, "") for scope in SCOPES]
        command = self._shell.commands.get(typed[0])
        return models + nodes if command is None or command.takes("x y") else []
