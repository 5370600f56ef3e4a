"""Writing tasks on dates, as people of many languages write them out (Unicode CLDR, inside the package Babel)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from functools import lru_cache

import numpy as np
import torch

from sweeper.models.base import UnavailableError, derived_seed
from sweeper.spec import TrainArgs
from sweeper.tasks.base import Split, TaskData, stratified
from sweeper.work import GENERATION

FIELDS = "fields"
LANGUAGES = {"en": "English", "es": "Spanish", "fr": "French", "it": "Italian", "nl": "Dutch", "de": "German"}
FIRST, LAST = date(1900, 1, 1), date(2099, 12, 31)
YEAR_SHA256 = "efdf4e4a02bf95051ec9120b5e99b1def254cf531ed9b793b9498ef4abb7e18c"


@lru_cache(maxsize=1)
def _write() -> Callable[[date, str], str]:
    """Return what writes a day out in a language.

    Raises:
        UnavailableError: the package is missing.
        ValueError: it writes days in another way than is known here.
    """
    try:
        import babel
        from babel.dates import format_date
    except ImportError:
        raise UnavailableError("this task needs its rows, a package: pip install 'sweeper-advisor[data]'") from None

    def write(day: date, code: str) -> str:
        if code == FIELDS:
            return f"{day.isoformat()} | weekday: {day.isoweekday()}"
        return str(format_date(day, "full", locale=code))

    year = [write(date.fromordinal(FIRST.toordinal() + day), code) for code in LANGUAGES for day in range(365)]
    digest = hashlib.sha256(repr(year).encode()).hexdigest()
    if digest != YEAR_SHA256:
        raise ValueError(f"Babel {babel.__version__} writes dates in another way ({digest}): pip install babel==2.18.0")
    return write


@dataclass(frozen=True)
class Dates:
    """Write a date out in a language, told its fields (data to text) or how another language writes it (instruction).

    No day is in two splits; each split has all months alike.

    Attributes:
        source: (what is read, the language that is written), in the source domain.
        target: The same in the target domain.
    """

    name: str
    summary: str
    source: tuple[tuple[str, str], ...]
    target: tuple[str, str]
    metric: str = "inverse_perplexity"
    n_train: int = 100
    pool: int = 1000
    valid: int = 100
    test: int = 250
    source_train: int = 2000
    source_test: int = 100
    pretrain_steps: int = 1000

    def load(self, seed: int, n_train: int) -> TaskData:
        """Return "train", "valid" and "test", and "source_train" and "source_test" of other languages."""
        if not 2 <= n_train <= self.pool:
            raise ValueError(
                f"{self.name} has 2 to {self.pool} training rows to give, not {n_train}: choose n_train among them"
            )
        rng = np.random.default_rng(derived_seed(seed, self.name))
        sizes = [self.pool, self.valid, self.test, self.source_train, self.source_test]
        months = np.array([date.fromordinal(n).month for n in range(FIRST.toordinal(), LAST.toordinal() + 1)])
        train, valid, test, source_train, source_test = stratified(months, sizes, rng)
        splits = {
            "train": self._split(train[:n_train], [self.target]),
            "valid": self._split(valid, [self.target]),
            "test": self._split(test, [self.target]),
            "source_train": self._split(source_train, self.source),
            "source_test": self._split(source_test, self.source),
        }
        return TaskData(
            splits,
            n_classes=0,
            pretrain=TrainArgs(lr=5e-3, batch_size=16, steps=self.pretrain_steps),
            context={"modality": "text", "metric": self.metric},
            work=GENERATION,
        )

    def _split(self, days: np.ndarray, pairs: Sequence[tuple[str, str]]) -> Split:
        """Return a row for each day, the pairs in turn."""
        texts = tuple(_row(day, *pairs[number % len(pairs)]) for number, day in enumerate(days))
        return Split(torch.empty(len(texts), 0), torch.empty(len(texts), 0, dtype=torch.int64), texts)


def _row(number: int, read: str, to: str) -> tuple[str, str]:
    """Return a prompt and its answer."""
    day, write = date.fromordinal(FIRST.toordinal() + int(number)), _write()
    prompt = f"language: {LANGUAGES[to]} | date: " if read == FIELDS else f"Write in {LANGUAGES[to]}: "
    return prompt + write(day, read), write(day, to)


DATE_TASKS = (
    Dates(
        "dates",
        "write a date out in German, told its fields; source: in five other languages (CLDR, inside Babel)",
        source=tuple((FIELDS, code) for code in LANGUAGES if code != "de"),
        target=(FIELDS, "de"),
    ),
    Dates(
        "date_translation",
        "write an English date in German; source: in four other languages (CLDR, inside Babel)",
        source=tuple(("en", code) for code in LANGUAGES if code not in ("en", "de")),
        target=("en", "de"),
    ),
)
