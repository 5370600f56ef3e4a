"""The user's own data as a task: ``own:NAME-HASH``, the name of a prepared file that is equal wherever the data is."""

from __future__ import annotations

import csv
import re
import secrets
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from sweeper.fetch import data_folder
from sweeper.models.base import UnavailableError
from sweeper.tasks.base import TaskData
from sweeper.tasks.clean import clean
from sweeper.tasks.columns import Asked, Choice, choose
from sweeper.tasks.files import Table, read_table
from sweeper.tasks.rows import Rows, digest, load, save, sizes_of, split_rows

FAMILY = "own"
SHOWN_CLASSES = 12


@dataclass(frozen=True)
class OwnTask:
    """Rows that a user brought.

    Args:
        rest: The name behind ``own:``.
        file: The prepared rows.
    """

    rest: str
    file: Path

    @property
    def name(self) -> str:
        """The task's name in specs."""
        return f"{FAMILY}:{self.rest}"

    @property
    def rows(self) -> Rows:
        """All of them; a file that is not what its name says is refused."""
        return _loaded(self.file, self.file.stat().st_mtime_ns)

    @property
    def summary(self) -> str:
        """What it asks of a model."""
        return f"{self.rows.work} of {self.rows.modality} rows of your own"

    @property
    def metric(self) -> str:
        """The name of its score."""
        return self.rows.score

    @property
    def n_train(self) -> int:
        """The whole training pool."""
        return sizes_of(self.rows)[0]

    def load(self, seed: int, n_train: int) -> TaskData:
        """Return "train", "valid" and "test"; there is no source domain."""
        return split_rows(self.rows, self.name, seed, n_train)


def find(rest: str) -> OwnTask:
    """Return a file of yours that `sweeper data check` has prepared.

    Raises:
        UnavailableError: the file is not on this machine.
    """
    file = place(rest)
    if not re.fullmatch(r"[a-z0-9_]+-[0-9a-f]{12}", rest) or not file.is_file():
        raise UnavailableError(
            f"the rows of own:{rest} are not here: run `sweeper data check FILE` where the data is, and bring {file} "
            "to this machine (SWEEPER_DATA names another folder than ~/.cache/sweeper/data)"
        )
    return OwnTask(rest, file)


def place(rest: str) -> Path:
    """Return where the rows of a task are kept."""
    return data_folder() / FAMILY / f"{rest}.parquet"


@lru_cache(maxsize=4)
def _loaded(file: Path, changed: int) -> Rows:
    rows = load(file)
    if digest(rows) != file.stem.rpartition("-")[2]:
        raise ValueError(
            f"{str(file)!r} is damaged: its rows are not those of its name. Delete it, and prepare it again"
        )
    return rows


@dataclass(frozen=True)
class Prepared:
    """A user's data, ready to be a task.

    Attributes:
        task: Its name.
        rows: What can be trained on.
        dropped: Where those that cannot are listed; ``None`` where there are none.
        report: Everything that was found, as JSON values.
    """

    task: str
    rows: Rows
    dropped: Path | None
    report: dict[str, Any]


def prepare(asked: Asked) -> Prepared:
    """Read, understand and clean a user's data, and keep the rows where workers find them by the task's name.

    Raises:
        ValueError: the data cannot be used; nothing is written then.
    """
    table = read_table(asked.data, asked.encoding)
    choice = choose(table, asked)
    cleaned = clean(table, choice, asked)
    rows = cleaned.rows
    rest = f"{slug(asked.data)}-{digest(rows)}"
    task = OwnTask(rest, place(rest))
    split_rows(rows, task.name, 0, sizes_of(rows)[0])  # what cannot be split is said before anything is written
    dropped = task.file.with_suffix(".dropped.csv") if cleaned.dropped else None
    if not task.file.is_file() or not _is_whole(task):
        save(rows, task.file)
    if dropped:
        _list(cleaned.dropped, dropped)
    notes = [*table.notes, *choice.notes, *cleaned.notes]
    return Prepared(task.name, rows, dropped, _report(table, choice, rows, task, cleaned.facts, notes, dropped))


def _is_whole(task: OwnTask) -> bool:
    try:
        return len(task.rows) > 0
    except ValueError:
        return False


