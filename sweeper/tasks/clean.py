"""From a user's table to rows to train on: what cannot be used is dropped, counted and listed.

Duplicates are dropped, because one of them in training and the other in the test rows is leakage: the first one of
equal rows stays (of the test rows first, where the rows come split). Where equal inputs have different labels, all of
them go: none is known to be right, and the choice of the majority would be a label that nobody gave. Two exceptions:
numbers are averaged, and of several answers to one prompt the first stays.
"""

from __future__ import annotations

import json
import math
import re
import statistics
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sweeper.tasks.columns import Asked, Choice, profile
from sweeper.tasks.files import PARTS, Table, as_number
from sweeper.tasks.pictures import decode
from sweeper.tasks.rows import TEST, TRAIN, VALID, Rows
from sweeper.work import CLASSIFICATION, GENERATION, REGRESSION, TAGGING

LEAST_ROWS = 20
LEAST_OF_CLASS = 3  # one for training, one for validation, one for the test
MOST_CLASSES = 1000
MOST_CATEGORIES = 20
MOST_FEATURES = 10_000
IMBALANCED = 3.0
FEW_LABELS = 20
LONG_WORDS = 48  # about what the 64 tokens hold that models here read of a text

PART = {"train": TRAIN, "valid": VALID, "test": TEST}


@dataclass
class Cleaned:
    """Rows to train on, and what became of the others.

    Attributes:
        rows: What is left, each once.
        dropped: Place, reason and beginning of each row that is not among them.
        facts: Counts, for the report.
        notes: What deserves a look, a line each.
    """

    rows: Rows
    dropped: list[tuple[Any, str, str]] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def clean(table: Table, choice: Choice, asked: Asked) -> Cleaned:
    """Return the rows of a table that can be trained on.

    Raises:
        ValueError: too little is left, or a column is not what it would have to be.
    """
    return _Cleaning(table, choice, asked).done()


