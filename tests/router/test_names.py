from __future__ import annotations

import pytest

from atmo.router.names import is_auto, offers_named
from atmo.router.offers import Able
from tests.router.offers import offer


def named(model: str, *offers: tuple[str, str]) -> list[str]:
    found = offers_named(model, Able([offer(name, at, version=version) for at, (name, version) in enumerate(offers)]))
    return [f"{one.capability.model} {one.capability.version}".strip() for one in found]


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ("iris", ["iris 2.0"]),
        ("iris@1.0", ["iris 1.0"]),
        ("iris@1.0.0", ["iris 1.0"]),
        ("iris@>=1,<2", ["iris 1.5"]),
        ("iris@~=1.0", ["iris 1.5"]),
        ("iris@latest", ["iris 2.0"]),
        ("iris@", ["iris 2.0"]),
        ("iris@1.*", ["iris 1.5"]),
        ("iris@ >=1, <2", ["iris 1.5"]),
        ("iris@3.0a1", ["iris 3.0a1"]),
        ("iris@>2.0", ["iris 3.0a1"]),
        ("iris@>=4", []),
        ("Iris", []),
    ],
)
def test_versions(wanted: str, found: list[str]) -> None:
    versions = [("iris", version) for version in ("1.0", "2.0", "1.5", "3.0a1")]
    assert named(wanted, *versions) == found


def test_every_node_with_the_newest_version_is_found() -> None:
    assert named("iris", ("iris", "1.0"), ("iris", "1.1"), ("iris", "1.1")) == ["iris 1.1", "iris 1.1"]


def test_only_a_preview_is_better_than_nothing() -> None:
    assert named("iris", ("iris", "2.0a1")) == ["iris 2.0a1"]
    assert named("iris", ("iris", "2.0a1"), ("iris", "2.0a2")) == ["iris 2.0a2"]
    assert named("iris@latest", ("iris", "2.0a1"), ("iris", "2.0a2")) == ["iris 2.0a2"]


def test_spellings_of_one_version_are_one() -> None:
    assert named("iris@1.0", ("iris", "1.0"), ("iris", "1.0.0")) == ["iris 1.0", "iris 1.0.0"]


def test_the_implied_tag_of_ollama() -> None:
    tagged = ("llama3.2:latest", "")
    assert named("llama3.2", tagged) == ["llama3.2:latest"]
    assert named("llama3.2:latest", tagged) == ["llama3.2:latest"]
    assert named("llama3.2", tagged, ("llama3.2", "")) == ["llama3.2"]
    assert named("llama3.2", ("llama3.2:3b", "")) == []


def test_an_exact_name_may_have_an_at() -> None:
    assert named("mail@home", ("mail@home", ""), ("mail", "1.0")) == ["mail@home"]


def test_models_without_a_version_are_in_no_range() -> None:
    assert named("gpt@1.0", ("gpt", "")) == []
    assert named("gpt@1.0", ("gpt", "nonsense")) == []


def test_what_follows_the_at_must_be_a_version_or_a_range() -> None:
    with pytest.raises(ValueError, match="neither a version nor a range"):
        named("iris@newish", ("iris", "1.0"))


def test_auto() -> None:
    assert is_auto("")
    assert is_auto("auto")
    assert not is_auto("automatic")
