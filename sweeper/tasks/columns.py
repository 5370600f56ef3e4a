"""Which columns of a user's table are what, and which kind of work that makes: inferred, or asked for.

What is ambiguous is not guessed: the error names the candidates and the option that decides.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from sweeper.suggest import no_such
from sweeper.tasks.files import PARTS, Column, Table, as_number
from sweeper.tasks.pictures import Picture
from sweeper.work import CLASSIFICATION, GENERATION, REGRESSION, TAGGING, WORK

LABELS = {"label", "labels", "target", "class", "category", "sentiment", "y", "rating", "score", "stars"}
TEXTS = {"text", "texts", "sentence", "review", "content", "message", "body", "comment", "document", "tweet"}
WORDS = {"words", "tokens"}
TAGS = {"tags", "ner_tags", "pos_tags", "labels", "ner", "pos"}
PROMPTS = {"prompt", "instruction", "question", "input", "source"}
ANSWERS = {"completion", "response", "answer", "output", "target", "summary", "translation"}
GROUPS = {"user", "user_id", "userid", "group", "group_id", "author", "patient", "patient_id", "subject", "session"}

FEW = 20  # distinct numbers up to which they are classes
MOST_FEW = 50  # distinct values up to which a column without a telling name may be the label
NEARLY_ALL = 0.8


@dataclass(frozen=True)
class Asked:
    """A user's data, and what they said of it; ``None`` is for us to find out."""

    data: str
    text_column: str | None = None
    label_column: str | None = None
    group_column: str | None = None
    work: str | None = None
    encoding: str | None = None
    image_size: int | None = None


@dataclass(frozen=True)
class Profile:
    """What is in a column: "number", "text", "list", "image", "empty" or "object", and how much of it."""

    kind: str
    present: int
    distinct: int
    length: float
    numbers: int


@dataclass(frozen=True)
class Choice:
    """What each column is for.

    Attributes:
        modality: "text", "image" or "tabular".
        inputs: The text, the words or the image; for tabular rows the features.
        notes: What was found out, or is of interest, a line each.
    """

    work: str
    modality: str
    inputs: tuple[str, ...]
    label: str
    group: str | None = None
    split: str | None = None
    notes: tuple[str, ...] = ()


def profile(values: Column) -> Profile:
    """Return what is in a column."""
    there = [value for value in values if value is not None]
    if not there:
        return Profile("empty", 0, 0, 0.0, 0)
    if any(isinstance(value, Picture) for value in there):
        return Profile("image", len(there), len(there), 0.0, 0)
    if all(isinstance(value, list | tuple) for value in there):
        return Profile("list", len(there), len(there), sum(map(len, there)) / len(there), 0)
    if any(isinstance(value, dict | list | tuple | bytes) for value in there):
        return Profile("object", len(there), len(there), 0.0, 0)
    numbers = sum(as_number(value) is not None for value in there)
    length = sum(len(str(value)) for value in there) / len(there)
    kind = "number" if numbers == len(there) else "text"
    return Profile(kind, len(there), len({str(value) for value in there}), length, numbers)


def choose(table: Table, asked: Asked) -> Choice:
    """Return what each column of a table is for.

    Raises:
        ValueError: a column that was asked for is not there, or what is there can be understood in more than one
            way, or in none.
    """
    if asked.work is not None and asked.work not in WORK:
        raise no_such("kind of work", asked.work, WORK)
    for column in (asked.text_column, asked.label_column, asked.group_column):
        if column is not None and column not in table.columns:
            raise no_such("column", column, table.columns, f" in {table.source}")
    return _Chooser(table, asked).choice()


