"""What figures of others say, strategy by strategy, with the source of each; and LoRA's learning rate by model size."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from advisor.evaluate import Table, mean_over_seeds, tuned
from advisor.evidence import Published, Rate
from advisor.gaussian import Process, learned_variances, targets
from advisor.likeness import Likeness, missing, plain_name
from advisor.table import long_table, points

LEAST_BACKBONES = 8
"""A learning rate by model size needs so many models."""
SIZES = (None, 1e9, 3e9, 1e10, 3e10, 1e11)


def cited_tables(folder: str | Path) -> list[Path]:
    """Return the tables of figures of others below a store."""
    return sorted(Path(folder).glob("**/cited/*.csv")) if Path(folder).is_dir() else []


def published(tables: Sequence[Path]) -> tuple[list[Published], list[Rate]]:
    """Return what tables of figures of others say."""
    found: list[Published] = []
    rates: list[Rate] = []
    for file in tables:
        frame = long_table(file)
        frame["row"] = pd.read_csv(file)["source"] if len(frame) else None
        for _, own in frame.groupby("source", sort=False):
            found += _of_source(own.reset_index(drop=True))
            rates += _rates(own.reset_index(drop=True))
    return found, rates


def _of_source(frame: pd.DataFrame) -> list[Published]:
    settings = mean_over_seeds(points(frame))
    best = tuned(settings).reset_index(drop=True)
    kept = best.groupby("_situation")["strategy"].transform("size") > 1
    best = best[kept].reset_index(drop=True)
    best["behind"] = best.groupby("_situation")["score"].transform("max") - best["score"]
    found = []
    for strategy, own in best.groupby(best["strategy"].map(lambda name: plain_name(str(name))), sort=True):
        top = own.sort_values(["behind", "score"], ascending=[True, False]).iloc[0]
        raw = frame[(frame["strategy"] == top["strategy"]) & (frame["task"] == top["task"])]
        raw = raw[raw["backbone"].astype(object).fillna("").astype(str) == top["backbone"]]
        first = raw.loc[raw["score"].idxmax() if top["better"] == "higher" else raw["score"].idxmin()]
        sizes = [float(size) for size in own["backbone_params"] if not missing(size)]
        found.append(
            Published(
                source=str(top["source"]),
                strategy=str(strategy),
                modality=_text(top["modality"]),
                smallest=min(sizes, default=None),
                largest=max(sizes, default=None),
                situations=int(own["_situation"].nunique()),
                best_in=int((own["behind"] <= 0).sum()),
                behind=round(float(own["behind"].mean()), 3),
                task=str(top["task"]),
                backbone=str(top["backbone"]),
                score=float(first["score"]),
                row=str(first["row"]),
                peak_memory_bytes=_number(first["peak_memory_bytes"]),
                train_seconds=_number(first["train_seconds"]),
            )
        )
    return found


def _rates(frame: pd.DataFrame) -> list[Rate]:
    """Return LoRA's learning rate and rank by model size, where a source tried them on many models."""
    own = mean_over_seeds(points(frame[frame["strategy"].map(lambda name: plain_name(str(name))) == "lora"]))
    own = own[own["hparams"].map(lambda h: {"lr", "rank"} <= set(h))]
    if own["backbone"].nunique() < LEAST_BACKBONES:
        return []
    table = Table.of(own, ["backbone"])
    measured = len(table.rows)
    tried = sorted({(row["hparams"]["lr"], row["hparams"]["rank"]) for row in table.rows})
    asked: list[dict[str, Any]] = [
        {**table.rows[0], "backbone": "", "backbone_params": size, "hparams": {"lr": lr, "rank": rank}}
        for size in SIZES
        for lr, rank in tried
    ]
    for row in asked:
        row["n_train"] = (row["n_train"] or 0) + 1 + SIZES.index(row["backbone_params"])  # a place of its own
    likeness = Likeness([*table.rows, *asked], True)
    y, _ = targets(table.loss, table.situation, np.arange(measured))
    everything = np.concatenate([y, np.zeros(len(asked))])
    group = np.concatenate([table.group, np.full(len(asked), -1)])
    rows = np.arange(measured)
    variances = learned_variances(likeness, everything, rows)
    weights = Process(likeness, variances, everything, rows, group).without([])
    found = []
    for number, size in enumerate(SIZES):
        mine = measured + number * len(tried) + np.arange(len(tried))
        expected = weights.mean_of(mine)
        lr, rank = tried[int(np.argmax(expected))]
        found.append(
            Rate(str(own["source"].iloc[0]), "lora", size, float(lr), int(rank), int(own["backbone"].nunique()))
        )
    return found


def _text(value: Any) -> str | None:
    return None if missing(value) else str(value)


def _number(value: Any) -> float | None:
    return None if missing(value) or not math.isfinite(float(value)) else float(value)
