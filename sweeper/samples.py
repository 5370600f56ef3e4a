"""What language models wrote, to be read: samples of one trial of each strategy."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from sweeper.spec import TrialResult
from sweeper.table import named, short


def print_samples(trials: Sequence[TrialResult], console: Console) -> None:
    """Print a table for each trial: prompts, answers, and what it wrote."""
    for trial in trials:
        spec, samples = trial.spec, trial.metrics.get("samples")
        settings = [*filter(None, [named(spec.hparams, [])]), f"lr={short(spec.train.lr)}", f"seed={spec.seed}"]
        heading = f"{spec.strategy} on {spec.model}, {spec.task}: {', '.join(settings)} (trial {trial.trial_id})"
        if not samples:
            console.print(Text(f"{heading}: no samples stored\n"))
            continue
        table = Table("prompt", "answer", "written", title=heading, title_justify="left", box=None, pad_edge=False)
        for sample in samples:
            # As plain text: what a model writes may look like markup, or hold control characters.
            table.add_row(*(Text(_printable(sample[key])) for key in ("prompt", "answer", "output")))
        console.print(table)
        console.print()


def _printable(text: str) -> str:
    return "".join(sign if sign.isprintable() else "\ufffd" for sign in text)


def as_json(trials: Iterable[TrialResult]) -> list[dict[str, Any]]:
    """Return trials as plain JSON values; without stored samples ``samples`` is null."""
    return [
        {"trial_id": trial.trial_id, **trial.spec.to_dict(), "samples": trial.metrics.get("samples")}
        for trial in trials
    ]
