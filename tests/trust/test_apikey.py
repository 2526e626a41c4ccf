from __future__ import annotations

import random

import pytest

from atmo.errors import WireError
from atmo.trust.apikey import PREFIX, key_hash, key_id, key_text, looks_like_key, read_key_untrusted

SECRET = bytes(range(32))


def test_a_key_is_recognised_by_its_hash() -> None:
    text = key_text(SECRET)
    assert text.startswith(PREFIX)
    assert looks_like_key(text)
    assert text == "sk-atmo-aaaqeayeaudaocajbifqydiob4ibceqtcqkrmfyydenbwha5dyp6kkhjk4"
    assert read_key_untrusted(text) == key_hash(SECRET)
    assert key_hash(SECRET) != key_hash(bytes(32))
    assert key_id(key_hash(SECRET)) == key_hash(SECRET).hex()[:8]


def test_every_wrong_character_is_noticed() -> None:
    text = key_text(SECRET)
    draw = random.Random(1)
    for place in range(len(PREFIX), len(text)):
        other = draw.choice([char for char in "abcdefghijklmnopqrstuvwxyz234567" if char != text[place]])
        with pytest.raises(WireError, match="characters that are wrong"):
            read_key_untrusted(text[:place] + other + text[place + 1 :])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "begins with"),
        ("sk-proj-abc", "begins with"),
        (key_text(SECRET)[:-1], "has 66 characters, this one 65"),
        (key_text(SECRET) + "a", "has 66 characters, this one 67"),
        (key_text(SECRET).upper().replace("SK-ATMO-", PREFIX), "wrong"),
        (key_text(SECRET)[:-1] + "1", "wrong"),
        (key_text(SECRET)[:-1] + "\N{LATIN SMALL LETTER SHARP S}", "wrong"),
        (key_text(SECRET)[:-1] + "\n", "wrong"),
    ],
)
def test_what_is_no_key(text: str, said: str) -> None:
    with pytest.raises(WireError, match=said) as caught:
        read_key_untrusted(text)
    assert text[10:40] not in str(caught.value) or not text[10:40]
