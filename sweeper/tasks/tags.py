"""Sentences whose words carry tags: the column format of CoNLL, and one scheme of entity tags for all of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from sweeper.tasks.rows import Rows
from sweeper.work import TAGGING

OUTSIDE = "O"
DOCUMENT = "-DOCSTART-"

Tagged = tuple[tuple[str, ...], tuple[str, ...]]
"""The words of a sentence and their tags."""


def iob2(tags: Sequence[str]) -> tuple[str, ...]:
    """Return a sentence's entity tags as IOB2: each entity begins with B-, what follows in it has I-.

    They may be IOB2 already, IOB1 (B- only between two entities of one type), BIOES, BILOU, or bare types, where words
    side by side with one type are one entity.
    """
    found = []
    inside = None  # the type of the entity that the word before is in
    for tag in tags:
        mark, dash, kind = tag.partition("-")
        if not (dash and mark in "BIESLU" and len(mark) == 1):
            mark, kind = "I", tag
        if tag == OUTSIDE:
            found.append(OUTSIDE)
            inside = None
        else:
            found.append(f"{'B' if mark in 'BSU' or kind != inside else 'I'}-{kind}")
            inside = kind
    return tuple(found)


def read_columns(file: Path) -> list[Tagged]:
    """Return the sentences of a file in CoNLL's columns: a word a line, first the word, last its tag, blanks between.

    Sentences end at empty lines; lines that mark a new document are left out.

    Raises:
        ValueError: a line has no tag.
    """
    sentences: list[Tagged] = []
    words: list[tuple[str, str]] = []
    with file.open(encoding="utf-8") as lines:
        for number, line in enumerate([*lines, ""], 1):
            columns = line.split()
            if not columns or columns[0] == DOCUMENT:
                if words:
                    sentences.append(tuple(zip(*words, strict=True)))  # type: ignore[arg-type]
                words = []
            elif len(columns) == 1:
                raise ValueError(f"{file}, line {number}: {columns[0]!r} has no tag: fetch the file again")
            else:
                words.append((columns[0], columns[-1]))
    return sentences


def tagged_rows(sentences: Iterable[Tagged]) -> Rows:
    """Return rows of sentences, each once: of those with the same words the first counts.

    Tags with an "O" or a "B-" among them are of entities and become IOB2 (`iob2`); others stay as they are.
    """
    first: dict[tuple[str, ...], tuple[str, ...]] = {}
    for words, tags in sentences:
        first.setdefault(words, tags)
    if any(tag == OUTSIDE or tag.startswith("B-") for tags in first.values() for tag in tags):
        first = {words: iob2(tags) for words, tags in first.items()}
    names = sorted({tag for tags in first.values() for tag in tags}, key=lambda tag: (tag != OUTSIDE, tag))
    number = {name: i for i, name in enumerate(names)}
    labels = tuple([number[tag] for tag in tags] for tags in first.values())
    return Rows(TAGGING, "text", tuple(first), labels, tuple(names))
