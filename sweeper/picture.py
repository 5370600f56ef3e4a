"""The picture of a sweep: score against trainable parameters."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sweeper.summary import Line


def draw(lines: Sequence[Line], title: str, path: Path) -> None:
    """Draw test score against trainable parameters, mean and standard deviation over seeds, as a PNG.

    One panel for each situation; a dashed line is the source model before it trained.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    situations = [*dict.fromkeys(line.situation for line in lines)]
    figure, axes = plt.subplots(
        1, len(situations), figsize=(6.4 * len(situations), 4.4), squeeze=False, layout="constrained"
    )
    for axis, situation in zip(axes[0], situations, strict=True):
        here = [line for line in lines if line.situation == situation]
        for number, strategy in enumerate(dict.fromkeys(line.strategy for line in here)):
            mine = [line for line in here if line.strategy == strategy]
            points = sorted((_mean(line, "trainable_params"), _mean(line, "test_score"), _std(line)) for line in mine)
            axis.errorbar(
                [params for params, _, _ in points],
                [score for _, score, _ in points],
                yerr=[std for _, _, std in points],
                label=strategy,
                marker="os^Dv*"[number % 6],
                capsize=3,
                linestyle="-" if len(points) > 1 else "none",
            )
        untouched = here[0].spread("untouched_test_score")
        if untouched:
            axis.axhline(untouched.mean, linestyle="--", color="grey", label="source model, untouched")
        seeds = max(len(line.trials) for line in here)
        model, task, n_train = situation
        axis.set_xscale("log")
        axis.set_xlabel("trainable parameters")
        axis.set_ylabel(f"test {here[0].trials[0].context['metric'].replace('_', ' ')} (mean, std over {seeds} seeds)")
        axis.set_title(f"{model} on {task}, {n_train} rows", fontsize=10)
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    figure.suptitle(title, fontsize=11, wrap=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _mean(line: Line, metric: str) -> float:
    spread = line.spread(metric)
    assert spread is not None
    return spread.mean


def _std(line: Line) -> float:
    spread = line.spread("test_score")
    assert spread is not None
    return spread.std or 0.0
