from __future__ import annotations

import pytest

from atmo.transfer.names import (
    check_name,
    check_path,
    check_version,
    name_from,
    newest_first,
    next_version,
    parse_spec,
    version_key,
)


@pytest.mark.parametrize("name", ["iris", "a", "llama3.2:latest", "org/name", "org/Name_1-2.x:7b", "x" * 128, "latest"])
def test_names_of_models(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize(
    "name", ["", "-x", ".x", "a b", "a@1", "a/b/c", "a:b:c", "/a", "a/", "ä", "a\n", "../a", "auto", "Auto", "x" * 129]
)
def test_what_is_no_name(name: str) -> None:
    with pytest.raises(ValueError):
        check_name(name)


@pytest.mark.parametrize(
    ("text", "name"),
    [("iris", "iris"), ("My model (2)", "My-model-2"), ("...", "model"), ("auto", "model"), ("é", "model")],
)
def test_a_name_is_made_of_any_text(text: str, name: str) -> None:
    assert name_from(text) == name
    assert check_name(name) == name


def test_versions_have_one_normal_form() -> None:
    assert check_version("1.0.0") == "1.0.0"
    assert check_version("V1.0-RC1") == "1.0rc1"
    assert version_key("1.0") == version_key("1.0.0")
    for wrong in ("", "one", "1.0.0.x", "1" * 65):
        with pytest.raises(ValueError):
            check_version(wrong)


def test_versions_sort_by_meaning() -> None:
    assert newest_first(["1.9", "1.10", "2.0rc1", "1!0.1"]) == ["1!0.1", "2.0rc1", "1.10", "1.9"]


@pytest.mark.parametrize(
    ("held", "following"), [([], "1.0.0"), (["1.0.0"], "1.0.1"), (["2", "1.5"], "2.0.1"), (["1!3.1.4.5"], "1!3.1.5")]
)
def test_a_new_content_gets_the_next_version(held: list[str], following: str) -> None:
    assert next_version(held) == following


@pytest.mark.parametrize("path", ["model.onnx", "a/b/c.bin", ".hidden", "a b", "ünïcode", "console.txt"])
def test_plain_paths(path: str) -> None:
    assert check_path(path) == path


@pytest.mark.parametrize(
    "path",
    ["", "/a", "a/", "a//b", "..", "a/../b", "./a", "a\\b", "C:x", "a\0b", "a.", "a ", " a", "a\nb", "a*"],
)
def test_paths_that_some_file_system_reads_otherwise(path: str) -> None:
    with pytest.raises(ValueError):
        check_path(path)


@pytest.mark.parametrize("path", ["nul", "COM1.txt", "com¹", "x/aux.onnx", "con .x", "x" * 513, "ä" * 101])
def test_paths_of_devices_and_paths_that_are_too_long(path: str) -> None:
    with pytest.raises(ValueError):
        check_path(path)


VERSIONS = ["1.0.0", "1.2.0", "1.10.0", "2.0.0", "2.1.0rc1"]


@pytest.mark.parametrize(
    ("text", "best"),
    [
        ("iris", "2.0.0"),
        ("iris@", "2.0.0"),
        ("iris@latest", "2.0.0"),
        ("iris@1.2.0", "1.2.0"),
        ("iris@1.2", "1.2.0"),
        ("iris@==1.2.0", "1.2.0"),
        ("iris@1.*", "1.10.0"),
        ("iris@>=1,<2", "1.10.0"),
        (" iris @ >=1, <2 ", "1.10.0"),
        ("iris@2.1.0rc1", "2.1.0rc1"),
        ("iris@>2.0", "2.1.0rc1"),
        ("iris@~=1.0", "1.10.0"),
        ("iris@>3", None),
    ],
)
def test_a_range_selects_the_newest_in_it(text: str, best: str | None) -> None:
    spec = parse_spec(text)
    assert spec.name == "iris"
    assert spec.best(VERSIONS) == best


def test_a_spec_prints_as_it_is_written() -> None:
    assert str(parse_spec("iris@>=1,<2")) == "iris@>=1,<2"
    assert str(parse_spec("iris")) == "iris"
    assert parse_spec("iris@<2").matching(VERSIONS) == ["1.10.0", "1.2.0", "1.0.0"]


@pytest.mark.parametrize("text", ["", "@1.0", "iris@one", "iris@>=", "iris@1@2", "a b"])
def test_what_is_no_spec(text: str) -> None:
    with pytest.raises(ValueError):
        parse_spec(text)
