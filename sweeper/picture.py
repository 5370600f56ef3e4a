"""The picture of a sweep: score against trainable parameters."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sweeper.summary import Line, untouched

COLUMNS = 2


def draw(lines: Sequence[Line], title: str, path: Path) -> None:
    """Draw test score against trainable parameters, mean and standard deviation over seeds, as a PNG.

    One panel for each situation, all on one scale; a dashed line is the source model before it trained.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    situations = sorted({line.situation for line in lines})
    columns = min(COLUMNS, len(situations))
    rows = -(-len(situations) // columns)
    figure, axes = plt.subplots(
        rows,
        columns,
        figsize=(3.4 + 4.2 * columns, 1.2 + 3.4 * rows),
        sharex=True,
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    strategies = sorted({line.strategy for line in lines})
    handles: dict[str, Any] = {}
    for axis, situation in zip(axes.flat, situations, strict=False):
        here = [line for line in lines if line.situation == situation]
        for number, strategy in enumerate(strategies):
            mine = [line for line in here if line.strategy == strategy]
            if not mine:
                continue
            mine.sort(key=lambda line: line.mean("trainable_params"))
            handles[strategy] = axis.errorbar(
                [line.mean("trainable_params") for line in mine],
                [100 * line.mean("test_score") for line in mine],
                yerr=[100 * (spread.std or 0.0) for line in mine if (spread := line.spread("test_score"))],
                color=f"C{number}",
                marker="os^Dv*"[number % 6],
                capsize=3,
                linestyle="-" if len(mine) > 1 else "none",
            )
        before = untouched(here)
        if before:
            name = "source model,\nbefore training"
            handles[name] = axis.axhline(100 * before.mean, linestyle="--", color="grey")
        model, task, n_train, steps = situation
        seeds = max(len(line.trials) for line in here)
        axis.set_xscale("log")
        metric = here[0].trials[0].context["metric"].replace("_", " ")
        axis.set_title(
            f"{model} on {task}: {metric}\n{n_train} rows, {steps} steps, {seeds} seeds", fontsize=9, parse_math=False
        )
        axis.grid(alpha=0.3)
    for axis in axes.flat[len(situations) :]:
        axis.set_visible(False)
    figure.supxlabel("trainable parameters", fontsize=10)
    figure.supylabel("test score, per cent (mean ± std over seeds)", fontsize=10)
    figure.suptitle(textwrap.fill(title, 50 * columns), fontsize=11, parse_math=False)
    figure.legend([*handles.values()], [*handles], loc="outside right upper", fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    plt.close(figure)
