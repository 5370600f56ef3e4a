"""Labelled rows of any kind, as they lie in one file and as they are split: what a user's own data becomes."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sweeper.models.base import UnavailableError, derived_seed
from sweeper.tasks.base import Features, Split, TaskData, features_over, strata, stratified
from sweeper.work import CLASSIFICATION, GENERATION, IGNORED, REGRESSION, TAGGING

METRIC = {
    CLASSIFICATION: "accuracy",
    REGRESSION: "r2",
    TAGGING: "token_accuracy",
    GENERATION: "inverse_perplexity",
}
TRAIN, VALID, TEST = 0, 1, 2
MOST_VALID, MOST_TEST = 500, 1000


@dataclass(frozen=True)
class Rows:
    """Labelled rows, not yet split.

    Attributes:
        work: A name in `sweeper.work.WORK`.
        modality: "text", "image" or "tabular".
        inputs: Texts; for tagging tuples of words; images ``(rows, height, width, channels)`` as uint8; or
            numbers ``(rows, features)`` as float32.
        labels: Class numbers; numbers for regression; for tagging the tag numbers of each row's words; for
            generation the texts to be written.
        names: Names of the classes or tags, by their number.
        groups: Numbers of groups that must not be torn apart by a split, for example a patient's rows.
        parts: Where the rows come split: `TRAIN`, `VALID` or `TEST` for each.
        metric: Name of the score; empty for the usual one of the work.
        facts: More that is known, such as where the rows are from; JSON values.
        columns: For tabular rows: name -> the texts that stand there, none where it holds numbers, as in `Features`.
    """

    work: str
    modality: str
    inputs: Any
    labels: Any
    names: tuple[str, ...] = ()
    groups: np.ndarray | None = None
    parts: np.ndarray | None = None
    metric: str = ""
    facts: dict[str, Any] = field(default_factory=dict)
    columns: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.inputs)

    @property
    def score(self) -> str:
        """The name of the score in `sweeper.metrics.METRICS`."""
        return self.metric or metric_of(self)


def digest(rows: Rows) -> str:
    """Return 12 hex digits that equal rows share on every machine."""
    found = hashlib.sha256()
    found.update(json.dumps([rows.work, rows.modality, rows.names, rows.metric, rows.facts], sort_keys=True).encode())
    if rows.columns:
        found.update(json.dumps([*rows.columns.items()]).encode())
    if rows.modality == "text":
        found.update(json.dumps(list(rows.inputs)).encode())
    else:
        inputs = np.asarray(rows.inputs)
        found.update(f"{inputs.shape}".encode())
        found.update(np.ascontiguousarray(inputs.astype(inputs.dtype.newbyteorder("<"))).tobytes())
    for numbers in (rows.labels, rows.groups, rows.parts):
        plain = numbers.tolist() if isinstance(numbers, np.ndarray) else numbers
        found.update(json.dumps(plain).encode())
    return found.hexdigest()[:12]


def save(rows: Rows, file: Path) -> None:
    """Write rows to a Parquet file, whole or not at all."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    about: dict[str, Any] = {"work": rows.work, "modality": rows.modality, "names": rows.names, "facts": rows.facts}
    about["metric"] = rows.metric
    about["columns"] = rows.columns
    inputs = rows.inputs
    if rows.modality == "image":
        about["shape"] = inputs.shape[1:]
        inputs = [image.tobytes() for image in np.ascontiguousarray(inputs)]
    columns: dict[str, Any] = {"input": list(inputs), "label": list(rows.labels)}
    if rows.groups is not None:
        columns["group"] = rows.groups
    if rows.parts is not None:
        columns["part"] = rows.parts
    table = pa.table(columns).replace_schema_metadata({"sweeper": json.dumps(about)})
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.name}.{secrets.token_hex(4)}")
    try:
        pq.write_table(table, temporary, compression="zstd", write_page_checksum=True)
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)


