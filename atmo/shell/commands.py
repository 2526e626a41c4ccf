"""What can be typed into the shell, and what each command does with a running node."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import IO, Any

from atmo.errors import UserError
from atmo.shell.client import Change, NodeClient
from atmo.shell.progress import shown_progress
from atmo.shell.text import Wrapper, printable, prose, size_text, table, wrapped_table
from atmo.shell.transfer_views import TRANSFER_HEADERS, transfer_rows
from atmo.shell.views import (
    MODEL_HEADERS,
    NODE_HEADERS,
    PEER_HEADERS,
    ROUTE_HEADERS,
    model_rows,
    node_rows,
    path_notes,
    peer_rows,
    route_rows,
    status_lines,
)

AUTO = "auto"
SCOPES = ("local", "mesh", "available")


@dataclass(frozen=True, slots=True)
class Command:
    """One command.

    Attributes:
        usage: How it is typed.
        summary: What it does, in a few words.
        run: Does it, given the rest of the line.
        takes: Whether the rest of a line can be meant for this command; if not, the line is a question.
    """

    usage: str
    summary: str
    run: Callable[[str], None]
    takes: Callable[[str], bool]


class Leave(Exception):
    """The person wants to leave the shell."""


class Shell:
    """Runs lines against a node.

    Args:
        connect: Returns a client of the node that runs now.
        out: Where results go.
        err: Where progress goes.
        width: Returns the columns to cut tables to, None not to cut.
    """

    def __init__(
        self,
        connect: Callable[[], NodeClient],
        out: IO[str],
        err: IO[str],
        width: Callable[[], int | None] = lambda: None,
    ) -> None:
        self._connect = connect
        self._out = out
        self._err = err
        self._width = width
        self.model = AUTO
        self.commands = {
            "status": Command("status", "what this node is doing", self._status, _nothing),
            "nodes": Command("nodes", "the machines of the mesh", self._nodes, _nothing),
            "models": Command("models [local|available]", "the models of the mesh", self._models, _scope),
            "ask": Command("ask TEXT", "ask the mesh; a line that is no command does the same", self._ask, _anything),
            "route": Command("route TEXT", "who would answer, and why", self._route, _anything),
            "use": Command("use [MODEL]", "ask this model from now on; alone, whichever fits", self._use, _word),
            "pull": Command("pull NAME[@RANGE]", "fetch a model to this machine", self._pull, _word),
            "transfers": Command("transfers", "downloads to this machine", self._transfers, _nothing),
            "pause": Command("pause ID|NAME", "stop a download for now", self._pause, _word),
            "resume": Command("resume ID|NAME", "go on with it", self._resume, _word),
            "cancel": Command("cancel ID|NAME", "end a download, and delete what arrived", self._cancel, _word),
            "help": Command("help", "this list", self._help, _nothing),
            "quit": Command("quit", "leave, as does Ctrl-D", self._quit, _nothing),
        }

    def run(self, line: str) -> None:
        """Runs one line.

        Raises:
            UserError: It cannot be done.
            Leave: It was `quit`.
        """
        name, _, rest = line.strip().partition(" ")
        command = self.commands.get("quit" if name == "exit" else name)
        if command is not None and command.takes(rest.strip()):
            command.run(rest.strip())
        elif line.strip():
            self._ask(line.strip())

    def _say(self, text: str) -> None:
        print(text, file=self._out, flush=True)

    def _table(self, headers: tuple[str, ...], rows: list[list[str]], *, wrapped: bool = False) -> None:
        for line in (wrapped_table if wrapped else table)(headers, rows, self._width()):
            self._say(line)

    def _status(self, _rest: str) -> None:
        status = self._connect().status()
        for line in status_lines({"running": True, **status}, self._width()):
            self._say(line)
        if peers := status.get("peers"):
            self._table(PEER_HEADERS, peer_rows(peers))

    def _nodes(self, _rest: str) -> None:
        nodes = self._connect().nodes()
        self._table(NODE_HEADERS, node_rows(nodes))
        for line in path_notes(nodes):
            self._say(line)

    def _models(self, rest: str) -> None:
        models = self._connect().models(rest or "mesh")
        if models:
            self._table(MODEL_HEADERS, model_rows(models))
        else:
            self._say("There are none. Import one with `atmo model import PATH`.")

    def _ask(self, text: str) -> None:
        if not text:
            raise UserError("There is no question.", "Type it after the command: ask What is a join code?")
        body = {"model": self.model, "messages": [{"role": "user", "content": text}]}
        with self._connect().chat(body) as (headers, chunks):
            ends_line, model = True, ""
            wrapper = Wrapper(self._out.write, self._width())
            try:
                for chunk in chunks:
                    model = str(chunk.get("model") or model)
                    piece = _content(chunk)
                    if piece:
                        wrapper.feed(prose(piece))
                        self._out.flush()
                        ends_line = piece.endswith("\n")
            finally:
                wrapper.flush()
                if not ends_line:
                    self._say("")
            print(_signature(headers, model), file=self._err, flush=True)

    def _route(self, text: str) -> None:
        if not text:
            raise UserError("There is nothing to route.", "Type it after the command: route Is this log line normal?")
        body = {"model": self.model, "messages": [{"role": "user", "content": text}]}
        decision = self._connect().post("/v1/mesh/route", {"operation": "chat", **body})
        chosen = decision.get("chosen")
        if chosen:
            self._say(f"{printable(chosen['model'])} on {printable(chosen['node_name'])}: {_reason(decision)}")
        else:
            self._say(f"Nobody: {_reason(decision)}")
        rows = route_rows(decision.get("candidates") or [])
        if rows:
            self._table(ROUTE_HEADERS, rows, wrapped=True)
        if decision.get("omitted"):
            self._say(f"and {decision['omitted']} more")

    def _use(self, name: str) -> None:
        self.model = name or AUTO
        self._say("The router chooses the model." if self.model == AUTO else f"Asking {printable(name)} from now on.")

    def _pull(self, spec: str) -> None:
        if not spec:
            raise UserError(
                "There is no model to pull.", "Type its name after the command; `models available` has them."
            )
        with shown_progress(f"Pulling {printable(spec)}", self._err) as show:
            row = self._connect().job("pull", {"spec": spec}, show)
        self._say(f"Pulled {printable(row['name'])} {printable(row['version'])}, {size_text(row['size_bytes'])}.")

    def _transfers(self, _rest: str) -> None:
        rows = self._connect().transfers()
        if rows:
            self._table(TRANSFER_HEADERS, transfer_rows(rows))
        else:
            self._say("There are none.")

    def _pause(self, which: str) -> None:
        self._change("pause", which)

    def _resume(self, which: str) -> None:
        self._change("resume", which)

    def _cancel(self, which: str) -> None:
        self._change("cancel", which)

    def _change(self, how: Change, which: str) -> None:
        if not which:
            raise UserError("There is no transfer named.", "Type its number after the command; `transfers` has them.")
        for row in self._connect().change_transfers(how, which):
            self._say(f"{row['id']} {printable(row['name'])} {printable(row['version'])}: {row['state']}")

    def _help(self, _rest: str) -> None:
        width = max(len(command.usage) for command in self.commands.values())
        for command in self.commands.values():
            self._say(f"  {command.usage.ljust(width)}  {command.summary}")

    def _quit(self, _rest: str) -> None:
        raise Leave


def _nothing(rest: str) -> bool:
    return not rest


def _anything(rest: str) -> bool:
    return True


def _word(rest: str) -> bool:
    return len(rest.split()) <= 1


def _scope(rest: str) -> bool:
    return not rest or rest in SCOPES


def _content(chunk: Mapping[str, Any]) -> str:
    error = chunk.get("error")
    if error:
        message = error.get("message") if isinstance(error, Mapping) else error
        raise UserError(str(message))
    choices = chunk.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else {}
    delta = first.get("delta") if isinstance(first, Mapping) else None
    content = delta.get("content") if isinstance(delta, Mapping) else None
    return content if isinstance(content, str) else ""


def _signature(headers: Mapping[str, str], model: str) -> str:
    parts = [headers.get("x-atmosphere-model") or model or "?"]
    if node := headers.get("x-atmosphere-node"):
        path = headers.get("x-atmosphere-path")
        parts.append(f"on {node}" + (f" ({path})" if path else ""))
    told = printable(" ".join(parts))
    reason = headers.get("x-atmosphere-reason")
    return f"-- {told}: {printable(reason)}" if reason else f"-- {told}"


def _reason(decision: Mapping[str, Any]) -> str:
    error = decision.get("error")
    return printable(error["message"] if isinstance(error, Mapping) else decision.get("reason") or "")