class _Chooser:
    def __init__(self, table: Table, asked: Asked) -> None:
        self.table, self.asked, self.source = table, asked, table.source
        self.profiles = {name: profile(values) for name, values in table.columns.items()}
        self.split = self._split()
        self.notes: list[str] = []
        taken = {asked.group_column, self.split}
        self.free = [name for name in table.columns if name not in taken]

    def choice(self) -> Choice:
        if len(self.table.columns) < 2:
            raise ValueError(
                f"{self.source} has only the column {next(iter(self.table.columns))!r}: no label beside it: put one "
                "in a second column"
            )
        images = self._of("image", self.free)
        lists = self._of("list", self.free)
        pair = self._prompt_and_answer()
        if images and self.asked.work in (None, CLASSIFICATION, REGRESSION):
            label = self._label([name for name in self.free if name not in images])
            return self._done(self._work(label), "image", (self._one("text", images, "text-column"),), label)
        if self.asked.work == TAGGING or (self.asked.work is None and len(lists) >= 2 and not self._plain_label()):
            return self._tagging(lists)
        if self.asked.work == GENERATION or (self.asked.work is None and pair):
            if not pair:
                known = f"a prompt ({', '.join(sorted(PROMPTS))}) and an answer ({', '.join(sorted(ANSWERS))})"
                raise ValueError(
                    f"{self.source}: generation needs two columns of texts, {known}; it has {self._listed(self.free)}. "
                    "Name them: --text-column PROMPT --label-column ANSWER"
                )
            return self._done(GENERATION, "text", (pair[0],), pair[1])
        label = self._label(self.free)
        work = self._work(label)
        text = self._text([name for name in self.free if name != label], work)
        if text is not None:
            return self._done(work, "text", (text,), label)
        return self._done(work, "tabular", self._features(label), label)

    def _done(self, work: str, modality: str, inputs: tuple[str, ...], label: str) -> Choice:
        group = self.asked.group_column
        used = {*inputs, label, group, self.split}
        left = [name for name in self.table.columns if name not in used]
        if left:
            self.notes.append(f"columns that are not used: {', '.join(map(str, left))}")
        for name in left if group is None else ():
            found = self.profiles[name]
            if name.lower() in GROUPS and 1 < found.distinct < found.present:
                self.notes.append(
                    f"{name!r} repeats: if rows of one {name} belong together, say --group-column {name}, "
                    "or they are in training and test rows both"
                )
        return Choice(work, modality, inputs, label, group, self.split, tuple(self.notes))

    def _split(self) -> str | None:
        """Return the column that says which rows are for training and which for the test, where there is one."""
        name = next((name for name in self.table.columns if name.lower() == "split"), None)
        if name is None or name in (self.asked.label_column, self.asked.group_column, self.asked.text_column):
            return None
        parts = {PARTS.get(str(value).strip().lower()) for value in self.table.columns[name]}
        return name if {"train", "test"} <= parts and None not in parts else None

    def _of(self, kind: str, names: Iterable[str]) -> list[str]:
        return [name for name in names if self.profiles[name].kind == kind]

    def _listed(self, names: Iterable[str]) -> str:
        listed = [repr(name) for name in names]
        return ", ".join(listed[:12]) + (f" and {len(listed) - 12} more" if len(listed) > 12 else "")

    def _one(self, what: str, names: list[str], option: str) -> str:
        asked = self.asked.text_column
        if asked in names:
            return str(asked)
        if len(names) == 1:
            return names[0]
        raise ValueError(f"{self.source}: {self._listed(names)} could each be the {what}: --{option} NAME")

    def _plain_label(self) -> bool:
        """Return whether a column that is no list is named or asked for as the label."""
        asked = self.asked.label_column
        if asked is not None:
            return self.profiles[asked].kind != "list"
        return any(name.lower() in LABELS and self.profiles[name].kind != "list" for name in self.free)

    def _tagging(self, lists: list[str]) -> Choice:
        asked = self.asked
        labels = [asked.label_column] if asked.label_column else [n for n in lists if n.lower() in TAGS]
        words = [asked.text_column] if asked.text_column else [n for n in lists if n.lower() in WORDS]
        words = words or [name for name in lists if name not in labels]
        labels = labels or [name for name in lists if name not in words]
        for what, names, option in (("list of words", words, "text-column"), ("list of tags", labels, "label-column")):
            if len(names) != 1:
                raise ValueError(
                    f"{self.source}: {self._listed(names) or 'no column'} could be the {what}: --{option} NAME"
                )
            if self.profiles[names[0]].kind != "list":
                raise ValueError(f"{self.source}: tagging needs lists, and {names[0]!r} holds none")
        return self._done(TAGGING, "text", (words[0],), labels[0])

    def _prompt_and_answer(self) -> tuple[str, str] | None:
        text, label = self.asked.text_column, self.asked.label_column
        if self.asked.work == GENERATION and text and label:
            return text, label
        texts = self._of("text", self.free)
        prompts = [text] if text else [name for name in texts if name.lower() in PROMPTS]
        answers = [label] if label else [name for name in texts if name.lower() in ANSWERS and name not in prompts]
        if len(prompts) != 1 or len(answers) != 1:
            return None
        if text and text.lower() not in PROMPTS and self.asked.work is None:
            return None
        found = self.profiles[answers[0]]
        if found.kind != "text" or (self.asked.work is None and found.distinct <= max(FEW, found.present // 2)):
            return None  # few distinct answers are classes
        return str(prompts[0]), str(answers[0])

    def _label(self, names: list[str]) -> str:
        asked = self.asked.label_column
        if asked is not None:
            if self.profiles[asked].kind in ("list", "object", "image"):
                value = next(value for value in self.table.columns[asked] if value is not None)
                raise ValueError(
                    f"{self.source}: the label column {asked!r} holds no plain values, but {str(value)[:40]}: name "
                    "another"
                )
            return asked
        plain = [
            n for n in names if self.profiles[n].kind in ("text", "number", "empty") and n != self.asked.text_column
        ]
        found = [name for name in plain if name.lower() in LABELS]
        if not found:
            found = [name for name in plain if self._few(self.profiles[name])]
            if len(found) > 1:  # of numbers with few values many a table has several; texts are rarer
                found = self._of("text", found) if len(self._of("text", found)) == 1 else found
        if len(found) == 1:
            return found[0]
        if not found:
            known = self._listed(self.table.columns)
            raise ValueError(f"{self.source}: no column looks like a label, of {known}: --label-column NAME")
        raise ValueError(f"{self.source}: {self._listed(found)} could each be the label: --label-column NAME")

    def _few(self, found: Profile) -> bool:
        return found.kind != "empty" and 2 <= found.distinct <= min(MOST_FEW, max(2, found.present // 3))

    def _work(self, label: str) -> str:
        """Return whether labels are classes or numbers."""
        found, asked = self.profiles[label], self.asked.work
        values = [value for value in self.table.columns[label] if value is not None]
        if asked == CLASSIFICATION or label in self.table.classes:
            return CLASSIFICATION
        mixed = found.kind == "text" and found.numbers >= NEARLY_ALL * found.present and found.distinct > FEW
        if mixed or (asked == REGRESSION and found.kind != "number"):
            place = next(
                (i for i, v in enumerate(self.table.columns[label]) if v is not None and as_number(v) is None), None
            )
            if place is not None:
                odd = str(self.table.columns[label][place])[:40]
                raise ValueError(
                    f"{self.source}: the label column {label!r} holds numbers, but {odd!r} in row "
                    f"{self.table.at[place]}: mend or delete it, or --work classification"
                )
        if found.kind != "number":
            return CLASSIFICATION
        numbers = [as_number(value) for value in values]
        whole = all(n is not None and math.isfinite(n) and n == int(n) for n in numbers)
        if asked == REGRESSION or found.distinct > (FEW if whole else FEW // 2):
            return REGRESSION
        return CLASSIFICATION

    def _text(self, names: list[str], work: str) -> str | None:
        """Return the column of texts; ``None`` where rows are features."""
        asked = self.asked.text_column
        if asked is not None:
            if self.profiles[asked].kind in ("list", "object", "image", "empty"):
                raise ValueError(f"{self.source}: the text column {asked!r} holds no texts: name another")
            return asked
        texts = self._of("text", names)
        named = [name for name in texts if name.lower() in TEXTS]
        if len(named) == 1:
            return named[0]
        # Texts are mostly different from each other, or of several words; categories are neither.
        long = [n for n in texts if self.profiles[n].length >= 20 and self.profiles[n].distinct > MOST_FEW] or named
        if not long and texts and not self._of("number", names):
            long = [n for n in texts if self.profiles[n].distinct > self.profiles[n].present // 2]
        if not long:
            return None
        long.sort(key=lambda name: -self.profiles[name].length)
        close = [name for name in long if self.profiles[name].length >= self.profiles[long[0]].length / 2]
        if len(close) > 1:
            raise ValueError(f"{self.source}: {self._listed(close)} could each be the text: --text-column NAME")
        return long[0]

    def _features(self, label: str) -> tuple[str, ...]:
        names = []
        for name in self.free:
            found = self.profiles[name]
            if name == label or found.kind in ("list", "object", "empty", "image"):
                continue
            number = name.lower() in ("id", "index") or name.startswith(("column ", "Unnamed"))
            if number and found.distinct == found.present:
                continue  # a row's number is no feature
            names.append(name)
        if not names:
            raise ValueError(
                f"{self.source}: beside the label {label!r} there is neither a column of texts nor one of numbers: "
                "--text-column NAME"
            )
        return tuple(names)
