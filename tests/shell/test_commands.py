"""The shell's commands against a served node, as a script runs them."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import pytest

from atmo.errors import UserError
from atmo.shell import repl
from atmo.shell.client import Connector, NodeClient
from atmo.shell.commands import Leave, Shell
from atmo.shell.glance import Glance, ShellCompleter, State, look
from atmo.shell.repl import open_history, run_interruptible, run_lines, run_shell
from tests.shell.serving import ServedNode, served


@pytest.fixture
def node() -> Iterator[ServedNode]:
    with served(ServedNode()) as serving:
        yield serving


class Session:
    """A shell on a node, with what it wrote."""

    def __init__(self, node: ServedNode) -> None:
        self.out, self.err = io.StringIO(), io.StringIO()
        self.connect = Connector(node.info, "atmo node")
        self.shell = Shell(self.connect, self.out, self.err)

    def __call__(self, line: str) -> str:
        self.out.seek(0)
        self.out.truncate()
        self.shell.run(line)
        return self.out.getvalue()


@pytest.fixture
def session(node: ServedNode) -> Iterator[Session]:
    made = Session(node)
    yield made
    made.connect.close()


def test_looking_around(session: Session, node: ServedNode) -> None:
    assert session("status").splitlines()[0] == "kitchen is running: atmo 0.1.0, process 7"
    assert session("nodes").split() == ["NAME", "ROLES", "PATH", "SINCE", "RTT", "SEEN", "ID"]
    assert "far" in session("models")
    assert "far" in session("models available")
    assert session("models local").startswith("There are none.")
    assert "ask TEXT" in session("help")
    assert session("") == ""


def test_an_answer_streams_without_control_characters(session: Session, node: ServedNode) -> None:
    assert session("ask What is it?") == "It is a code.[2J\n"
    assert session.err.getvalue() == "-- docs on attic (lan): near in meaning\n"
    assert node.asked[-1] == {
        "model": "auto",
        "messages": [{"role": "user", "content": "What is it?"}],
        "stream": True,
    }


def test_an_answer_whose_headers_say_nothing(session: Session) -> None:
    session("use silent")
    session("why?")
    assert session.err.getvalue() == "-- docs\n"


@pytest.mark.parametrize(
    "line", ["why?", "status of the union", "models are nice", "pull the lever", "quit smoking", "use it well"]
)
def test_a_line_that_is_no_command_is_a_question(session: Session, node: ServedNode, line: str) -> None:
    session(line)
    assert node.asked[-1]["messages"][0]["content"] == line


def test_use_chooses_the_model(session: Session, node: ServedNode) -> None:
    session("use docs")
    session("ask x")
    assert node.asked[-1]["model"] == "docs"
    session("use")
    session("ask x")
    assert node.asked[-1]["model"] == "auto"


def test_errors_of_an_answer(session: Session) -> None:
    session("use gone")
    with pytest.raises(UserError, match="No node has the model gone"):
        session("ask x")
    session("use breaks")
    with pytest.raises(UserError, match="attic vanished"):
        session("ask x")
    assert session.out.getvalue() == "It is a code.[2J\n"


@pytest.mark.parametrize("line", ["ask", "route", "pull"])
def test_commands_that_need_something(session: Session, line: str) -> None:
    with pytest.raises(UserError, match="after the command"):
        session(line)


def test_a_dry_run(session: Session, node: ServedNode) -> None:
    first, header, *rows, more = session("route Is this normal?").splitlines()
    assert first == "docs on attic: near in meaning"
    assert header.split() == ["MODEL", "NODE", "PATH", "RTT", "LIKE", "LOAD", "REASON"]
    assert [row.split()[0] for row in rows] == ["->", "2", "docs"]
    assert more == "and 2 more"
    session("use gone")
    assert session("route x") == "Nobody: No node has the model gone.\n"


def test_a_pull(session: Session) -> None:
    assert session("pull far") == "Pulled far 1.0.0, 1.5 MB.\n"
    assert session.err.getvalue() == ""


def test_lines_from_a_pipe(session: Session) -> None:
    lines = ["use\n", "pull gone\n", "use docs\n", "exit\n", "nodes\n"]
    assert run_lines(session.shell, lines, session.err) == 1
    assert session.out.getvalue().splitlines() == ["The router chooses the model.", "Asking docs from now on."]
    assert session.err.getvalue().startswith("error: Nobody in the mesh has the model gone.")
    assert run_lines(session.shell, ["help"], session.err) == 0


def test_ctrl_c_ends_the_command_and_not_the_shell(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(line: str) -> None:
        raise KeyboardInterrupt

    assert run_interruptible(session.shell, "ask", session.err)
    assert not run_interruptible(session.shell, "quit", session.err)
    monkeypatch.setattr(session.shell, "run", interrupted)
    assert run_interruptible(session.shell, "x", session.err)
    assert session.err.getvalue().endswith("interrupted\n")


def test_quit(session: Session) -> None:
    for line in ("quit", "exit"):
        with pytest.raises(Leave):
            session(line)


def test_the_connector_follows_the_node() -> None:
    found: list[dict[str, str] | None] = [{"http": "http://a", "token": "1"}]
    connect = Connector(lambda: found[0], "atmo node --home x")
    first = connect()
    assert connect() is first
    found[0] = {"http": "http://a", "token": "2"}
    assert connect() is not first
    found[0] = None
    with pytest.raises(UserError, match="atmo node --home x"):
        connect()
    connect.close()


def test_a_shell_from_a_pipe(
    node: ServedNode, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("nodes\n"))
    assert run_shell(node.info, tmp_path, "atmo node") == 0
    assert capsys.readouterr().out.startswith("NAME")
    with pytest.raises(UserError, match="No node is running"):
        run_shell(lambda: None, tmp_path, "atmo node")


def test_history_is_private_and_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "history"
    path.write_text("")
    path.chmod(0o644)
    history = open_history(path)
    for index in range(100):
        history.store_string(f"question {index}")
    assert path.stat().st_mode & 0o777 == 0o600
    monkeypatch.setattr(repl, "HISTORY_BYTES", 1_000)
    kept = list(open_history(path).load_history_strings())
    assert kept[0] == "question 99"
    assert 5 < len(kept) < 30
    assert path.stat().st_size <= 500
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(open_history(tmp_path / "gone" / "history").load_history_strings()) == []


def completions(state: State, text: str) -> list[str]:
    from prompt_toolkit.completion import CompleteEvent
    from prompt_toolkit.document import Document

    completer = ShellCompleter(Shell(lambda: pytest.fail("no client"), io.StringIO(), io.StringIO()), lambda: state)
    return [option.text for option in completer.get_completions(Document(text), CompleteEvent())]


def test_completion() -> None:
    state = State("kitchen", "home", ("attic", "kitchen"), ("iris", "docs"))
    assert completions(state, "st") == ["status"]
    assert "pull" in completions(state, "")
    assert completions(state, "pull ") == ["iris", "docs"]
    assert completions(state, "use d") == ["docs"]
    assert completions(state, "use docs ") == []
    assert completions(state, "models a") == ["available"]
    assert completions(state, "ask who is at") == ["attic"]
    assert completions(state, "is iris") == ["iris"]
    assert completions(state, "nodes ") == []


def test_the_toolbar(node: ServedNode, session: Session) -> None:
    glance = Glance(session.connect)
    assert glance.toolbar("auto") == " ..."
    glance.state = look(session.connect())
    assert glance.toolbar("auto") == " kitchen · no mesh yet · 0 nodes · 1 model · asking auto"
    with NodeClient(node.info()) as client:
        client.create("home")
    glance.state = look(session.connect())
    assert glance.toolbar("docs") == " kitchen · mesh home · 1 node · 1 model · asking docs"
    glance.state = State(trouble="No node is running here.")
    assert glance.toolbar("auto") == " No node is running here."


def test_a_glance_tells_of_changes(node: ServedNode) -> None:
    import threading

    changed = threading.Event()
    connect = Connector(node.info, "atmo node")
    with Glance(connect, changed.set) as glance:
        assert changed.wait(10)
        assert glance.state.models == ("far",)


def test_the_prompt(node: ServedNode, session: Session, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    from prompt_toolkit.application import create_app_session
    from prompt_toolkit.input import create_pipe_input
    from prompt_toolkit.output import DummyOutput

    with create_pipe_input() as keys, create_app_session(input=keys, output=DummyOutput()):
        keys.send_text("nod\tes\x15mod\tfoo\x03help\rpull gone\r\x04")
        repl.run_prompt(node.info, session.connect, tmp_path, "atmo node")
    shown = capsys.readouterr()
    assert "ask TEXT" in shown.out
    assert "error: Nobody in the mesh has the model gone." in shown.err
    assert "+help" in (tmp_path / "shell_history").read_text()
    with create_pipe_input() as keys, create_app_session(input=keys, output=DummyOutput()):
        keys.send_text("quit\rhelp\r")
        repl.run_prompt(node.info, session.connect, tmp_path, "atmo node")
    assert "ask TEXT" not in capsys.readouterr().out
