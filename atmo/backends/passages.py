"""Reads a folder of Markdown and text files and splits the files into passages. Bounded; does not leave the folder."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

MARKDOWN = (".md", ".markdown")
SUFFIXES = (*MARKDOWN, ".txt")

MAX_FILES = 2_000
MAX_FILE_BYTES = 2 * 1024 * 1024
MAX_ENTRIES = 100_000
"""Files and folders looked at before a walk ends."""

MAX_DEPTH = 16
PASSAGE_CHARS = 800
"""About 180 tokens of English, so that the embedder reads a passage and its headings whole."""

HEADING_CHARS = 120
_FILE_PASSAGES = MAX_FILE_BYTES // 64

_HEADING = re.compile(r" {0,3}(#{1,6})[ \t]+(.*?)[ \t#]*$")
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")
_LINK = re.compile(r"!?\[([^\]]*)\]\([^)]*\)")
_END_OF_SENTENCE = re.compile(r"[.!?][\"')]?\s")


@dataclass(frozen=True, slots=True)
class Passage:
    """A piece of a file.

    Attributes:
        file: Path below the project's folder, with forward slashes.
        headings: The headings it stands under, outermost first.
        text: At most `PASSAGE_CHARS` characters.
    """

    file: str
    headings: tuple[str, ...]
    text: str

    @property
    def source(self) -> str:
        """Where it comes from, for people: `file#heading`."""
        return f"{self.file}#{self.headings[-1]}" if self.headings else self.file

    @property
    def full_text(self) -> str:
        """What is searched: the headings and the text."""
        return "\n".join((*self.headings, self.text))


@dataclass(frozen=True, slots=True)
class Document:
    """A file that was found, and how to tell that it changed."""

    path: Path
    mtime_ns: int
    size_bytes: int


def find_documents(folder: Path) -> tuple[dict[str, Document], int]:
    """Walks `folder`.

    Returns:
        The documents by their path below the folder, in order; and how many documents were left out because they are
        too large or too many. Hidden files and folders, links to folders, and links that lead out do not count.

    Raises:
        OSError: The folder itself cannot be read.
    """
    root = folder.resolve(strict=True)
    found: dict[str, Document] = {}
    left_out = 0
    for path in _walk(root):
        document = _document(path, root)
        if document is None:
            continue
        if document.size_bytes > MAX_FILE_BYTES or len(found) >= MAX_FILES:
            left_out += 1
        else:
            found[path.relative_to(root).as_posix()] = document
    return found, left_out


def _walk(root: Path) -> Iterator[Path]:
    folders = [(root, 0)]
    budget = MAX_ENTRIES
    while folders:
        folder, depth = folders.pop()
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError:
            if folder == root:
                raise
            continue
        below = []
        for entry in entries[:budget]:
            if entry.name.startswith("."):
                continue
            if entry.is_dir(follow_symlinks=False):
                below.append((Path(entry.path), depth + 1))
            elif entry.name.lower().endswith(SUFFIXES):
                yield Path(entry.path)
        budget -= len(entries)
        if budget <= 0:
            return
        folders.extend(reversed([item for item in below if item[1] <= MAX_DEPTH]))


def _document(path: Path, root: Path) -> Document | None:
    try:
        if path.is_symlink() and not path.resolve(strict=True).is_relative_to(root):
            return None
        status = path.stat()
    except (OSError, RuntimeError):
        return None
    if not stat.S_ISREG(status.st_mode):
        return None
    return Document(path, status.st_mtime_ns, status.st_size)


def read_passages(name: str, document: Document) -> list[Passage]:
    """Reads one document; a file that is gone, unreadable or not text has no passages."""
    try:
        with document.path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES)
    except OSError:
        return []
    if b"\0" in data:
        return []
    text = data.decode("utf-8-sig", errors="replace")
    return split(name, text, markdown=name.lower().endswith(MARKDOWN))


def split(file: str, text: str, *, markdown: bool) -> list[Passage]:
    """Splits a text at its headings, then packs whole paragraphs into passages of at most `PASSAGE_CHARS`."""
    sections = _sections(text) if markdown else [((), text.splitlines())]
    passages = []
    for headings, lines in sections:
        for piece in _pack(_blocks(lines, markdown)):
            passages.append(Passage(file, headings, piece))
            if len(passages) >= _FILE_PASSAGES:
                return passages
    return passages


def _sections(text: str) -> Iterator[tuple[tuple[str, ...], list[str]]]:
    """Yields the lines below each heading with the headings that are above them."""
    levels: list[tuple[int, str]] = []
    lines: list[str] = []
    fence = ""
    for line in _without_front_matter(text.splitlines()):
        fence = _next_fence(fence, line)
        match = None if fence else _HEADING.match(line)
        if match is None:
            lines.append(line)
            continue
        yield tuple(heading for _, heading in levels), lines
        lines = []
        level = len(match[1])
        levels = [item for item in levels if item[0] < level]
        if heading := _plain(match[2]):
            levels.append((level, heading))
    yield tuple(heading for _, heading in levels), lines


def _without_front_matter(lines: list[str]) -> list[str]:
    if lines and lines[0].rstrip() == "---":
        for index, line in enumerate(lines[1:200], 1):
            if line.rstrip() in ("---", "..."):
                return lines[index + 1 :]
    return lines


def _next_fence(fence: str, line: str) -> str:
    """Returns the fence of the code block that goes on after `line`, empty outside of one."""
    match = _FENCE.match(line)
    if match is None:
        return fence
    if not fence:
        return match[1]
    closes = match[1].startswith(fence) and not line.strip().strip(fence[0])
    return "" if closes else fence


def _plain(heading: str) -> str:
    return " ".join(_LINK.sub(r"\1", heading).replace("`", "").replace("*", "").split())[:HEADING_CHARS]


def _blocks(lines: list[str], markdown: bool) -> Iterator[str]:
    """Yields paragraphs; a fenced block of code is one, whatever it holds."""
    block: list[str] = []
    fence = ""
    for line in lines:
        fence = _next_fence(fence, line) if markdown else ""
        if line.strip() or fence:
            block.append(line.rstrip())
        elif block:
            yield "\n".join(block)
            block = []
    if block:
        yield "\n".join(block)


def _pack(blocks: Iterator[str]) -> Iterator[str]:
    passage = ""
    for block in blocks:
        for piece in _cut(block):
            joined = f"{passage}\n\n{piece}" if passage else piece
            if len(joined) <= PASSAGE_CHARS:
                passage = joined
                continue
            yield passage
            passage = piece
    if passage:
        yield passage


def _cut(block: str) -> Iterator[str]:
    """Cuts a long paragraph at the end of a sentence, else of a line, else of a word, else anywhere."""
    while len(block) > PASSAGE_CHARS:
        head = block[:PASSAGE_CHARS]
        ends = [match.end() for match in _END_OF_SENTENCE.finditer(head)]
        at = ends[-1] if ends and ends[-1] > PASSAGE_CHARS // 3 else 0
        at = at or head.rfind("\n") + 1 or head.rfind(" ") + 1 or PASSAGE_CHARS
        if piece := block[:at].strip():
            yield piece
        block = block[at:].lstrip()
    if block.strip():
        yield block
