"""Walking folders and splitting files, at their limits."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atmo.backends import passages
from atmo.backends.passages import PASSAGE_CHARS, Passage, find_documents, read_passages, split


def names(folder: Path) -> list[str]:
    return list(find_documents(folder)[0])


def test_documents_are_found_in_subfolders_and_in_order(tmp_path: Path) -> None:
    for name in ("b.md", "a.TXT", "sub/c.markdown", "sub/deep/d.md", "picture.png", "z.txt", ".hidden.md", ".git/x.md"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("text")
    assert names(tmp_path) == ["a.TXT", "b.md", "z.txt", "sub/c.markdown", "sub/deep/d.md"]


def test_links_that_lead_out_are_not_followed(tmp_path: Path) -> None:
    outside, inside = tmp_path / "outside", tmp_path / "inside"
    outside.mkdir()
    inside.mkdir()
    (outside / "secret.md").write_text("secret")
    (inside / "own.md").write_text("own")
    (inside / "link.md").symlink_to(outside / "secret.md")
    (inside / "folder").symlink_to(outside)
    (inside / "loop").symlink_to(inside)
    (inside / "dangling.md").symlink_to(inside / "gone.md")
    (inside / "alias.md").symlink_to(inside / "own.md")
    assert names(inside) == ["alias.md", "own.md"]


def test_what_is_no_file_is_left_alone(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.md")
    (tmp_path / "folder.md").mkdir()
    assert names(tmp_path) == []


def test_too_large_and_too_many_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passages, "MAX_FILES", 2)
    monkeypatch.setattr(passages, "MAX_FILE_BYTES", 100)
    for name in ("a", "b", "c"):
        (tmp_path / f"{name}.md").write_text("text")
    (tmp_path / "aa.md").write_text("x" * 101)
    found, left_out = find_documents(tmp_path)
    assert (list(found), left_out) == (["a.md", "b.md"], 2)


def test_a_walk_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passages, "MAX_ENTRIES", 3)
    monkeypatch.setattr(passages, "MAX_DEPTH", 1)
    for name in ("1/a.md", "1/2/b.md"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("text")
    assert names(tmp_path) == ["1/a.md"]
    for index in range(5):
        (tmp_path / f"{index}.md").write_text("text")
    assert len(names(tmp_path)) <= 3


def test_a_missing_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        find_documents(tmp_path / "gone")


def test_headings_say_where_a_passage_stands() -> None:
    text = "intro\n\n# Top\n\none\n\n## **Bold** [link](x.md) `code` ##\n\ntwo\n### Deep\nthree\n## Next\nfour"
    text += "\n# Other\nfive"
    assert [(item.headings, item.text) for item in split("f.md", text, markdown=True)] == [
        ((), "intro"),
        (("Top",), "one"),
        (("Top", "Bold link code"), "two"),
        (("Top", "Bold link code", "Deep"), "three"),
        (("Top", "Next"), "four"),
        (("Other",), "five"),
    ]


def test_code_is_no_heading_and_stays_whole() -> None:
    text = "# A\n\n```sh\n# a comment\n\nls\n```\n\n~~~~\n```\n# b\n~~~~\nend"
    (passage,) = split("f.md", text, markdown=True)
    assert passage.headings == ("A",)
    assert "# a comment\n\nls" in passage.text
    assert passage.text.endswith("end")


def test_front_matter_is_left_out() -> None:
    assert [item.text for item in split("f.md", "---\ntitle: x\n---\nbody", markdown=True)] == ["body"]
    assert split("f.md", "---\nno end", markdown=True)[0].text == "---\nno end"


def test_text_files_have_no_headings() -> None:
    (passage,) = split("f.txt", "# not a heading\n```\n\nmore", markdown=False)
    assert passage == Passage("f.txt", (), "# not a heading\n```\n\nmore")
    assert (passage.source, passage.full_text) == ("f.txt", passage.text)


def test_source_and_full_text_name_the_heading() -> None:
    passage = Passage("a/b.md", ("Top", "Deep"), "text")
    assert (passage.source, passage.full_text) == ("a/b.md#Deep", "Top\nDeep\ntext")


def test_long_paragraphs_are_cut_at_sentences() -> None:
    sentence = "This sentence has exactly fifty characters in it. "
    found = split("f.txt", sentence * 50, markdown=False)
    assert len(found) > 3
    assert all(item.text.endswith("in it.") for item in found)


@given(st.text(alphabet="ab#`~.! \n\t\u2028\U0001f600", max_size=3_000), st.booleans())
def test_any_text_is_split_without_losing_words(text: str, markdown: bool) -> None:
    found = split("f.md", text, markdown=markdown)
    assert all(0 < len(item.text) <= PASSAGE_CHARS for item in found)
    if not markdown:
        assert "".join("".join(item.text for item in found).split()) == "".join(text.split())


def test_a_word_without_end_is_cut_anywhere() -> None:
    found = split("f.md", "x" * 2_000, markdown=True)
    assert [len(item.text) for item in found] == [800, 800, 400]


def test_passages_of_one_file_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passages, "_FILE_PASSAGES", 3)
    assert len(split("f.md", "# a\nb\n" * 10, markdown=True)) == 3


def test_what_is_not_text_has_no_passages(tmp_path: Path) -> None:
    for name, data in (
        ("binary.md", b"\x00\x01"),
        ("latin.md", "caf\xe9".encode("latin-1")),
        ("bom.md", b"\xef\xbb\xbf# T\nx"),
    ):
        (tmp_path / name).write_bytes(data)
    documents, _ = find_documents(tmp_path)
    assert read_passages("binary.md", documents["binary.md"]) == []
    assert read_passages("latin.md", documents["latin.md"])[0].text == "caf\ufffd"
    assert read_passages("bom.md", documents["bom.md"])[0].headings == ("T",)
    (tmp_path / "bom.md").unlink()
    assert read_passages("bom.md", documents["bom.md"]) == []
