from __future__ import annotations

import pytest
from packaging.version import Version

from atmo.wire.versions import newest_in, parse_range

VERSIONS = ["1.0.0", "1.2.0", "1.10.0", "2.0.0", "2.1.0rc1"]


def best(text: str) -> str | None:
    found = newest_in(parse_range(text), map(Version, VERSIONS))
    return str(found[0]) if found else None


@pytest.mark.parametrize(
    ("text", "newest"),
    [
        ("", "2.0.0"),
        ("latest", "2.0.0"),
        ("1.2.0", "1.2.0"),
        ("1.2", "1.2.0"),
        ("==1.2.0", "1.2.0"),
        ("1.*", "1.10.0"),
        (">=1,<2", "1.10.0"),
        (" >=1, <2 ", "1.10.0"),
        ("2.1.0rc1", "2.1.0rc1"),
        (">2.0", "2.1.0rc1"),
        ("~=1.0", "1.10.0"),
        ("!=2.0.0", "1.10.0"),
        (">3", None),
    ],
)
def test_a_range_selects_the_newest_in_it(text: str, newest: str | None) -> None:
    assert best(text) == newest


@pytest.mark.parametrize("text", ["one", ">=", "1@2", "newish", "1 2", "x" * 10_000, "9" * 10_000 + "x"])
def test_anything_else_is_refused_in_few_words(text: str) -> None:
    with pytest.raises(ValueError, match="neither a version nor a range") as caught:
        parse_range(text)
    assert len(str(caught.value)) < 200
