"""Press reportage of the Brown corpus (Francis and Kucera 1964), each word with its part of speech."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from sweeper.fetch import fetched
from sweeper.tasks.base import TaskData
from sweeper.tasks.rows import Rows, split_rows
from sweeper.tasks.tags import Tagged, tagged_rows

MAX_WORDS = 20  # what a small machine reads fast


def stem(tag: str) -> str:
    """Return a tag without what marks titles, headlines, foreign words, possessives, negations and contractions."""
    tag = tag.removeprefix("fw-")
    letters = re.match(r"[a-z]+", tag)
    return letters.group() if letters else re.sub(r"-[a-z]+$", "", tag)


@lru_cache(maxsize=1)
def reportage() -> Rows:
    """Return the sentences of at most 20 words, each once."""
    sentences: list[Tagged] = []
    for line in fetched("brown_news").read_text(encoding="utf-8").splitlines():
        pairs = [token.rpartition("/")[::2] for token in line.split()]
        if 0 < len(pairs) <= MAX_WORDS:
            sentences.append((tuple(word for word, _ in pairs), tuple(stem(tag) for _, tag in pairs)))
    return tagged_rows(sentences)


@dataclass(frozen=True)
class PartsOfSpeech:
    """Which part of speech is each word of a short sentence of news?"""

    name: str = "parts_of_speech"
    summary: str = "which part of speech is each word of a short sentence of news? (Brown corpus, fetched)"
    metric: str = "token_accuracy"
    n_train: int = 100

    def load(self, seed: int, n_train: int) -> TaskData:
        """Return "train", "valid" and "test"; there is no source domain: the model's pretraining is."""
        return split_rows(reportage(), self.name, seed, n_train)
