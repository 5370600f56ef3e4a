"""Summaries as tables for people and as JSON for machines."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table

from sweeper.spec import TrialResult
from sweeper.summary import Line, Spread

METRICS_SHOWN = (
    "trainable_params",
    "total_params",
    "valid_score",
    "test_score",
    "untouched_test_score",
    "source_test_score",
    "forgetting",
    "train_seconds",
    "peak_memory_bytes",
    "saved_bytes",
)


def named(hparams: Mapping[str, Any], all_hparams: Sequence[Mapping[str, Any]]) -> str:
    """Return the hyperparameters that tell one line from the others of its strategy, as ``name=value``.

    With nothing to tell apart, all of them.
    """
    telling = [name for name in hparams if len({str(other.get(name)) for other in all_hparams}) > 1]
    return ", ".join(f"{name}={short(hparams[name])}" for name in telling or hparams)


def short(value: Any) -> str:
    """Return a value as people write it: 16, 0.2, all."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def score(spread: Spread | None) -> str:
    """Return a score in per cent as mean and standard deviation over seeds."""
    if spread is None:
        return "-"
    return f"{100 * spread.mean:.1f}" + (f" ± {100 * spread.std:.1f}" if spread.std is not None else "")


def by_score(lines: Iterable[Line]) -> list[Line]:
    """Return lines situation by situation, the best valid score first: choosing looks at valid alone."""

    def key(line: Line) -> tuple[Any, ...]:
        valid = line.spread("valid_score")
        return (*line.situation, -(valid.mean if valid else 0.0))

    return sorted(lines, key=key)


def print_summary(lines: Sequence[Line], console: Console) -> None:
    """Print one table for each situation."""
    for situation in dict.fromkeys(line.situation for line in lines):
        here = by_score(line for line in lines if line.situation == situation)
        model, task, n_train = situation
        untouched = here[0].spread("untouched_test_score")
        table = Table(title=f"{model} on {task}, {n_train} training rows", title_justify="left", box=None)
        for heading in ("strategy", "settings", "lr"):
            table.add_column(heading, no_wrap=True)
        for heading in ("trainable", "%", "valid", "test", "forgets", "seeds", "seconds", "memory"):
            table.add_column(heading, justify="right", no_wrap=True)
        for line in here:
            table.add_row(*_cells(line, [other.hparams for other in here if other.strategy == line.strategy]))
        console.print(table)
        if untouched:
            console.print(f"source model before training: test {score(untouched)}", highlight=False)
        console.print()
    if lines:
        metric = lines[0].trials[0].context["metric"].replace("_", " ")
        console.print(
            f"Scores: {metric} in per cent, mean ± standard deviation over seeds. Learning rate chosen on valid. "
            "forgets: points lost on the source domain.\n"
            f"seconds: of training, a trial's share of its pack. memory: peak {_memory_kind(lines[0])}.",
            highlight=False,
        )


def _memory_kind(line: Line) -> str:
    kind = line.trials[0].context["memory_kind"]
    return "of device memory" if kind == "device" else "resident set of the process that trained the pack"


def _cells(line: Line, siblings: Sequence[Mapping[str, Any]]) -> list[str]:
    def mean(name: str) -> float:
        spread = line.spread(name)
        assert spread is not None
        return spread.mean

    return [
        line.strategy,
        named(line.hparams, siblings),
        f"{line.train['lr']:g}",
        f"{mean('trainable_params'):,.0f}",
        f"{100 * mean('trainable_params') / mean('total_params'):.1f}",
        score(line.spread("valid_score")),
        score(line.spread("test_score")),
        score(line.spread("forgetting")),
        str(len(line.trials)),
        f"{mean('train_seconds'):.2f}",
        f"{mean('peak_memory_bytes') / 2**20:,.0f} MB",
    ]


def as_json(lines: Iterable[Line]) -> list[dict[str, Any]]:
    """Return lines as plain JSON values."""
    return [
        {
            "model": line.model,
            "task": line.task,
            "n_train": line.n_train,
            "strategy": line.strategy,
            "hparams": dict(line.hparams),
            "train": dict(line.train),
            "settings_searched": line.searched,
            "metrics": {name: asdict(spread) for name in METRICS_SHOWN if (spread := line.spread(name))},
            "trial_ids": [trial.trial_id for trial in line.trials],
        }
        for line in by_score(lines)
    ]


def print_rows(results: Sequence[TrialResult], console: Console) -> None:
    """Print one line a trial."""
    table = Table(box=None)
    for heading in ("trial", "status", "model", "task", "rows", "strategy", "settings", "lr", "seed"):
        table.add_column(heading, no_wrap=True)
    for heading in ("valid", "test", "seconds"):
        table.add_column(heading, justify="right", no_wrap=True)
    for result in results:
        spec, metrics = result.spec, result.metrics
        table.add_row(
            result.trial_id,
            result.status.value,
            spec.model,
            spec.task,
            str(spec.n_train),
            spec.strategy,
            named(spec.hparams, []),
            f"{spec.train.lr:g}",
            str(spec.seed),
            f"{metrics['valid_score']:.3f}" if "valid_score" in metrics else "-",
            f"{metrics['test_score']:.3f}" if "test_score" in metrics else "-",
            f"{metrics['train_seconds']:.2f}" if "train_seconds" in metrics else "-",
        )
    console.print(table)
