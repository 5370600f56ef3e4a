"""Labelled rows of any kind, as they lie in one file and as they are split: what a user's own data becomes."""

from __future__ import annotations

import importlib.util
import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sweeper.models.base import UnavailableError, derived_seed
from sweeper.tasks.base import Split, TaskData, strata, stratified
from sweeper.work import CLASSIFICATION, GENERATION, IGNORED, REGRESSION, TAGGING

METRIC = {
    CLASSIFICATION: "accuracy",
    REGRESSION: "r2",
    TAGGING: "token_accuracy",
    GENERATION: "inverse_perplexity",
}


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
        facts: More that is known, such as where the rows are from; JSON values.
    """

    work: str
    modality: str
    inputs: Any
    labels: Any
    names: tuple[str, ...] = ()
    groups: np.ndarray | None = None
    facts: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.inputs)


def save(rows: Rows, file: Path) -> None:
    """Write rows to a Parquet file, whole or not at all."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    about: dict[str, Any] = {"work": rows.work, "modality": rows.modality, "names": rows.names, "facts": rows.facts}
    inputs = rows.inputs
    if rows.modality == "image":
        about["shape"] = inputs.shape[1:]
        inputs = [image.tobytes() for image in np.ascontiguousarray(inputs)]
    columns: dict[str, Any] = {"input": list(inputs), "label": list(rows.labels)}
    if rows.groups is not None:
        columns["group"] = rows.groups
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
            f"{str(file)!r} is damaged, or no rows of ours ({' '.join(str(error).split())[:200]})"
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
        facts=about["facts"],
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
    test, valid = min(1000, n // 4), min(500, n * 15 // 100)
    return n - valid - test, valid, test


def split_rows(rows: Rows, name: str, seed: int, n_train: int) -> TaskData:
    """Return rows split into "train", "valid" and "test" by a seed, stratified by their labels; groups stay whole.

    Fewer training rows are a part of more of them, for one seed.

    Args:
        rows: All of them, without duplicates.
        name: The task's, for the seed and for messages.
        seed: Decides the splits.
        n_train: How many rows to train on.

    Raises:
        ValueError: there are not as many.
    """
    pool, n_valid, n_test = sizes(len(rows))
    least = max(2, len(rows.names) if rows.work == CLASSIFICATION else 2)
    if not least <= n_train <= pool:
        raise ValueError(f"{name} has {least} to {pool} training rows to give, not {n_train}")
    rng = np.random.default_rng(derived_seed(seed, name))
    kinds = _strata(rows)
    if rows.groups is None:
        train, valid, test = stratified(kinds, [pool, n_valid, n_test], rng)
    else:
        train, valid, test = _whole_groups(rows.groups, [pool, n_valid, n_test], rng)
        if len(train) < n_train:
            raise ValueError(f"{name} has {len(train)} training rows to give where groups stay whole, not {n_train}")
    train = train[:n_train]
    mean, unit = 0.0, 1.0
    if rows.work == REGRESSION:
        mean, unit = float(np.mean(rows.labels[train])), float(np.std(rows.labels[train])) or 1.0
    splits = {}
    for part, index in (("train", train), ("valid", valid), ("test", test)):
        if rows.modality == "text" and part != "train":
            # Texts of like length side by side: batches that are scored need little padding.
            index = np.array(sorted(index, key=lambda row: len(rows.inputs[row])))
        splits[part] = _split(rows, index, mean, unit)
    context = {
        "modality": rows.modality,
        "metric": metric_of(rows),
        **({"n_classes": len(rows.names)} if rows.names else {}),
    }
    return TaskData(
        splits,
        n_classes=1 if rows.work == REGRESSION else len(rows.names),
        context=context,
        work=rows.work,
        labels=rows.names,
        unit=unit,
    )


def _strata(rows: Rows) -> np.ndarray:
    """Return a number for each row; rows with equal ones are spread evenly over the splits."""
    if rows.work == CLASSIFICATION:
        return np.asarray(rows.labels)
    if rows.work == REGRESSION:
        return strata(rows.labels)
    return np.zeros(len(rows), dtype=np.int64)


def _whole_groups(groups: np.ndarray, wanted: Sequence[int], rng: np.random.Generator) -> list[np.ndarray]:
    """Return row numbers for each part, about as many as wanted; the first part takes what fits nowhere."""
    parts: list[list[int]] = [[] for _ in wanted]
    rows_of: dict[Any, list[int]] = {}
    for row, group in enumerate(groups.tolist()):
        rows_of.setdefault(group, []).append(row)
    order = list(rows_of.values())
    rng.shuffle(order)
    for members in order:
        for part in reversed(range(len(wanted))):
            if part == 0 or len(parts[part]) + len(members) <= wanted[part]:
                parts[part] += members
                break
    return [rng.permutation(part) for part in parts]


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