def slug(data: str) -> str:
    """Return a short plain name for data."""
    name = data.removeprefix("hf:") if data.startswith("hf:") else Path(data).resolve().stem
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")[-40:].strip("_") or "data"


def _list(dropped: list[tuple[Any, str, str]], file: Path) -> None:
    """Write the rows that were dropped as CSV, in which no cell is a formula."""
    temporary = file.with_name(f".{file.name}.{secrets.token_hex(4)}")
    try:
        with temporary.open("w", newline="", encoding="utf-8") as out:
            writer = csv.writer(out)
            writer.writerow(["row", "reason", "beginning"])
            writer.writerows([_inert(str(cell)) for cell in row] for row in dropped)
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)


def _inert(cell: str) -> str:
    """Return a cell that no spreadsheet computes: what begins like a formula gets a quote before it."""
    return f"'{cell}" if cell.lstrip()[:1] in ("=", "+", "-", "@") or cell[:1] in ("\t", "\r") else cell


def _report(
    table: Table,
    choice: Choice,
    rows: Rows,
    task: OwnTask,
    facts: dict[str, Any],
    notes: list[str],
    dropped: Path | None,
) -> dict[str, Any]:
    train, valid, test = sizes_of(rows)
    return {
        "data": table.source,
        "rows_read": len(table),
        "rows": len(rows),
        "columns": list(table.columns),
        "work": choice.work,
        "modality": choice.modality,
        "inputs": list(choice.inputs),
        "label": choice.label,
        "group": choice.group,
        "split": choice.split,
        "metric": rows.score,
        **facts,
        "splits": {"train": train, "valid": valid, "test": test},
        "notes": notes,
        "dropped_file": str(dropped) if dropped else None,
        "task": task.name,
        "file": str(task.file),
    }


def in_words(report: dict[str, Any]) -> list[str]:
    """Return a report as lines for people."""
    inputs = report["inputs"]
    what = {"text": "text", "image": "image", "tabular": "features"}[report["modality"]]
    lines = [
        f"{report['data']}: {report['rows']:,} of {report['rows_read']:,} rows, {report['work']} of "
        f"{report['modality']} rows, scored by {report['metric']}",
        f"  {what}: {_some(inputs)}; label: {report['label']}"
        + (f"; group: {report['group']}" if report["group"] else ""),
    ]
    if "classes" in report:
        classes = sorted(report["classes"].items(), key=lambda item: -item[1])
        counts = _some([f"{name} {number}" for name, number in classes])
        lines.append(f"  {len(classes)} classes: {counts}; the largest is {report['imbalance']:g} times the smallest")
    if "tags" in report:
        lines.append(f"  {len(report['tags'])} tags: {_some([f'{k} {v}' for k, v in report['tags'].items()])}")
    if "label_quartiles" in report:
        least, lower, median, upper, most = report["label_quartiles"]
        lines.append(
            f"  labels: from {least:g} to {most:g}, half of them from {lower:g} to {upper:g}, median {median:g}"
        )
    if "words" in report:
        lines.append("  words a text: " + ", ".join(f"{name} {number}" for name, number in report["words"].items()))
    if "image" in report:
        lines.append(f"  images: {report['image']}")
    lines.append(
        f"  duplicates: {report['exact_duplicates']} exact, {report['normalised_duplicates']} without case and signs"
        if report["modality"] == "text"
        else f"  duplicates: {report['exact_duplicates']}"
    )
    splits = report["splits"]
    lines.append(
        f"  splits for each seed: {splits['train']} to train, {splits['valid']} to choose, {splits['test']} to test"
    )
    lines += [f"  dropped: {number} {reason}" for reason, number in report["dropped"].items()]
    if report["dropped_file"]:
        lines.append(f"  dropped rows are listed in {report['dropped_file']}")
    lines += [f"  note: {note}" for note in report["notes"]]
    return [*lines, f"  task: {report['task']} ({report['file']})"]


def _some(values: list[str]) -> str:
    shown = ", ".join(values[:SHOWN_CLASSES])
    return shown + (f" and {len(values) - SHOWN_CLASSES} more" if len(values) > SHOWN_CLASSES else "")