class _Cleaning:
    """The steps, in their order; `kept` are the numbers of the rows that are still there."""

    def __init__(self, table: Table, choice: Choice, asked: Asked) -> None:
        self.table, self.choice, self.asked = table, choice, asked
        self.kept = list(range(len(table)))
        self.dropped: list[tuple[int, str]] = []
        self.notes: list[str] = []
        self.facts: dict[str, Any] = {}
        self.names: tuple[str, ...] = ()
        self.columns: dict[str, tuple[str, ...]] = {}

    def done(self) -> Cleaned:
        labels = self._labels()
        inputs = self._inputs()
        labels = self._without_duplicates(inputs, labels)
        if self.choice.work == CLASSIFICATION:
            self._without_rare_classes(labels)
        if len(self.kept) < LEAST_ROWS:
            raise ValueError(
                f"{self.table.source} has {len(self.kept)} usable rows, and splits need at least {LEAST_ROWS}"
                + self._because()
            )
        rows = self._rows(inputs, labels)
        self._look(rows)
        at = self.table.at
        dropped = [(at[row], reason, self._beginning(row)) for row, reason in sorted(self.dropped)]
        self.facts["dropped"] = dict(Counter(reason for _, reason, _ in dropped).most_common())
        return Cleaned(rows, dropped, self.facts, self.notes)

    def _drop(self, reasons: dict[int, str]) -> None:
        self.dropped += reasons.items()
        self.kept = [row for row in self.kept if row not in reasons]

    def _because(self) -> str:
        """Return what was dropped, for an error that says that too little is left."""
        counts = Counter(reason for _, reason in self.dropped).most_common()
        return f" (dropped: {', '.join(f'{number} {reason}' for reason, number in counts)})" if counts else ""

    def _beginning(self, row: int) -> str:
        value = self.table.columns[self.choice.inputs[0]][row]
        return "" if self.choice.modality != "text" else str(value if value is not None else "")[:60]

    def _column(self, name: str) -> list[Any]:
        return self.table.columns[name]

    def _labels(self) -> dict[int, Any]:
        """Return each row's label as it stands there; rows without one are dropped."""
        name, work = self.choice.label, self.choice.work
        column, classes = self._column(name), self.table.classes.get(name)
        bad: dict[int, str] = {}
        found: dict[int, Any] = {}
        for row, value in enumerate(column):
            if value is None or (isinstance(value, float) and math.isnan(value)) or value in ("", []):
                bad[row] = "no label"
            elif work == REGRESSION:
                number = as_number(value)
                if number is None or not math.isfinite(number):
                    bad[row] = "a label that is no finite number"
                else:
                    found[row] = number
            elif work == TAGGING:
                if any(tag is None or isinstance(tag, list | dict) for tag in value):
                    bad[row] = "a tag that is missing, or no tag"
                else:
                    found[row] = [_class_name(tag, classes) for tag in value]
            elif work == CLASSIFICATION:
                label = _class_name(value, classes)
                if classes and label is None:
                    bad[row] = "no label"
                else:
                    found[row] = label
            else:
                found[row] = str(value)
                if not found[row].strip():
                    bad[row] = "no label"
        if len(bad) == len(column):
            raise ValueError(f"{self.table.source}: no row has a label in {name!r}: --label-column NAME")
        self._drop(bad)
        return found

    def _inputs(self) -> dict[int, Any]:
        """Return each row's input; rows without one are dropped."""
        if self.choice.modality == "tabular":
            return self._features()
        column = self._column(self.choice.inputs[0])
        if self.choice.modality == "image":
            return self._images()
        bad: dict[int, str] = {}
        found: dict[int, Any] = {}
        for row in self.kept:
            value = column[row]
            if self.choice.work == TAGGING:
                words = tuple(str(word) for word in value or () if word is not None)
                if not words or len(words) != len(value):
                    bad[row] = "no words, or a missing one"
                elif len(words) != len(self._column(self.choice.label)[row]):
                    bad[row] = "not a tag for each word"
                found[row] = words
            elif value is None or not str(value).strip():
                bad[row] = "empty text"
            elif isinstance(value, dict | list | bytes):
                bad[row] = "no text but something nested"
            else:
                found[row] = str(value)
        self._drop(bad)
        return found

    def _images(self) -> dict[int, Any]:
        pictures = [self._column(self.choice.inputs[0])[row] for row in self.kept]
        there = [row for row, picture in zip(self.kept, pictures, strict=True) if picture is not None]
        images, unreadable, stretched = decode(
            [picture for picture in pictures if picture is not None], self.asked.image_size
        )
        bad = dict.fromkeys(set(self.kept) - set(there), "no image")
        bad |= {there[number]: f"unreadable image: {reason}" for number, reason in unreadable.items()}
        good = [row for row in there if row not in bad]
        if not good:
            first = next(iter(unreadable.values()), "none there")
            raise ValueError(
                f"{self.table.source}: none of its {len(pictures)} images can be read ({first}): name a folder of "
                "PNG or JPEG files"
            )
        self._drop(bad)
        self.facts["image"] = f"{images.shape[1]} x {images.shape[2]}, {'grey' if images.shape[3] == 1 else 'colour'}"
        if stretched:
            self.notes.append(f"{stretched} images are no squares: they were stretched")
        return dict(zip(good, images, strict=True))

    def _features(self) -> dict[int, np.ndarray]:
        parts, left_out, bad = [], [], dict[int, str]()
        self.facts["features"] = {}
        for name in self.choice.inputs:
            column = self._column(name)
            found = profile([column[row] for row in self.kept])
            if found.kind == "number":
                numbers = np.array([np.nan if (n := as_number(value)) is None else n for value in column])
                for row in np.flatnonzero(~np.isfinite(numbers)).tolist():
                    bad.setdefault(row, f"no finite number in {name!r}")
                parts.append(numbers[:, None])
                self.columns[name] = ()
                self.facts["features"][name] = "number"
            elif found.kind == "text" and found.numbers >= 0.8 * found.present and found.distinct > MOST_CATEGORIES:
                row = next(r for r in self.kept if column[r] is not None and as_number(column[r]) is None)
                raise ValueError(
                    f"{self.table.source}: {name!r} holds numbers, but {str(column[row])[:40]!r} in row "
                    f"{self.table.at[row]}: mend or delete it"
                )
            elif found.distinct <= MOST_CATEGORIES:
                values = sorted({str(value) for value in column})
                parts.append(np.array([[str(value) == one for one in values] for value in column], float))
                self.columns[name] = tuple(values)
                self.facts["features"][name] = f"{len(values)} categories"
            else:
                left_out.append(f"{name} ({found.distinct} values)")
        if left_out:
            self.notes.append(f"texts of too many values to be categories, left out: {', '.join(left_out)}")
        if not parts:
            raise ValueError(
                f"{self.table.source}: no column is left that could be a feature: name the text with --text-column, "
                "or bring more columns"
            )
        table = np.concatenate(parts, axis=1)
        if table.shape[1] > MOST_FEATURES:
            raise ValueError(f"{self.table.source} has {table.shape[1]:,} features, more than {MOST_FEATURES:,}")
        with np.errstate(over="ignore"):
            table = table.astype(np.float32)
        for row in np.flatnonzero(~np.isfinite(table).all(1)).tolist():
            bad.setdefault(row, "a number too large")
        self._drop({row: reason for row, reason in bad.items() if row in set(self.kept)})
        return {row: table[row] for row in self.kept}

    def _without_duplicates(self, inputs: dict[int, Any], labels: dict[int, Any]) -> dict[int, Any]:
        """Drop rows whose input is another's, and return the labels, those of equal inputs averaged."""
        split = self.choice.split
        part = [PART[PARTS[str(value).strip().lower()]] for value in self._column(split)] if split else []
        order = sorted(self.kept, key=lambda row: -part[row]) if part else self.kept
        exact: Counter[Hashable] = Counter(_exact(inputs[row]) for row in self.kept)
        same: dict[Hashable, list[int]] = {}
        for row in order:
            same.setdefault(normalised(inputs[row]), []).append(row)
        bad: dict[int, str] = {}
        for rows in same.values():
            answers = {json.dumps(labels[row]) for row in rows}
            if len(answers) > 1 and self.choice.work in (CLASSIFICATION, TAGGING):
                bad |= dict.fromkeys(rows, "same input, contradicting labels")
                continue
            if len(answers) > 1 and self.choice.work == REGRESSION:
                labels = {**labels, rows[0]: statistics.fmean(labels[row] for row in rows)}
            first = _exact(inputs[rows[0]])
            for row in rows[1:]:
                if self.choice.work == GENERATION and labels[row] != labels[rows[0]]:
                    bad[row] = "another answer to the same prompt"
                else:
                    bad[row] = "duplicate" if _exact(inputs[row]) == first else "duplicate but for case and signs"
        self.facts["exact_duplicates"] = sum(number - 1 for number in exact.values())
        self.facts["normalised_duplicates"] = len(self.kept) - len(same)
        if part:
            across = sum(len({part[row] for row in rows}) > 1 for rows in same.values())
            if across:
                self.notes.append(f"leakage: {across} inputs were in more than one of the parts that the rows came in")
        self._drop(bad)
        if not self.kept:
            raise ValueError(
                f"{self.table.source}: no usable row is left{self._because()}. `sweeper data check` lists what was "
                "dropped: mend the file"
            )
        return labels

    def _without_rare_classes(self, labels: dict[int, Any]) -> None:
        source, name = self.table.source, self.choice.label
        counts = Counter(labels[row] for row in self.kept)
        total = len(counts)
        if len(counts) == 1:
            raise ValueError(
                f"{source}: all labels in {name!r} are {next(iter(counts))!r}: one class is nothing to tell. Bring "
                "rows of others, or --label-column NAME"
            )
        rare = {label for label, number in counts.items() if number < LEAST_OF_CLASS}
        if self.choice.split:
            trained = {labels[row] for row in self.kept if self._part(row) == TRAIN}
            only_tested = set(counts) - trained
            self._drop({row: "a class without training rows" for row in self.kept if labels[row] in only_tested})
            rare -= only_tested
            counts = Counter(labels[row] for row in self.kept)
        self._drop({row: f"a class of fewer than {LEAST_OF_CLASS} rows" for row in self.kept if labels[row] in rare})
        left = len({labels[row] for row in self.kept})
        if left < 2:
            example = next(iter(counts), "")
            raise ValueError(
                f"{source}: {name!r} has {total:,} different values in {len(labels):,} rows (such as "
                f"{example[:40]!r}), and only {left} of them in {LEAST_OF_CLASS} rows or more: these are no classes"
            )
        if left > MOST_CLASSES:
            raise ValueError(
                f"{source}: {name!r} has {left:,} classes, more than {MOST_CLASSES:,}: no classes to tell apart"
            )

    def _part(self, row: int) -> int:
        assert self.choice.split
        return PART[PARTS[str(self._column(self.choice.split)[row]).strip().lower()]]

    def _rows(self, inputs: dict[int, Any], labels: dict[int, Any]) -> Rows:
        work, modality = self.choice.work, self.choice.modality
        chosen = [inputs[row] for row in self.kept]
        mine = [labels[row] for row in self.kept]
        ready: Any = tuple(mine)
        if work == CLASSIFICATION:
            self.names = tuple(sorted({*mine}, key=_in_order))
            number = {name: place for place, name in enumerate(self.names)}
            ready = np.array([number[label] for label in mine], np.int64)
        elif work == TAGGING:
            self.names = tuple(sorted({tag for tags in mine for tag in tags}, key=_in_order))
            if not 2 <= len(self.names) <= MOST_CLASSES:
                raise ValueError(
                    f"{self.table.source}: {self.choice.label!r} has {len(self.names):,} tags: no tags to tell "
                    "apart: --label-column NAME"
                )
            number = {name: place for place, name in enumerate(self.names)}
            ready = tuple([number[tag] for tag in tags] for tags in mine)
        elif work == REGRESSION:
            ready = np.array(mine, np.float64)
            if np.ptp(ready) == 0:
                raise ValueError(
                    f"{self.table.source}: all numbers in {self.choice.label!r} are equal: nothing to tell. Bring "
                    "others, or --label-column NAME"
                )
        groups = parts = None
        if self.choice.group:
            groups = self._groups()
        elif self.choice.split:
            parts = np.array([self._part(row) for row in self.kept])
            if not {TRAIN, TEST} <= set(parts.tolist()):
                self.notes.append(
                    f"the parts in {self.choice.split!r} are not used: training or test rows have no labels"
                )
                parts = None
        return Rows(
            work=work,
            modality=modality,
            inputs=tuple(chosen) if modality == "text" else np.stack(chosen),
            labels=ready,
            names=self.names,
            groups=groups,
            parts=parts,
            metric="balanced_accuracy" if work == CLASSIFICATION and self._imbalance(ready) > IMBALANCED else "",
            columns=self.columns,
        )

    def _groups(self) -> np.ndarray:
        """Return a number for each row's group; a row without a group is one by itself."""
        assert self.choice.group
        column = self._column(self.choice.group)
        names = [str(column[row]) if column[row] is not None else ("row", row) for row in self.kept]
        number = {name: place for place, name in enumerate(dict.fromkeys(names))}
        if len(number) < 3:
            raise ValueError(
                f"{self.table.source}: {self.choice.group!r} has {len(number)} groups, and splits need at least 3"
            )
        self.facts["groups"] = len(number)
        if self.choice.split:
            self.notes.append(f"the parts in {self.choice.split!r} are not used: groups decide")
        return np.array([number[name] for name in names], np.int64)

    def _imbalance(self, labels: np.ndarray) -> float:
        counts = np.bincount(labels)
        return float(counts.max() / counts.min())

    def _look(self, rows: Rows) -> None:
        """Note what deserves a look."""
        if rows.work == CLASSIFICATION:
            counts = np.bincount(rows.labels)
            self.facts["classes"] = {name: int(counts[place]) for place, name in enumerate(rows.names)}
            self.facts["imbalance"] = round(self._imbalance(rows.labels), 2)
            if rows.metric:
                self.notes.append(
                    f"imbalance: {rows.names[int(counts.argmax())]!r} has {self.facts['imbalance']:g} times the rows "
                    f"of {rows.names[int(counts.argmin())]!r}, so the score is balanced accuracy"
                )
            few = [name for name, number in self.facts["classes"].items() if number * 0.6 < FEW_LABELS]
            if few:
                self.notes.append(
                    f"few labels: {len(few)} of {len(rows.names)} classes have fewer than {FEW_LABELS} training rows "
                    f"({', '.join(few[:5])}{', ...' if len(few) > 5 else ''})"
                )
        elif rows.work == REGRESSION:
            quartiles = np.quantile(rows.labels, [0, 0.25, 0.5, 0.75, 1]).tolist()
            self.facts["label_quartiles"] = [float(f"{value:.6g}") for value in quartiles]
        elif rows.work == TAGGING:
            counted = Counter(tag for tags in rows.labels for tag in tags)
            self.facts["tags"] = {rows.names[tag]: number for tag, number in sorted(counted.items())}
        if rows.modality == "text":
            words = [len(text) if isinstance(text, tuple) else len(text.split()) for text in rows.inputs]
            self.facts["words"] = {
                "median": int(statistics.median(words)),
                "90 %": int(np.quantile(words, 0.9)),
                "most": max(words),
            }
            long = sum(number > LONG_WORDS for number in words)
            self.facts["too_long"] = long
            if long:
                self.notes.append(
                    f"too long: {long} of {len(words)} texts have more than {LONG_WORDS} words, about 64 tokens, "
                    "and models here read no more"
                )


def _class_name(value: Any, classes: list[str] | None) -> Any:
    """Return a label as a class's name: 1 and 1.0 and "1" are one class."""
    if classes is not None and isinstance(value, int) and not isinstance(value, bool):
        return classes[value] if 0 <= value < len(classes) else None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value).strip()


def _in_order(name: str) -> tuple[int, float, str]:
    number = as_number(name)
    return (0, number, name) if number is not None and math.isfinite(number) else (1, 0.0, name)


def _exact(value: Any) -> Hashable:
    return value.tobytes() if isinstance(value, np.ndarray) else value


def normalised(value: Any) -> Hashable:
    """Return what two inputs that say the same share: texts without case and signs, images and numbers as they are."""
    if isinstance(value, str):
        words = re.findall(r"\w+", value.lower())
        return " ".join(words) if words else value.strip()
    if isinstance(value, Sequence):
        return tuple(str(word).lower() for word in value)
    return value.tobytes()