def load(file: Path) -> Rows:
    """Return the rows that `save` wrote.

    Raises:
        ValueError: the file is not one of these, or damaged.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(file, page_checksum_verification=True)
        about = json.loads(table.schema.metadata[b"sweeper"])
    except (OSError, pa.ArrowException, TypeError, KeyError, ValueError) as error:
        raise ValueError(
            f"{str(file)!r} is damaged, or no rows of ours ({' '.join(str(error).split())[:200]}). Delete it, and "
            "prepare it again"
        ) from None
    raw = table["input"].to_pylist()
    inputs: Any
    if about["modality"] == "image":
        inputs = np.frombuffer(b"".join(raw), np.uint8).reshape(len(raw), *about["shape"])
    elif about["modality"] == "tabular":
        inputs = np.asarray(raw, np.float32)
    else:
        inputs = tuple(tuple(row) if about["work"] == TAGGING else row for row in raw)
    labels = table["label"].to_pylist()
    return Rows(
        work=about["work"],
        modality=about["modality"],
        inputs=inputs,
        labels=np.array(labels) if about["work"] in (CLASSIFICATION, REGRESSION) else tuple(labels),
        names=tuple(about["names"]),
        groups=np.array(table["group"].to_pylist()) if "group" in table.column_names else None,
        parts=np.array(table["part"].to_pylist()) if "part" in table.column_names else None,
        metric=about.get("metric", ""),
        facts=about["facts"],
        columns={name: tuple(texts) for name, texts in about.get("columns", {}).items()},
    )


def metric_of(rows: Rows) -> str:
    """Return the name of the score of a task made of these rows.

    Tags that mark entities, some of them with B-, are scored by whole entities; all others, such as parts of speech, by
    the share of words that are tagged right: the figure that is reported for them, and every word counts, where
    the mean over tags would hang on those that come up once or twice in a test.

    Raises:
        UnavailableError: the package for that score is not here.
    """
    if rows.work == TAGGING and any(name.startswith("B-") for name in rows.names):
        if importlib.util.find_spec("seqeval") is None:
            raise UnavailableError("whole entities are scored by a package: pip install 'sweeper-advisor[hf]'")
        return "entity_f1"
    return METRIC[rows.work]


def sizes(n: int) -> tuple[int, int, int]:
    """Return how many of ``n`` rows there are for training, validation and test: 60, 15 and 25 %, tests up to 1,000."""
    test, valid = min(MOST_TEST, n // 4), min(MOST_VALID, n * 15 // 100)
    return n - valid - test, valid, test


def sizes_of(rows: Rows) -> tuple[int, int, int]:
    """Return how many of these rows there are for training (at least), validation and test (about).

    Where they come split, that counts; validation rows are taken from the training rows where none are named.
    """
    if rows.parts is not None and rows.groups is None:
        train, valid, test = np.bincount(rows.parts, minlength=3)[:3].tolist()
        if not valid:
            valid = min(MOST_VALID, train // 5)
            train -= valid
        return train, min(MOST_VALID, valid), min(MOST_TEST, test)
    pool, n_valid, n_test = sizes(len(rows))
    if rows.groups is None:
        return pool, n_valid, n_test
    # A group that is larger than a part still has to be that part, where all are.
    smallest = [*sorted(np.unique(rows.groups, return_counts=True)[1].tolist())[:2], 0, 0]
    n_valid, n_test = max(n_valid, smallest[0]), max(n_test, smallest[1])
    return len(rows) - n_valid - n_test, n_valid, n_test


def split_rows(rows: Rows, name: str, seed: int, n_train: int) -> TaskData:
    """Return rows split into "train", "valid" and "test" by a seed, stratified by their labels; groups stay whole.

    Every class is in "train", and in the others where it has the rows. Fewer training rows are a part of more of
    them, for one seed. Features that are numbers are standardised by the mean and deviation of the training rows.

    Args:
        rows: All of them, without duplicates.
        name: The task's, for the seed and for messages.
        seed: Decides the splits.
        n_train: How many rows to train on.

    Raises:
        ValueError: there are not as many.
    """
    pool = sizes_of(rows)[0]
    least = max(2, len(rows.names) if rows.work == CLASSIFICATION else 2)
    if not least <= n_train <= pool:
        whole = " where groups stay whole" if rows.groups is not None else ""
        raise ValueError(
            f"{name} has {least} to {pool} training rows to give{whole}, not {n_train}: choose n_train among them"
        )
    train, valid, test = _divided(rows, name, np.random.default_rng(derived_seed(seed, name)))
    train = train[:n_train]
    mean: Any = 0.0
    unit: Any = 1.0
    if rows.work == REGRESSION:
        mean, unit = float(np.mean(rows.labels[train])), float(np.std(rows.labels[train])) or 1.0
    features: Features | None = None
    if rows.modality == "tabular":
        features = features_over(rows.columns, rows.inputs[train])
        rows = replace(rows, inputs=features.standardised(rows.inputs))
    splits = {}
    for part, index in (("train", train), ("valid", valid), ("test", test)):
        if rows.modality == "text" and part != "train":
            # Texts of like length side by side: batches that are scored need little padding.
            index = np.array(sorted(index, key=lambda row: len(rows.inputs[row])))
        splits[part] = _split(rows, index, mean, unit)
    context = {
        "modality": rows.modality,
        "metric": rows.score,
        **({"n_classes": len(rows.names)} if rows.names else {}),
    }
    return TaskData(
        splits,
        n_classes=1 if rows.work == REGRESSION else len(rows.names),
        context=context,
        work=rows.work,
        labels=rows.names,
        unit=unit,
        zero=mean,
        features=features,
    )


def _divided(rows: Rows, name: str, rng: np.random.Generator) -> list[np.ndarray]:
    """Return the row numbers for training, validation and test; training rows in an order that any part may end."""
    kinds, wanted = _strata(rows), sizes_of(rows)
    if rows.groups is not None:
        train, valid, test = _whole_groups(kinds, rows.groups, wanted, rng)
        if not (len(train) >= wanted[0] and len(valid) and len(test)):
            raise ValueError(
                f"{name}: {len(np.unique(rows.groups))} groups that stay whole are too few, or too large, for "
                "training, validation and test rows with every class in training: take another --group-column"
            )
        train = train[stratified(kinds[train], [len(train)], rng)[0]]
    elif rows.parts is not None:
        given = [np.flatnonzero(rows.parts == part) for part in (TRAIN, VALID, TEST)]
        (test,) = (given[TEST][i] for i in stratified(kinds[given[TEST]], [wanted[2]], rng))
        if len(given[VALID]):
            (valid,) = (given[VALID][i] for i in stratified(kinds[given[VALID]], [wanted[1]], rng))
            (train,) = (given[TRAIN][i] for i in stratified(kinds[given[TRAIN]], [wanted[0]], rng))
        else:
            parts = stratified(kinds[given[TRAIN]], wanted[:2], rng)
            train, valid = (given[TRAIN][i] for i in _each_class_in_each(kinds[given[TRAIN]], parts))
    else:
        train, valid, test = _each_class_in_each(kinds, stratified(kinds, wanted, rng))
    # One row of each class first: however few are taken, every class is there.
    first = np.sort(np.unique(kinds[train], return_index=True)[1]) if rows.work == CLASSIFICATION else train[:0]
    return [np.concatenate([train[first], np.delete(train, first)]) if len(first) else train, valid, test]


def _each_class_in_each(kinds: np.ndarray, parts: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Return parts of the same sizes in which every class is, training before the others, if it has the rows."""
    found = [part.copy() for part in parts]
    counts = [np.bincount(kinds[part], minlength=int(kinds.max()) + 1) for part in found]
    for kind in np.unique(kinds).tolist():
        for to in (0, *range(len(found) - 1, 0, -1)):
            if counts[to][kind]:
                continue
            # The part with the most rows of the class gives one, for a row of the class that this part has most of.
            spare = [count[kind] if number != to else 0 for number, count in enumerate(counts)]
            giver, common = int(np.argmax(spare)), int(np.argmax(counts[to]))
            if spare[giver] < (1 if to == 0 else 2) or counts[to][common] < 2:
                continue
            mine = np.flatnonzero(kinds[found[to]] == common)[-1]
            theirs = np.flatnonzero(kinds[found[giver]] == kind)[-1]
            found[to][mine], found[giver][theirs] = found[giver][theirs], found[to][mine]
            for number, sign in ((to, 1), (giver, -1)):
                counts[number][kind] += sign
                counts[number][common] -= sign
    return found


