"""What is like what: covariances between candidates in situations, each a product of two factors.

One factor says how alike two candidates are (the same strategy; also a near learning rate; also near settings), the
other how alike two situations are (any two; a backbone of a like name or size; a training set of a like size; ...).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[np.float64]]
Codes = np.ndarray[Any, np.dtype[np.int64]]
Switches = np.ndarray[Any, np.dtype[np.bool_]]
Row = Mapping[str, Any]
"""One measured result: the columns of `advisor.table`."""

RATES = ("lr", "learning_rate", "params.lr", "params.learning_rate")
FAR = 50.0
RATE_DECADES = 0.4
"""At this distance learning rates say 0.6 of what they say at none."""
SETTING_DECADES = 0.6
GIVEN_DECADES = 0.2
"""The same for numbers among the settings that are the same for all candidates of a situation (a width)."""
DECADES = {"n_train": 0.5, "backbone_params": 0.5, "n_classes": 0.3}
LINEAR = {"probe_score": 0.15}
"""The same for what is no magnitude."""
SAME = ("task_family", "modality")
NAMED = ("task", "backbone")
TOGETHER = (("backbone", "task_family"), ("backbone", "n_train"), ("backbone_params", "n_train"))
"""What a strategy loses may depend on two properties at once."""
OTHER_SOURCE = 0.1
"""What a row of another source counts: two labs' tables differ by more than what their methods do."""
ALIASES = {
    "full_fine_tuning": "full",
    "full_finetuning": "full",
    "finetune": "full",
    "linear_probe": "feature_extraction",
    "frozen": "feature_extraction",
    "adapters": "adapter",
}


def plain_name(strategy: str) -> str:
    """Return a strategy's name as ours has it, where it is one of ours under another."""
    name = strategy.lower().replace("-", "_").replace(" ", "_")
    return ALIASES.get(name, name)


def missing(value: Any) -> bool:
    """Return whether a cell is empty."""
    return value is None or value == "" or (isinstance(value, float) and math.isnan(value))


def is_magnitude(value: Any) -> bool:
    """Return whether a value is a number above zero, which is compared by its decades."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf


def coded(values: Sequence[Any]) -> tuple[list[Any], Codes]:
    """Return the distinct values in order of appearance, and each value's place among them."""
    known: dict[str, int] = {}
    first: list[Any] = []
    codes = np.empty(len(values), dtype=np.int64)
    for i, value in enumerate(values):
        text = repr(value) if not isinstance(value, str) else value
        if text not in known:
            known[text] = len(first)
            first.append(value)
        codes[i] = known[text]
    return first, codes


def renumbered(codes: Codes) -> Codes:
    """Return codes renumbered without gaps."""
    return np.unique(codes, return_inverse=True)[1].astype(np.int64)


def place_of(row: Row) -> str:
    """Return what situation a row is in: source, task, number of rows, backbone."""
    rows = "" if missing(row.get("n_train")) else f"{row['n_train']:g}"
    return f"{row['source']}|{row['task']}|{rows}|{row['backbone']}"


def setting_text(row: Row) -> str:
    """Return a candidate's name: strategy and settings."""
    return f"{row['strategy']} {json.dumps(row['hparams'], sort_keys=True, default=str)}"


def _near(distance: Array) -> Array:
    found: Array = np.exp(-0.5 * distance**2)
    return found


def _number_table(values: Sequence[Any], width: float, scale: Callable[[float], float] = math.log10) -> Array:
    """Return how alike numbers are; those that are not known are like one another alone, or this were no covariance."""
    known = np.array([not missing(v) and (scale is not math.log10 or is_magnitude(v)) for v in values])
    numbers = np.array([scale(float(v)) if ok else 0.0 for v, ok in zip(values, known, strict=True)])
    alike = _near((numbers[:, None] - numbers[None, :]) / width)
    both = known[:, None] & known[None, :]
    neither = ~known[:, None] & ~known[None, :]
    return np.where(both, alike, neither.astype(float))


def _word_table(values: Sequence[Any]) -> Array:
    """Return how alike names are: the squared share of their words and numbers that they have in common (Jaccard)."""
    words = [frozenset(re.findall(r"[a-z]+|\d+(?:\.\d+)?", str(value).lower())) for value in values]
    return np.array([[(len(a & b) / len(a | b)) ** 2 if a | b else 1.0 for b in words] for a in words])


