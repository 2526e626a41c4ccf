from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

import pytest

from atmo.api.account import ANSWERED, Account
from atmo.api.watch import access
from atmo.api.watch.access import FileLines, access_log, close_access_log, json_line, row_of, text_line
from atmo.errors import UserError
from tests.api.face import in_process, make_app
from tests.gateway.world import Echo, Lengths, chat, loop_net

TRACE = "00-" + "1" * 32 + "-" + "2" * 16 + "-01"


class Terminal(io.StringIO):
    """Standard error in front of a person."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    yield
    close_access_log()


def lines(out: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.getvalue().splitlines()]


class TestLines:
    async def test_one_line_for_each_request_and_nothing_of_what_was_said(self) -> None:
        out = io.StringIO()
        observer = access_log(True, out)
        assert observer is not None
        async with loop_net() as net:
            alpha = await net.add("alpha", Lengths())
            await net.add("beta", Echo())
            headers = {"traceparent": TRACE, "authorization": "Bearer sk-secret"}
            async with in_process(make_app(alpha, observers=(observer,))) as client:
                for stream in (False, True):
                    await client.post("/v1/chat/completions", json=chat("my words", stream=stream), headers=headers)
                await client.post("/v1/embeddings", json={"input": ["my words"]})
                await client.post("/v1/chat/completions", json=chat("my words", model="nobody's"))
                await client.get("/v1/models?secret=1")
        chats, embeddings, lost, models = lines(out)[:2], lines(out)[2], lines(out)[3], lines(out)[4]
        for row in chats:
            assert (row["model"], row["node"], row["mesh_path"], row["status"]) == ("echo", "beta", "direct", 200)
            assert (row["outcome"], row["trace"], row["attempts"]) == ("answered", "1" * 32, 1)
            assert {"time", "id", "queue_ms", "first_byte_ms", "duration_ms", "cost"} <= set(row)
        assert chats[0]["completion_tokens"] == 1
        assert embeddings["prompt_tokens"] == 1
        assert "trace" not in embeddings
        assert (lost["status"], lost["outcome"]) == (404, "refused")
        assert (models["path"], models["status"]) == ("/v1/models", 200)
        assert not {"operation", "node"} & set(models)
        assert "words" not in out.getvalue()
        assert "secret" not in out.getvalue()

    async def test_both_forms_say_the_same_and_no_name_breaks_a_line(self) -> None:
        account = Account("POST", "/v1/x\n\x1b[2J", operation="chat", model='mo"d\x1bel', node="küche\n", key="me")
        account.status, account.outcome, account.cost, account.error = 200, ANSWERED, 0.5, "odd"
        row = json.loads(json_line(account))
        assert {name: row[name] for name in row if name != "time"} == row_of(account)
        for line in (json_line(account), text_line(account)):
            assert line.isascii()
            assert line.isprintable()
        assert 'mo"d?el on k?che? ' in text_line(account)
        assert "$0.5" in text_line(account)
        assert "error=odd key=me" in text_line(account)

    async def test_a_person_gets_lines_to_read(self) -> None:
        out = Terminal()
        observer = access_log(True, out)
        assert observer is not None
        observer(Account("GET", "/health", status=200, outcome=ANSWERED, request_id="id7"))
        assert out.getvalue().endswith("GET /health 200 answered 0 ms id=id7\n")

    def test_off_is_off(self) -> None:
        assert access_log(False) is None


class TestFile:
    async def test_json_goes_to_the_file(self, tmp_path: Path) -> None:
        for _ in range(2):  # opened again, it goes on
            observer = access_log(tmp_path / "log")
            assert observer is not None
            observer(Account("GET", "/health"))
        close_access_log()
        assert [json.loads(line)["path"] for line in (tmp_path / "log").read_text().splitlines()] == ["/health"] * 2

    def test_a_file_that_cannot_be_written(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="access log cannot be written"):
            access_log(tmp_path / "no" / "log")

    def test_what_is_kept_is_bounded(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(access, "FILES", 2)
        handler = FileLines(tmp_path / "log", most=20)
        record = access.log.makeRecord("x", 20, "", 0, "nine char", (), None)
        for number in range(11):
            record.msg = f"line {number:>4}"
            handler.emit(record)
        handler.close()
        found = {path.name: path.read_text().split() for path in tmp_path.iterdir()}
        assert set(found) == {"log", "log.1", "log.2"}
        assert found["log"] == ["line", "10"]

    def test_a_file_that_fails_later_harms_nobody(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        handler = FileLines(tmp_path / "log")
        handler.close()
        handler.emit(access.log.makeRecord("x", 20, "", 0, "a line", (), None))
        assert "closed file" in capsys.readouterr().err

    def test_a_full_disk_is_told_once(self, capsys: pytest.CaptureFixture[str]) -> None:
        handler = FileLines(Path("/dev/full"))
        for number in range(3):
            handler.emit(access.log.makeRecord("x", 20, "", 0, f"line {number}", (), None))
        handler.close()
        assert capsys.readouterr().err.count("No space left on device") == 1

    def test_a_new_file_that_cannot_be_opened_loses_no_line(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        handler = FileLines(tmp_path / "log", most=10)

        def emit(number: int) -> None:
            handler.emit(access.log.makeRecord("x", 20, "", 0, f"line {number}", (), None))

        def no_more_files(*_: object, **_more: object) -> TextIO:
            raise OSError(24, "Too many open files")

        emit(0)
        with monkeypatch.context() as patch:
            patch.setattr(Path, "open", no_more_files)
            emit(1)
        emit(2)
        handler.close()
        assert "Too many open files" in capsys.readouterr().err
        lines = [line for path in tmp_path.iterdir() for line in path.read_text().splitlines()]
        assert sorted(lines) == ["line 0", "line 1", "line 2"]