def _strata(rows: Rows) -> np.ndarray:
    """Return a number for each row; rows with equal ones are spread evenly over the splits."""
    if rows.work == CLASSIFICATION:
        return np.asarray(rows.labels)
    if rows.work == REGRESSION:
        return strata(rows.labels)
    return np.zeros(len(rows), dtype=np.int64)


def _whole_groups(
    kinds: np.ndarray, groups: np.ndarray, wanted: Sequence[int], rng: np.random.Generator
) -> list[np.ndarray]:
    """Return row numbers for each part, no more than wanted except in the first, which takes what fits nowhere.

    One group after the other, those that are hardest to place first, goes where its classes are most lacking.
    """
    _, kind = np.unique(kinds, return_inverse=True)
    _, group = np.unique(groups, return_inverse=True)
    members = [np.flatnonzero(group == number) for number in range(int(group.max()) + 1)]
    tally = np.stack([np.bincount(kind[rows], minlength=int(kind.max()) + 1) for rows in members])
    goal = np.outer(np.asarray(wanted) / len(kinds), tally.sum(0))
    have = np.zeros_like(goal)
    place = np.full(len(members), -1)

    def put(number: int, part: int) -> None:
        place[number] = part
        have[part] += tally[number]

    order = rng.permutation(len(members))
    order = order[np.argsort(-tally[order].std(1) - tally[order].max(1), kind="stable")]
    for rare in np.argsort((tally > 0).sum(0), kind="stable"):
        if not have[0, rare]:  # every class is trained on, by the smallest group that has it
            holders = [number for number in order if tally[number, rare]]
            put(min(holders, key=lambda number: tally[number].sum()), 0)
    for number in order:
        if place[number] < 0:
            lacking = (tally[number] * (1 - have / np.maximum(goal, 1e-9))).sum(1)
            fits = [p for p in range(len(wanted)) if p == 0 or have[p].sum() + tally[number].sum() <= wanted[p]]
            put(int(number), max(fits, key=lambda part: lacking[part]))
    for part in range(len(wanted) - 1, 0, -1):
        if not have[part].any():  # a part that no group fits gets the smallest that training can spare
            spare = [n for n in order if place[n] == 0 and ((have[0] - tally[n]) > 0)[have[0] > 0].all()]
            if spare:
                number = min(spare, key=lambda n: tally[n].sum())
                have[0] -= tally[number]
                put(number, part)
    return [np.flatnonzero(place[group] == part) for part in range(len(wanted))]


def _split(rows: Rows, index: np.ndarray, mean: float, unit: float) -> Split:
    n = len(index)
    texts: tuple[Any, ...] = ()
    if rows.modality == "text":
        x = torch.empty(n, 0)
        texts = tuple(rows.inputs[row] for row in index)
    elif rows.modality == "image":
        x = torch.from_numpy(np.ascontiguousarray(np.moveaxis(rows.inputs[index], -1, 1))).float() / 255
    else:
        x = torch.from_numpy(np.ascontiguousarray(rows.inputs[index]))
    if rows.work == CLASSIFICATION:
        y = torch.from_numpy(np.asarray(rows.labels)[index].astype(np.int64))
    elif rows.work == REGRESSION:
        y = torch.from_numpy((rows.labels[index] - mean) / unit).float()
    elif rows.work == TAGGING:
        y = torch.full((n, max(len(rows.labels[row]) for row in index)), IGNORED)
        for place, row in enumerate(index):
            y[place, : len(rows.labels[row])] = torch.tensor(rows.labels[row])
    else:
        y = torch.empty(n, 0, dtype=torch.int64)
        texts = tuple((rows.inputs[row], rows.labels[row]) for row in index)
    return Split(x, y, texts)