def _same_table(values: Sequence[Any]) -> Array:
    return np.array([[float(a == b) for b in values] for a in values])


class Likeness:
    """Covariance factors of some rows.

    Attributes:
        situation: Number of each row's situation.
        components: Name of each product of factors.
    """

    def __init__(self, rows: Sequence[Row], joint: bool) -> None:
        """Take rows; ``joint`` says whether settings count or the strategy alone."""
        self.rows = rows
        places, self.situation = coded([place_of(row) for row in rows])
        first = np.array([int(np.argmax(self.situation == n)) for n in range(len(places))], dtype=np.int64)
        self._source = coded([row["source"] for row in rows])[1]
        self.strategies, self._strategy = coded([plain_name(str(row["strategy"])) for row in rows])
        given = self._settings() if joint else {}
        self._places = self._situation_tables([rows[i] for i in first], given, first)
        self._sizes = None if joint else self._trainable()
        self._kinds = _word_table(self.strategies)
        alike = ["kind", "strategy"]
        alike += ["pace", "rate", "setting"] if joint else ["size"] if self._sizes is not None else []
        if len(self.strategies) < 2:
            alike = [name for name in alike if name not in ("kind", "strategy")] or ["strategy"]
        # Of strategies that are named alike little is known: how they compare anywhere.
        self.components = [(own, place) for own in alike for place in self._places if own != "kind" or place == "any"]

    def _situation_tables(self, first: Sequence[Row], given: Mapping[str, list[Any]], rows: Codes) -> dict[str, Array]:
        """Return how alike situations are, by each property that differs between any."""
        tables = {"any": np.ones((len(first), len(first)))}
        for name in NAMED:
            tables[name] = self._of(first, name, _word_table)
        for name in SAME:
            tables[name] = self._of(first, name, _same_table)
        for name, width in DECADES.items():
            tables[name] = self._of(first, name, partial(_number_table, width=width))
        for name, width in LINEAR.items():
            tables[name] = self._of(first, name, partial(_number_table, width=width, scale=float))
        for name, values in given.items():
            tables[f"given {name}"] = _number_table([values[i] for i in rows], GIVEN_DECADES)
        tables = {name: own for name, own in tables.items() if name == "any" or np.ptp(own) > 1e-9}
        for a, b in TOGETHER:
            if a in tables and b in tables:
                tables[f"{a}, {b}"] = tables[a] * tables[b]
        return tables

    @staticmethod
    def _of(first: Sequence[Row], name: str, table: Callable[[Sequence[Any]], Array]) -> Array:
        values, codes = coded([None if missing(row.get(name)) else row[name] for row in first])
        return table(values)[np.ix_(codes, codes)]

    def _settings(self) -> dict[str, list[Any]]:
        """Prepare settings as tables of distances; return numbers that are the same all over each situation."""
        keys = sorted({key for row in self.rows for key in row["hparams"]})
        self._gaps: list[tuple[Array, Codes]] = []
        self._rate: tuple[Array, Codes] | None = None
        given: dict[str, list[Any]] = {}
        for key in keys:
            column = [_rounded(row["hparams"].get(key)) for row in self.rows]
            values, codes = coded(column)
            if len(values) < 2:
                continue
            pairs = len(set(zip(self.situation.tolist(), codes.tolist(), strict=True)))
            if pairs == int(self.situation.max()) + 1 and all(own is None or is_magnitude(own) for own in values):
                given[key] = column
                continue
            rate = key in RATES and self._rate is None
            gaps = _gaps(values, RATE_DECADES if rate else SETTING_DECADES)
            self._gaps.append((gaps, codes))
            if rate:
                self._rate = gaps, codes
        self._pace = self._paces()
        return dict(list(given.items())[:3])

    def _paces(self) -> tuple[Array, Codes]:
        """Return how alike candidates are in their learning rate, seen from what is usual for their strategy."""
        rates = [next((row["hparams"][key] for key in RATES if key in row["hparams"]), None) for row in self.rows]
        logs = np.array([math.log10(rate) if rate is not None and is_magnitude(rate) else np.nan for rate in rates])
        usual = [
            float(np.median(own[~np.isnan(own)])) if (~np.isnan(own := logs[self._strategy == n])).any() else np.nan
            for n in range(len(self.strategies))
        ]
        off = logs - np.array(usual)[self._strategy]
        values, codes = coded([None if np.isnan(own) else round(float(own), 2) for own in off])
        return _number_table(values, RATE_DECADES, float), codes

    def _trainable(self) -> tuple[Array, Codes] | None:
        """Return how alike candidates are in the share of parameters that train, where most rows say it."""
        shares = []
        for row in self.rows:
            train, total = row.get("trainable_params"), row.get("backbone_params")
            known = is_magnitude(train) and is_magnitude(total)
            shares.append(round(math.log10(min(1.0, float(train) / float(total))), 1) if known else None)  # type: ignore[arg-type]
        if sum(share is not None for share in shares) < len(shares) / 2:
            return None
        values, codes = coded(shares)
        return _number_table(values, 1.0, float), codes

    def _candidates(self, name: str, a: Codes, b: Codes) -> Array:
        """Return how alike candidates are, ``(len(a), len(b))``."""
        if name == "kind":
            return self._kinds[np.ix_(self._strategy[a], self._strategy[b])]
        if name in ("size", "pace"):
            table, codes = (self._sizes if name == "size" else self._pace) or (np.ones((1, 1)), np.zeros_like(a))
            return table[np.ix_(codes[a], codes[b])]
        same = (self._strategy[a][:, None] == self._strategy[b][None, :]).astype(float)
        if name == "strategy":
            return same
        parts = self._gaps if name == "setting" else [self._rate] if self._rate is not None else []
        total = np.zeros((len(a), len(b)))
        for gaps, codes in parts:
            total += gaps[np.ix_(codes[a], codes[b])]
        return same * np.exp(-0.5 * total)

    def each(self, a: Codes) -> Array:
        """Return every component's covariances between some rows, ``(components, len(a), len(a))``."""
        found = np.empty((len(self.components), len(a), len(a)))
        own = {name: self._candidates(name, a, a) for name in dict.fromkeys(c for c, _ in self.components)}
        pairs = np.ix_(self.situation[a], self.situation[a])
        places = {name: table[pairs] for name, table in self._places.items()}
        sources = self._sources(a, a)
        for number, (candidate, place) in enumerate(self.components):
            found[number] = own[candidate] * places[place] * sources
        return found

    def between(self, variances: Array, a: Codes, b: Codes) -> Array:
        """Return covariances between rows, ``(len(a), len(b))``, for a variance of each component."""
        total = np.zeros((len(a), len(b)))
        pairs = np.ix_(self.situation[a], self.situation[b])
        for name in dict.fromkeys(c for c, _ in self.components):
            places = sum(
                v * self._places[place]
                for v, (candidate, place) in zip(variances, self.components, strict=True)
                if candidate == name
            )
            total += self._candidates(name, a, b) * np.asarray(places)[pairs]
        return total * self._sources(a, b)

    def situations_alike(self) -> Array:
        """Return how alike situations are by all properties together: the mean over them."""
        return np.mean(list(self._places.values()), axis=0)

    def _sources(self, a: Codes, b: Codes) -> Array:
        return np.where(self._source[a][:, None] == self._source[b][None, :], 1.0, OTHER_SOURCE)


def _rounded(value: Any) -> Any:
    """Return a number to a twentieth of a decade, so that numbers drawn at random are few; anything else as it is."""
    return 10 ** (round(20 * math.log10(value)) / 20) if is_magnitude(value) else value


def _gaps(values: Sequence[Any], width: float) -> Array:
    """Return squared distances of the values of a setting: in decades; 1 between others that differ; else far away."""
    numbers = np.array([math.log10(value) if is_magnitude(value) else np.nan for value in values])
    texts = np.array([repr(value) for value in values])
    found = ((numbers[:, None] - numbers[None, :]) / width) ** 2
    other = np.isnan(numbers)
    found = np.where(other[:, None] & other[None, :], (texts[:, None] != texts[None, :]).astype(float), found)
    return np.where(np.isnan(found), FAR, found)
