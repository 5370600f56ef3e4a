"""Evidence of any origin as one long table: own trials of a results store, and figures that others published.

Columns: those of `COLUMNS`; one measured result a row. What is unknown is missing.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from sweeper.results import MARKER, read_store
from sweeper.spec import Status, TrialResult

OWN = "own"
NEEDED = ("task", "strategy", "score")
COLUMNS = (
    "source",
    "task",
    "task_family",
    "modality",
    "n_train",
    "n_classes",
    "probe_score",
    "backbone",
    "backbone_params",
    "strategy",
    "hparams",
    "seed",
    "valid",
    "score",
    "better",
    "trainable_params",
    "train_seconds",
    "peak_memory_bytes",
    "forgetting",
)
NUMBERS = ("n_train", "backbone_params", "valid", "score", "trainable_params", "train_seconds", "peak_memory_bytes")


def read(path: str | Path) -> pd.DataFrame:
    """Return the long table of a results store and of the tables in its folder ``cited``; or of a table by itself.

    Raises:
        ValueError: ``path`` is neither a store nor a table, or a table lacks a column that is needed.
    """
    folder = Path(path)
    if folder.is_file():
        return long_table(folder)
    if folder.is_dir() and not (folder / MARKER).exists():
        files = sorted(folder.glob("*.csv"))
        if files:
            return pd.concat([long_table(file) for file in files], ignore_index=True)
    contents = read_store(path)
    own = [_own(row) for row in contents.results if row.status is Status.COMPLETE]
    tables = [long_table(file) for file in sorted(folder.glob("**/cited/*.csv"))] if folder.is_dir() else []
    frames = [frame for frame in (pd.DataFrame(own, columns=list(COLUMNS)), *tables) if len(frame)]
    if not frames:
        raise ValueError(f"{str(path)!r} holds no complete trial and no table: `sweeper launch` or `sweeper import`")
    return pd.concat(frames, ignore_index=True)


def _own(row: TrialResult) -> dict[str, Any]:
    spec = row.spec
    train = {key: value for key, value in spec.to_dict()["train"].items() if key != "warmup"}
    names = ("trainable_params", "train_seconds", "peak_memory_bytes", "forgetting")
    return {
        "source": OWN,
        "task": spec.task,
        "task_family": row.context.get("work"),
        "modality": row.context["modality"],
        "n_train": spec.n_train,
        "n_classes": row.context.get("n_classes"),
        "probe_score": row.context.get("probe_score"),
        "backbone": spec.model,
        "backbone_params": row.context["model_params"],
        "strategy": spec.strategy,
        "hparams": {**spec.hparams, **train},
        "seed": spec.seed,
        "valid": row.metrics["valid_score"],
        "score": row.metrics["test_score"],
        "better": "higher",
        **{name: row.metrics.get(name) for name in names},
    }


def long_table(file: Path) -> pd.DataFrame:
    """Return a CSV in the form of `COLUMNS`, ``split`` telling scores on validation rows from those on test rows.

    Sources are cut to their first word: what follows says where in a source a figure stands.

    Raises:
        ValueError: a column is missing, or a score is no number.
    """
    try:
        frame = pd.read_csv(file)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{str(file)!r} is no table: {' '.join(str(error).split())[:200]}. `sweeper import` makes one of other "
            "files"
        ) from None
    missing = [name for name in NEEDED if name not in frame]
    if missing:
        have = ", ".join(map(str, [*frame][:20]))
        raise ValueError(f"{str(file)!r} lacks the column {', '.join(missing)}: it has {have}; name them so")
    for name in NUMBERS:
        if name in frame:
            numbers = pd.to_numeric(frame[name], errors="coerce")
            if name == "score" and (numbers.isna() | ~numbers.map(math.isfinite)).any():
                row = int(numbers.isna().to_numpy().argmax()) + 2
                raise ValueError(
                    f"{str(file)!r}: the score in line {row} is no number: put one there, or delete the line"
                )
            frame[name] = numbers
    if "source" in frame:
        frame["source"] = frame["source"].astype(str).str.split().str[0]
    else:
        frame["source"] = file.stem
    cells = frame["hparams"] if "hparams" in frame else [None] * len(frame)
    frame["hparams"] = pd.Series([_settings(cell) for cell in cells], index=frame.index, dtype=object)
    frame["better"] = frame["better"].fillna("higher") if "better" in frame else "higher"
    if "split" in frame and (frame["split"] == "valid").any() and (frame["split"] == "test").any():
        # The same run scored twice: on validation rows, to choose by, and on test rows.
        keys = [name for name in ("source", "task", "n_train", "backbone", "strategy", "seed") if name in frame]
        frame["_settings"] = frame["hparams"].map(lambda own: json.dumps(own, sort_keys=True, default=str))
        valid = frame[frame["split"] == "valid"].groupby([*keys, "_settings"], dropna=False)["score"].mean()
        frame = frame[frame["split"] == "test"].merge(
            valid.rename("valid").reset_index(), how="left", on=[*keys, "_settings"]
        )
    frame = frame.reindex(columns=list(COLUMNS))
    frame["backbone_params"] = pd.to_numeric(frame["backbone_params"]).fillna(frame["backbone"].map(size_in_name))
    return frame


def size_in_name(backbone: Any) -> float:
    """Return the parameters that a model's name tells ("Llama-3.2-1B"), NaN where it tells none."""
    match = re.search(r"(?<![A-Za-z0-9.])(\d+(?:\.\d+)?)([bBmM])(?![A-Za-z0-9])", str(backbone))
    return float(match[1]) * {"b": 1e9, "m": 1e6}[match[2].lower()] if match else math.nan


def _settings(value: Any) -> dict[str, Any]:
    """Return hyperparameters from a cell; what is no object is one setting by the name of "setting"."""
    if isinstance(value, Mapping):
        return dict(value)
    if not isinstance(value, str) or not value.strip():
        return {}
    try:
        found = json.loads(value)
    except (ValueError, RecursionError):
        found = value
    return found if isinstance(found, dict) else {"setting": found}


def points(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a table with scores in points: per cent, higher is better.

    Fractions are taken times 100, per cent as they are. What is better lower (a loss) is counted in per cent of the
    best of its situation, downwards: a loss one per cent above the best is at -1.
    """
    frame = frame.copy()
    for name in ("source", "task", "backbone"):
        frame[name] = frame[name].astype(object).fillna("").astype(str)
    situation = situations(frame)
    lower = frame["better"] == "lower"
    for name in ("score", "valid"):
        own = frame[name].astype(float)
        scale = frame.groupby("source")[name].transform(lambda s: 100.0 if s.abs().max() <= 1.0 else 1.0)
        best = own.groupby(situation).transform("min")
        frame[name] = (scale * own).where(~lower, -100 * (own - best) / best.abs())
    return frame


def situations(frame: pd.DataFrame) -> pd.Series:
    """Return what situation each row is in: source, task, number of rows, backbone."""
    rows = frame["n_train"].map(lambda n: "" if pd.isna(n) else f"{n:g}")
    places = [frame[name].astype(str) for name in ("source", "task", "backbone")]
    joined: pd.Series = places[0] + "|" + places[1] + "|" + rows.astype(str) + "|" + places[2]
    return joined


def names_of(settings: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return hyperparameters as texts, equal for equal ones."""
    return [json.dumps(own, sort_keys=True, default=str) for own in settings]
