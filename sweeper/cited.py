"""Figures that others measured, as one long table a file in a store's folder ``cited``: what `sweeper import` reads.

They are no trials of ours: nothing that shows or counts trials sees them, and the advisor never pools them with these
without regard to their source.
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from sweeper.disk import read_small
from sweeper.suggest import no_such

FOLDER = "cited"
MOST_BYTES = 64 * 2**20
COLUMNS = (
    "source",
    "task",
    "task_family",
    "modality",
    "n_train",
    "n_classes",
    "backbone",
    "backbone_params",
    "strategy",
    "hparams",
    "seed",
    "split",
    "metric",
    "better",
    "score",
    "score_std",
    "trainable_params",
    "total_params",
    "train_seconds",
    "peak_memory_bytes",
    "forgetting",
    "note",
)
NEEDED = ("task", "strategy", "score")
NUMBERS = (
    *("n_train", "n_classes", "backbone_params", "score", "score_std", "trainable_params", "total_params"),
    *("train_seconds", "peak_memory_bytes", "forgetting"),
)
BETTER = ("higher", "lower")

Row = dict[str, Any]


def read(path: Path, source: str | None = None, columns: Mapping[str, str] | None = None) -> list[Row]:
    """Return the rows of a file or folder of figures, in the form of `COLUMNS`.

    A CSV with these columns (those of `NEEDED` at least), or an export of MLflow or W&B whose columns are named by
    ``columns``; a result of peft's ``method_comparison``, or a folder of them; a folder of results of Ray Tune.

    Args:
        path: What to read.
        source: Of all rows that name none.
        columns: Of ours -> of the file's; a value that begins with "=" is the same for all rows.

    Raises:
        ValueError: it is none of these, or a row is not what it must be; the message names the line.
    """
    source = source or path.stem
    try:
        if path.is_dir():
            return _of_folder(path, source, columns or {})
        content = read_small(path, MOST_BYTES)
        if path.suffix == ".json":
            return [_of_peft(json.loads(content), source)]
        text = content.decode("utf-8-sig")
    except FileNotFoundError:
        raise ValueError(f"there is no file or folder {str(path)!r}: check the path") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(
            f"{str(path)!r} cannot be read: {_line(error)}. `sweeper import --help` says what can"
        ) from None
    return _of_table(csv.DictReader(io.StringIO(text)), str(path), source, columns or {})


def write(rows: Iterable[Row], store: Path, name: str) -> Path:
    """Write rows as one file of a store, in place of an older one of this name, whole or not at all."""
    folder = store / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{re.sub(r'[^A-Za-z0-9_.-]+', '-', name)}.csv"
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        with temporary.open("w", encoding="utf-8", newline="") as out:
            writer = csv.DictWriter(out, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
            out.flush()
            os.fsync(out.fileno())
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)
    return file


def _of_table(reader: csv.DictReader[str], where: str, source: str, columns: Mapping[str, str]) -> list[Row]:
    have = list(reader.fieldnames or ())
    for name, theirs in columns.items():
        if name not in COLUMNS and not name.startswith("hparams."):
            raise no_such("column", name, COLUMNS, " of ours")
        if not theirs.startswith("=") and theirs not in have:
            raise no_such("column", theirs, have, f" in {where}")
    missing = [name for name in NEEDED if name not in have and name not in columns]
    if missing:
        raise ValueError(
            f"{where} lacks the column {', '.join(missing)}; it has {', '.join(have[:20])}. Say which it is: "
            f"--column {missing[0]}=THEIRS"
        )
    found = []
    for number, theirs_row in enumerate(reader, 2):
        row: Row = {name: theirs_row.get(name) or "" for name in COLUMNS}
        settings = {}
        for name, theirs in columns.items():
            value = theirs[1:] if theirs.startswith("=") else theirs_row.get(theirs) or ""
            if name.startswith("hparams."):
                settings[name.removeprefix("hparams.")] = _plain(value)
            else:
                row[name] = value
        if settings:
            row["hparams"] = json.dumps(settings)
        if not row["score"]:  # a run that came to nothing
            continue
        found.append(_checked(row, f"{where}:{number}", source))
    if not found:
        raise ValueError(f"{where} has no row with a score: --column score=THEIRS names its column")
    return found


def _checked(row: Row, where: str, source: str) -> Row:
    row = {**row, "source": row["source"] or source, "better": row["better"] or "higher"}
    for name in ("task", "strategy"):
        if not row[name] or not str(row[name]).isprintable():
            raise ValueError(f"{where}: {name} must be a name, got {row[name]!r}")
    if row["better"] not in BETTER:
        raise ValueError(f"{where}: better must be higher or lower, got {row['better']!r}")
    for name in NUMBERS:
        if row[name] in ("", None):
            continue
        try:
            fits = math.isfinite(float(row[name]))
        except ValueError:
            raise ValueError(f"{where}: {name} must be a number, got {row[name]!r}") from None
        if not fits and name == "score":
            raise ValueError(f"{where}: {name} must be a finite number, got {row[name]!r}")
        row[name] = row[name] if fits else ""  # others write NaN for what they do not know
    try:
        settings = json.loads(row["hparams"] or "{}")
    except (ValueError, RecursionError):
        settings = None
    if not isinstance(settings, dict):
        raise ValueError(f"{where}: hparams must be a JSON object, got {str(row['hparams'])[:60]!r}")
    return {**row, "hparams": json.dumps(settings, sort_keys=True)}


def _of_folder(folder: Path, source: str, columns: Mapping[str, str]) -> list[Row]:
    """Return the rows of peft's results, or of Ray Tune's, in a folder."""
    found = []
    for file in sorted(folder.rglob("result.json")):
        found.append(_of_tune(file, source, columns))
    for file in sorted(folder.rglob("*.json")) if not found else ():
        content = json.loads(read_small(file, MOST_BYTES))
        of_peft = isinstance(content, dict) and {"run_info", "train_info"} <= set(content)
        if of_peft and content["train_info"].get("status") == "success":
            found.append(_of_peft(content, source))
    if not found:
        raise ValueError("it holds neither results of peft's method_comparison nor result.json files of Ray Tune")
    return found


def _of_peft(content: Mapping[str, Any], source: str) -> Row:
    """Return one result of peft's ``method_comparison`` (its files ``results/*.json``)."""
    run, train = content["run_info"], content["train_info"]
    config, method = run["train_config"], run["peft_config"] or {"peft_type": "full"}
    last = train["metrics"][-1]
    name, score = next(
        (key.removeprefix("test "), value)
        for key, value in last.items()
        if key.startswith("test ") and isinstance(value, int | float) and "loss" not in key
    )
    plain = {key: own for key, own in method.items() if isinstance(own, int | float | str | bool)}
    for key in ("peft_type", "base_model_name_or_path", "task_type", "inference_mode", "revision"):
        plain.pop(key, None)
    optimizer = config.get("optimizer_kwargs") or {}
    settings = {**plain, **optimizer, "batch_size": config.get("batch_size"), "steps": config.get("max_steps")}
    forgetting = last.get("forgetting")
    row = {
        **dict.fromkeys(COLUMNS, ""),
        "source": source,
        "task": "+".join(sorted(content.get("meta_info", {}).get("dataset_info", {}))) or "unknown",
        "n_train": last.get("train samples", ""),
        "backbone": config["model_id"],
        "strategy": str(method["peft_type"]).lower(),
        "hparams": json.dumps(settings),
        "seed": config.get("seed", ""),
        "split": "test",
        "metric": name,
        "score": score,
        "trainable_params": train.get("num_trainable_params", ""),
        "total_params": train.get("num_total_params", ""),
        "train_seconds": train.get("train_time", ""),
        "peak_memory_bytes": train.get("accelerator_memory_max", ""),
        "forgetting": forgetting if isinstance(forgetting, int | float) else "",
        "note": run.get("experiment_name", ""),
    }
    return _checked(row, str(run.get("experiment_name", source)), source)


def _of_tune(file: Path, source: str, columns: Mapping[str, str]) -> Row:
    """Return the last result of a trial of Ray Tune, its settings under ``config``."""
    lines = [line for line in read_small(file, MOST_BYTES).decode("utf-8").split("\n") if line.strip()]
    last = json.loads(lines[-1])
    config = {key: own for key, own in last.get("config", {}).items() if isinstance(own, int | float | str | bool)}
    row: Row = {**dict.fromkeys(COLUMNS, ""), "hparams": json.dumps(config), "train_seconds": last.get("time_total_s")}
    for name in NEEDED:
        if name not in columns:
            raise ValueError(f"a result of Ray Tune does not say what its {name} is: --column {name}=KEY, or =TEXT")
    for name, theirs in columns.items():
        row[name] = theirs[1:] if theirs.startswith("=") else last.get(theirs, config.get(theirs, ""))
    return _checked(row, str(file), source)


def _plain(value: str) -> Any:
    """Return a cell as JSON has it, or as a text."""
    try:
        found = json.loads(value)
    except (ValueError, RecursionError):
        return value
    return found


def _line(error: BaseException) -> str:
    if isinstance(error, KeyError):
        return f"it has no {error}"
    return " ".join(str(error).split())[:200]
