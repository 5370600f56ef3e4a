"""Summaries as tables for people and as JSON for machines."""

from __future__ import annotations

import html
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, TypeVar

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from sweeper.diagnose import DIAGNOSES
from sweeper.spec import TrialResult
from sweeper.summary import Line, Spread, untouched

METRICS_SHOWN = (
    "trainable_params",
    "total_params",
    "valid_score",
    "test_score",
    "untouched_test_score",
    "source_test_score",
    "forgetting",
    "test_macro_f1",
    "test_calibration_error",
    "test_rmse",
    "test_precision",
    "test_recall",
    "test_perplexity",
    "test_rouge_l",
    "test_bleu",
    "shifted_test_score",
    "train_seconds",
    "train_flops",
    "inference_flops",
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


def amount(spread: Spread | None) -> str:
    """Return a number in its own unit as mean and standard deviation over seeds."""
    if spread is None:
        return "-"
    return f"{spread.mean:.3g}" + (f" ± {spread.std:.2g}" if spread.std is not None else "")


def macro_f1(line: Line) -> str:
    """Return macro-F1, where it is not the score; rows from before calibration have their tables as they were."""
    new = line.spread("test_calibration_error") is not None
    return score(line.spread("test_macro_f1")) if new and line.trials[0].context["metric"] != "macro_f1" else "-"


def by_class_matters(line: Line) -> bool:
    """Return whether macro-F1 and calibration are worth a column: for texts, and where classes fare differently."""
    spread = line.spread("test_macro_f1")
    differs = spread is not None and abs(spread.mean - line.mean("test_score")) > DIFFERS_BY
    return differs or line.trials[0].context["modality"] == "text"


def marks(line: Line) -> str:
    """Return the first letter of each diagnosis, and on how many seeds it was made; for older rows nothing."""
    if not any("diagnoses" in trial.metrics for trial in line.trials):
        return "-"
    return " ".join(f"{name[0].upper()}{seeds}" for name, seeds in line.diagnoses().items()) or "-"


def by_score(lines: Iterable[Line]) -> list[Line]:
    """Return lines situation by situation, the best valid score first: choosing looks at valid alone."""

    def key(line: Line) -> tuple[Any, ...]:
        valid = line.spread("valid_score")
        return (*line.situation, -(valid.mean if valid else 0.0))

    return sorted(lines, key=key)


# From this difference on, macro-F1 says something that the score does not.
DIFFERS_BY = 0.02

# Heading -> its cell, from left to right; those that stand only where some line has the number; and what a narrow
# terminal does without, first to go first.
SUMMARY: Mapping[str, Callable[[Line], str]] = {
    "lr": lambda line: f"{line.train['lr']:g}",
    "trainable": lambda line: f"{line.mean('trainable_params'):,.0f}",
    "%": lambda line: f"{100 * line.mean('trainable_params') / line.mean('total_params'):.1f}",
    "valid": lambda line: score(line.spread("valid_score")),
    "test": lambda line: score(line.spread("test_score")),
    "shifted": lambda line: score(line.spread("shifted_test_score")),
    "macro-F1": macro_f1,
    "calibration": lambda line: score(line.spread("test_calibration_error")),
    "RMSE": lambda line: amount(line.spread("test_rmse")),
    "precision": lambda line: score(line.spread("test_precision")),
    "recall": lambda line: score(line.spread("test_recall")),
    "perplexity": lambda line: amount(line.spread("test_perplexity")),
    "ROUGE-L": lambda line: score(line.spread("test_rouge_l")),
    "BLEU": lambda line: score(line.spread("test_bleu")),
    "forgets": lambda line: score(line.spread("forgetting")),
    "seeds": lambda line: (
        f"{len(line.trials)} of {len(line.trials) + line.pruned}" if line.pruned else str(len(line.trials))
    ),
    "seconds": lambda line: f"{line.mean('train_seconds'):.2f}",
    "memory": lambda line: f"{line.mean('peak_memory_bytes') / 2**20:,.0f} MB",
    "signs": marks,
}
OPTIONAL = (
    *("shifted", "macro-F1", "calibration", "RMSE", "precision", "recall", "perplexity", "ROUGE-L", "BLEU", "signs"),
)
SUMMARY_DISPENSABLE = (
    *("memory", "seeds", "%", "seconds", "calibration", "macro-F1", "precision", "recall", "BLEU", "ROUGE-L"),
    *("forgets", "lr", "signs", "shifted", "RMSE", "perplexity"),
)
EXPLAINED: Mapping[str, str] = {
    "forgets": "points lost on the source domain",
    "seconds": "of training, a trial's share of its pack",
    "memory": "peak {memory_kind}",
    "shifted": "score on test rows that are shifted from those trained on",
    "macro-F1": "mean over classes of F1",
    "calibration": "by how many points confidence and accuracy differ (expected calibration error)",
    "RMSE": "root of the mean squared error, in the target's unit",
    "perplexity": "exp of the mean loss of a token, lower is better",
    "ROUGE-L": "longest common subsequence with the answer",
    "BLEU": "common word groups with the answer",
    "signs": "what went wrong on how many seeds",
}
ROWS: Mapping[str, Callable[[TrialResult], str]] = {
    "status": lambda row: row.status.value,
    "model": lambda row: row.spec.model,
    "task": lambda row: row.spec.task,
    "rows": lambda row: str(row.spec.n_train),
    "lr": lambda row: f"{row.spec.train.lr:g}",
    "seed": lambda row: str(row.spec.seed),
    "valid": lambda row: _measured(row, "valid_score", ".3f"),
    "test": lambda row: _measured(row, "test_score", ".3f"),
    "seconds": lambda row: _measured(row, "train_seconds", ".2f"),
}
ROWS_DISPENSABLE = ("seconds", "rows", "task", "model", "status", "valid", "seed", "lr")


def print_summary(lines: Sequence[Line], console: Console) -> None:
    """Print one table for each situation; in a narrow terminal with fewer columns, and it says which."""
    situations = [
        by_score(line for line in lines if line.situation == situation)
        for situation in dict.fromkeys(line.situation for line in lines)
    ]
    shown = [heading for heading in SUMMARY if any(_has(heading, here) for here in situations)]
    dispensable = tuple(heading for heading in SUMMARY_DISPENSABLE if heading in shown)
    dropped = max((_too_wide(_summary, here, dispensable, console) for here in situations), key=len, default=())
    for here in situations:
        console.print(_summary(here, dropped))
        before = untouched(here)
        if before:
            console.print(f"source model before training: test {score(before)}", highlight=False)
        console.print()
    if lines:
        _print_caption(lines, [heading for heading in shown if heading not in dropped], console)
    _print_dropped(dropped, console)


def as_html(lines: Sequence[Line]) -> str:
    """Return the same tables as HTML, and what their columns are."""
    parts, said = [], io.StringIO()
    if lines:
        shown = [heading for heading in SUMMARY if any(_has(heading, [line]) for line in lines)]
        _print_caption(lines, shown, Console(file=said, width=10_000, force_jupyter=False))
    for situation in dict.fromkeys(line.situation for line in lines):
        here = by_score(line for line in lines if line.situation == situation)
        table = _summary(here, ())
        columns = [[html.escape(str(cell)) for cell in column.cells] for column in table.columns]
        heads = "".join(f"<th>{html.escape(str(column.header))}</th>" for column in table.columns)
        rows = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in zip(*columns, strict=True))
        title = html.escape(str(table.title))
        parts.append(f"<table><caption>{title}</caption><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>")
    return "".join(parts) + "".join(f"<p>{html.escape(text)}</p>" for text in said.getvalue().splitlines())


