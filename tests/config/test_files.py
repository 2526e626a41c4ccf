"""Configuration files that are none, and those that would take all memory or time: each is one line that names it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from atmo.config.files import MAX_VALUES, find_config, read_config
from atmo.config.settings import examine, load_settings
from atmo.errors import UserError


def problem(home: Path, name: str, text: str) -> str:
    """Returns the first thing that is wrong with a file."""
    (home / name).write_text(text)
    errors = examine(home, {"ATMO_LLAMAFARM_CONFIG": "false"}).errors
    assert errors
    return errors[0].message


@pytest.mark.parametrize("to", ["/nowhere/at/all", "config.json"])
def test_a_link_that_leads_nowhere_is_not_the_same_as_no_file(tmp_path: Path, to: str) -> None:
    (tmp_path / "config.json").symlink_to(to)
    with pytest.raises(UserError, match=r"config.json: cannot be read"):
        load_settings(tmp_path, {})


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo, lambda path: path.symlink_to("/dev/zero")])
def test_what_is_no_file_is_not_read(tmp_path: Path, make: object) -> None:
    assert callable(make)
    make(tmp_path / "config.yaml")
    with pytest.raises(UserError, match=r"config.yaml: is no file"):
        load_settings(tmp_path, {})


def test_a_link_to_a_file_is_that_file(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_text('{"name": "kitchen"}')
    (tmp_path / "config.json").symlink_to("elsewhere")
    assert load_settings(tmp_path, {}).name == "kitchen"


def test_what_is_below_a_file_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("")
    assert find_config(tmp_path / "home") is None


def laughs(last: str) -> str:
    """Returns YAML of a few lines, in which `*a11` stands for a hundred billion words."""
    lines = [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]
    return "\n".join(["a0: &a0 lol", *lines, last])


@pytest.mark.parametrize("key", ["max_queue_depth", "cost_per_1k", "name", "servers", "storage"])
def test_aliases_that_stand_for_billions(tmp_path: Path, key: str) -> None:
    assert f"has more than {MAX_VALUES} values" in problem(tmp_path, "config.yaml", laughs(f"{key}: *a11"))


def test_mappings_that_are_merged_for_ever(tmp_path: Path) -> None:
    lines = [f"b{i}: &b{i} {{<<: [{', '.join([f'*b{i - 1}'] * 9)}]}}" for i in range(1, 12)]
    text = "\n".join(["b0: &b0 {x: 1}", *lines])
    assert f"has more than {MAX_VALUES} values" in problem(tmp_path, "config.yaml", text)


def test_a_mapping_that_holds_itself(tmp_path: Path) -> None:
    assert f"has more than {MAX_VALUES} values" in problem(tmp_path, "config.yaml", "bridge: &b {x: *b}")


def test_aliases_as_people_use_them(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("a: &a {x: 1}\nb: {<<: *a, y: 2}\nc: [*a, *a]\n")
    assert read_config(tmp_path / "c.yaml") == {"a": {"x": 1}, "b": {"x": 1, "y": 2}, "c": [{"x": 1}, {"x": 1}]}


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n", "null"])
def test_a_file_that_says_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / "c.yaml").write_text(text)
    assert read_config(tmp_path / "c.yaml") == {}


@pytest.mark.parametrize(
    "value", ['!!int ""', "!!int x", '!!float ""', "!!bool x", "!!timestamp x", ":".join(["59"] * 2_000) + ".5"]
)
def test_values_that_are_not_what_yaml_takes_them_for(tmp_path: Path, value: str) -> None:
    assert "config.yaml: is not valid YAML" in problem(tmp_path, "config.yaml", f"name: {value}")


def test_numbers_that_python_cannot_even_tell(tmp_path: Path) -> None:
    text = f"max_queue_depth: {':'.join(['59'] * 20_000)}"
    assert "config.yaml: has a number of more than" in problem(tmp_path, "config.yaml", text)


def test_a_key_that_is_there_twice_among_many(tmp_path: Path) -> None:
    names = ", ".join(f'"k{number}": 1' for number in range(60_000))
    assert "k59999: is there twice" in problem(tmp_path, "config.json", f'{{{names}, "k59999": 2}}')


def test_a_folder_that_cannot_be_looked_at(tmp_path: Path) -> None:
    text = json.dumps({"projects": [{"name": "notes", "path": "x" * 300}]})
    assert "projects: " in (found := problem(tmp_path, "config.json", text))
    assert "cannot be looked at: File name too long" in found


@pytest.mark.parametrize("url", ["http://ex ample/v1", "http://例え.example/v1", "http://a/v1?x=1", "http://a/v1#b"])
def test_urls_that_no_request_can_be_sent_to(tmp_path: Path, url: str) -> None:
    text = json.dumps({"servers": [{"name": "lab", "url": url}]})
    assert "servers[0]: url: " in problem(tmp_path, "config.json", text)
