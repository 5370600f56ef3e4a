"""What is read out of fetched files, on files written by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sweeper.tasks import topics


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(topics, "fetched", lambda name: tmp_path / "rows")
    return tmp_path / "rows"


def test_a_mail_is_its_subject_and_its_text_and_no_other_line_of_its_header(file: Path) -> None:
    mail = "From: a@b.c\nX-Spam: yes\nSubject: [ILUG] Hello\n\nSee <b>http://a.b/c</b> now\n"
    parts = (
        'Subject: Two\nContent-Type: multipart/mixed; boundary="x"\n\n--x\nContent-Type: text/plain\n\nfirst\n--x--\n'
    )
    mails = [{"group": "easy-ham-1", "text": mail}, {"group": "spam-2", "text": parts}]
    file.write_text("".join(json.dumps(mail) for mail in mails))
    found = [(" ".join(text.split()), label) for text, label in topics._mails()]
    assert found == [("Hello See now", "ham"), ("Two first", "spam")]


def test_a_retweet_is_left_out_and_links_are(file: Path) -> None:
    lines = ["Is retweet\tAuthor\tContent", "discrete\tdiscrete\tstring", "\tclass\tmeta"]
    lines += ["False\tA\tVote! https://t.co/x", "True\tB\tTheirs"]
    file.write_text("\n".join(lines))
    assert list(topics._tweets()) == [("Vote! ", "A")]


def test_texts_come_once_and_classes_have_no_more_rows_than_the_task_says(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [
        ("One, two.", "a"),
        ("one two", "b"),
        ("three", "b"),
        ("four", "b"),
        ("five", "b"),
        ("six", "c"),
        ("?", "a"),
    ]
    task = topics.Topics("few", "", lambda: iter(rows), ("a", "b"), most=2)
    monkeypatch.setattr(topics, "TOPIC_TASKS", (task,))
    texts, y = topics.different.__wrapped__("few")
    assert texts == ("One, two.", "three", "four")
    assert y.tolist() == [0, 1, 1]