def columns_of(here: Sequence[Line]) -> list[str]:
    """Return the headings in `SUMMARY` that stand in the table of a situation."""
    return [heading for heading in SUMMARY if _has(heading, here)]


def _has(heading: str, here: Sequence[Line]) -> bool:
    """Return whether a column stands in the table of a situation."""
    if heading in ("macro-F1", "calibration") and not any(map(by_class_matters, here)):
        return False
    return heading not in OPTIONAL or any(SUMMARY[heading](line) != "-" for line in here)


def _print_caption(lines: Sequence[Line], shown: Sequence[str], console: Console) -> None:
    """Say what the columns are, and of each diagnosis what to do about it."""
    told = {
        heading: f"{heading}: {text.format(memory_kind=memory_kind(lines[0]))}."
        for heading, text in EXPLAINED.items()
        if heading in shown
    }
    first = "Scores in per cent, mean ± standard deviation over seeds. Learning rate chosen on valid."
    rows = [("forgets",), ("seconds", "memory"), tuple(h for h in told if h in OPTIONAL)]
    texts = [" ".join(told[heading] for heading in row if heading in told) for row in rows]
    console.print("\n".join(filter(None, [f"{first} {texts[0]}".strip(), *texts[1:]])), highlight=False)
    if any(line.pruned for line in lines):
        console.print(
            "Where only some seeds are left, the others were stopped early: such a mean flatters.", highlight=False
        )
    if "signs" not in shown:
        return
    found = {name for line in lines if marks(line) != "-" for name in line.diagnoses()}
    for name, diagnosis in DIAGNOSES.items():
        if name in found:
            over = " (at any learning rate)" if name == "divergence" else ""
            text = f"{name[0].upper()} {name.replace('_', ' ')}{over}: {diagnosis.symptom}. Fix: {diagnosis.fix}."
            console.print(text, highlight=False, markup=False)


