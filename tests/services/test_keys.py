"""Keys on a real database: made once, told apart, taken back, and what was done with them written in time."""

from __future__ import annotations

import sqlite3
from datetime import UTC, datetime
from pathlib import Path

import pytest
import trio

from atmo.errors import UserError
from atmo.services.keys import KeyService, parse_budget, parse_rate
from atmo.storage import keys as table
from atmo.storage.database import Database
from atmo.storage.keys import StoredKey
from atmo.trust.apikey import key_hash, read_key_untrusted

BEGIN = datetime(2026, 11, 27, 12, tzinfo=UTC).timestamp()


class Home:
    """A database whose keys can be read anew, and a wall clock."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "atmosphere.db"
        self.now = BEGIN

    def open(self) -> KeyService:
        return KeyService(Database(self.path), lambda: self.now)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


def found(keys: KeyService, made: dict[str, object]) -> StoredKey:
    key = keys.find(read_key_untrusted(str(made["key"])))
    assert key is not None
    return key


def by_id(keys: KeyService) -> dict[str, object]:
    return {row["id"]: row for row in keys.rows()}


async def test_a_key_is_told_once_and_kept_as_a_hash(home: Home) -> None:
    keys = home.open()
    assert not keys.usable
    made = await keys.create("laptop", ("llama*", "all-minilm"), "60/min", "5.00/month", 3_600.0)
    text = str(made["key"])
    assert (made["name"], made["state"], made["rate"]) == ("laptop", "active", "60/min")
    for path in home.path.parent.iterdir():
        assert text.encode() not in path.read_bytes()
        assert text[8:40].encode() not in path.read_bytes()
    again = home.open()
    assert again.usable
    assert found(again, made).terms == found(keys, made).terms
    assert again.rows() == keys.rows() == [{key: value for key, value in made.items() if key != "key"}]
    assert again.row("laptop") == again.row(str(made["id"]))
    assert again.find(key_hash(bytes(32))) is None
    assert again.find_id("00000000") is None


async def test_a_revoked_key_counts_no_more_and_frees_its_name(home: Home) -> None:
    keys = home.open()
    old = await keys.create("laptop")
    assert (await keys.revoke("laptop"))["state"] == "revoked"
    assert (await keys.revoke(str(old["id"])))["revoked_at"] == BEGIN
    new = await keys.create("laptop")
    assert keys.state(found(keys, old)) == "revoked"
    assert keys.state(found(home.open(), old)) == "revoked"
    assert keys.row("laptop")["id"] == new["id"]
    with pytest.raises(UserError, match="already"):
        await keys.create("laptop")


async def test_a_key_expires(home: Home) -> None:
    keys = home.open()
    key = found(keys, await keys.create("laptop", expires_s=60.0))
    home.now += 59.0
    assert keys.state(key) == "active"
    home.now += 1.0
    assert keys.state(key) == "expired"
    assert not keys.usable


async def test_a_budget_is_spent_and_counts_anew(home: Home) -> None:
    keys = home.open()
    monthly = found(keys, await keys.create("monthly", budget="1.00/month"))
    daily = found(keys, await keys.create("daily", budget="1/day"))
    once = found(keys, await keys.create("once", budget="1"))
    for key in (monthly, daily, once):
        keys.note(key, 100, 50, 0.75)
        assert keys.state(key) == "active"
        keys.note(key, 100, 50, 0.25)
        assert keys.state(key) == "used up"
    assert [keys.renewed_in_s(key) for key in (monthly, daily, once)] == [3.5 * 86_400, 43_200.0, None]
    assert keys.usable
    home.now += 43_200.0
    assert [keys.state(key) for key in (monthly, daily, once)] == ["used up", "active", "used up"]
    home.now = datetime(2026, 12, 1, tzinfo=UTC).timestamp()
    assert [keys.state(key) for key in (monthly, daily, once)] == ["active", "active", "used up"]
    assert keys.renewed_in_s(monthly) == 31 * 86_400
    keys.note(monthly, 0, 0, 0.5)
    row = keys.row("monthly")
    assert (row["spent"], row["cost"], row["requests"]) == (0.5, 1.5, 3)
    keys.note(monthly, -5, 0, float("inf"))
    assert keys.row("monthly")["prompt_tokens"] == 200
    await keys.flush()
    assert by_id(home.open()) == by_id(keys)


async def test_use_is_written_in_batches(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("atmo.services.keys.FLUSH_S", 0.01)
    keys = home.open()
    key = found(keys, await keys.create("laptop"))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(keys.run)
        await trio.testing.wait_all_tasks_blocked()
        for _ in range(1_000):
            keys.note(key, 1, 2, 0.001)
        assert home.open().row("laptop")["requests"] == 0
        with trio.fail_after(20):
            while home.open().row("laptop")["requests"] < 1_000:
                await trio.sleep(0.01)
        keys.note(key)
        nursery.cancel_scope.cancel()
    assert home.open().row("laptop")["requests"] == 1_001


async def test_nothing_is_lost_where_the_disk_fails(home: Home, caplog: pytest.LogCaptureFixture) -> None:
    keys = home.open()
    key = found(keys, await keys.create("laptop"))
    keys.note(key)
    other = sqlite3.connect(home.path, isolation_level=None, timeout=0.0)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(UserError, match="locked"):
        await keys.flush()
    keys.note(key)
    other.execute("ROLLBACK")
    other.close()
    await keys.flush()
    assert home.open().row("laptop")["requests"] == 2


@pytest.mark.parametrize("name", ["", " ", "a b", "-x", "a" * 65, "sk-atmo-abc", "k\u00e9y", "a/b"])
async def test_names_that_cannot_be(home: Home, name: str) -> None:
    with pytest.raises(UserError, match="cannot be used"):
        await home.open().create(name)


async def test_terms_that_cannot_be(home: Home) -> None:
    keys = home.open()
    for patterns in (("",), ("a b",), ("x" * 129,), ("a\n",), ("a",) * 65):
        with pytest.raises(UserError, match="pattern"):
            await keys.create("laptop", patterns)
    for seconds in (0.0, -1.0, 1e12):
        with pytest.raises(UserError, match="ten years"):
            await keys.create("laptop", expires_s=seconds)
    for rate in ("", "5", "0/min", "5/year", "99999999/s", "-1/s"):
        with pytest.raises(UserError, match="not a rate"):
            parse_rate(rate)
    for budget in ("", "-1", "1e9", "5/year", "1,5", "1.0000001"):
        with pytest.raises(UserError, match="not a budget"):
            parse_budget(budget)
    assert parse_rate("10 / Hour") == (10, 3_600.0)
    assert parse_budget("$0.50/day") == (0.5, "day")


async def test_a_key_is_not_named_by_itself(home: Home) -> None:
    keys = home.open()
    made = await keys.create("laptop")
    with pytest.raises(UserError) as caught:
        await keys.revoke(str(made["key"]))
    assert str(made["key"])[8:] not in str(caught.value)
    with pytest.raises(UserError, match="no key nobody"):
        keys.row("nobody")


async def test_there_is_a_bound(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "MOST_KEYS", 3)
    monkeypatch.setattr(table, "REVOKED_KEPT", 2)
    keys = home.open()
    for number in range(3):
        await keys.create(f"k{number}")
    with pytest.raises(UserError, match="3 keys"):
        await keys.create("more")
    for number in range(3):
        home.now += 1.0
        await keys.revoke(f"k{number}")
    assert [row["name"] for row in keys.rows()] == ["k1", "k2"]
    assert by_id(home.open()) == by_id(keys)


async def test_two_keys_never_have_one_id(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    secrets = iter([bytes(32), bytes(32), b"\1" * 32])
    monkeypatch.setattr("atmo.services.keys.secrets.token_bytes", lambda size: next(secrets))
    keys = home.open()
    assert (await keys.create("a"))["id"] != (await keys.create("b"))["id"]
