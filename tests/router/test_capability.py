from __future__ import annotations

from dataclasses import replace

import pytest

from atmo.router.capability import CHAT, Capability, tellable

ORDINARY = Capability(id="a:m", operation=CHAT, model="m", description="It says: né 東", examples=("ask",))


def test_what_can_be_told_stays_as_it_is() -> None:
    assert tellable(ORDINARY) is ORDINARY


@pytest.mark.parametrize("field", ["id", "model", "version"])
@pytest.mark.parametrize("name", ["m\ud800", "m\r\nx-admin: 1", "\x1b[31mred", "a\u2028b"])
def test_names_that_cannot_be_printed_are_not_told(field: str, name: str) -> None:
    assert tellable(replace(ORDINARY, **{field: name})) is None  # type: ignore[arg-type]


def test_texts_lose_what_nobody_should_get() -> None:
    told = tellable(replace(ORDINARY, description="a\r\nb\ud800c", examples=("d\x1b[2J", "e")))
    assert told is not None
    assert (told.description, told.examples) == ("a b c", ("d [2J", "e"))