def print_rows(results: Sequence[TrialResult], console: Console) -> None:
    """Print one line a trial; in a narrow terminal with fewer columns, and it says which."""
    dropped = _too_wide(_rows, results, ROWS_DISPENSABLE, console)
    console.print(_rows(results, dropped))
    _print_dropped(dropped, console)


T = TypeVar("T")
Build = Callable[[Sequence[T], Sequence[str]], Table]


def _too_wide(build: Build[T], content: Sequence[T], dispensable: tuple[str, ...], console: Console) -> tuple[str, ...]:
    """Return the columns that must go for a table to fit."""
    limitless = console.options.update_width(10_000)
    dropped: tuple[str, ...] = ()
    while (
        dropped != dispensable and Measurement.get(console, limitless, build(content, dropped)).maximum > console.width
    ):
        dropped = dispensable[: len(dropped) + 1]
    return dropped


def _print_dropped(dropped: Sequence[str], console: Console) -> None:
    if dropped:
        console.print(f"Left out for want of width: {', '.join(dropped)}.", highlight=False)


def _summary(here: Sequence[Line], dropped: Sequence[str]) -> Table:
    """Return the table of one situation."""
    first = here[0]
    metric = first.trials[0].context["metric"].replace("_", " ")
    title = f"{first.model} on {first.task}, {first.n_train} training rows, {first.steps} steps, {metric}"
    table = Table(title=title, title_justify="left", box=None)
    shown = [heading for heading in SUMMARY if heading not in dropped and _has(heading, here)]
    _add_columns(table, ("strategy", "settings"), shown)
    for line in here:
        siblings = [other.hparams for other in here if other.strategy == line.strategy]
        table.add_row(line.strategy, named(line.hparams, siblings), *(SUMMARY[heading](line) for heading in shown))
    return table


def _rows(results: Sequence[TrialResult], dropped: Sequence[str]) -> Table:
    """Return a table with one line a trial."""
    table = Table(box=None)
    shown = [heading for heading in ROWS if heading not in dropped]
    _add_columns(table, ("trial", "strategy", "settings"), shown)
    variants: dict[str, dict[str, Mapping[str, Any]]] = {}
    for row in results:
        variants.setdefault(row.spec.strategy, {})[str(row.spec.hparams)] = row.spec.hparams
    for row in results:
        settings = named(row.spec.hparams, [*variants[row.spec.strategy].values()])
        table.add_row(row.trial_id, row.spec.strategy, settings, *(ROWS[heading](row) for heading in shown))
    return table


def _add_columns(table: Table, words: Sequence[str], numbers: Sequence[str]) -> None:
    for heading in words:
        table.add_column(heading, no_wrap=True)
    for heading in numbers:
        table.add_column(heading, justify="right", no_wrap=True)


def _measured(row: TrialResult, metric: str, form: str) -> str:
    return format(row.metrics[metric], form) if metric in row.metrics else "-"


def memory_kind(line: Line) -> str:
    """Return of what the peak memory is."""
    kind = line.trials[0].context["memory_kind"]
    return "of device memory" if kind == "device" else "resident set of the process that trained the pack"


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
            "diagnoses": {
                name: {"seeds": seeds, "symptom": DIAGNOSES[name].symptom, "fix": DIAGNOSES[name].fix}
                for name, seeds in line.diagnoses().items()
            },
            "pruned_seeds": line.pruned,
            "trial_ids": [trial.trial_id for trial in line.trials],
        }
        for line in by_score(lines)
    ]
