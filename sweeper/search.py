"""Not every setting is worth every step: searches that give most of a grid's trials a part of its steps only.

A trial of fewer steps is a trial of its own, planned for so many steps: its rate falls to zero within them, so that
its score is what that budget gives. Settings are compared on validation, within a model, a task and its rows alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sweeper.spec import TrialResult, TrialSpec

ETA, LEAST_STEPS, FINALISTS = 3, 5, 3


@dataclass(frozen=True)
class Search:
    """A way to go through a grid.

    Attributes:
        summary: In one line.
        steps: From a trial's full steps and the steps of one pass over its rows to those of the rungs before the last.
        kept: Of so many settings, how many go on from a rung.
    """

    summary: str
    steps: Callable[[int, int], list[int]]
    kept: Callable[[int], int]


SEARCHES = {
    "grid": Search("every trial", lambda full, epoch: [], lambda settings: settings),
    "halving": Search(
        "a ninth of the steps for all settings, a third for the best third, all for the best of these "
        "(successive halving: Jamieson and Talwalkar 2016, arXiv 1502.07943)",
        lambda full, epoch: [n for n in (full // ETA**2, full // ETA) if n >= LEAST_STEPS],
        lambda settings: math.ceil(settings / ETA),
    ),
    "one-epoch": Search(
        "one pass over the rows for all settings, all steps for the best three (after arXiv 2307.15422)",
        lambda full, epoch: [epoch] if epoch < full else [],
        lambda settings: min(FINALISTS, settings),
    ),
}


def _setting(trial: TrialSpec) -> str:
    """Return what is compared: a trial but for its seed and its steps."""
    plain: dict[str, Any] = trial.to_dict()
    del plain["seed"], plain["train"]["steps"]
    return repr(plain)


def rungs(name: str, trials: Sequence[TrialSpec]) -> Generator[list[TrialSpec], Sequence[TrialResult], None]:
    """Yield the trials of each rung, and take their rows: a setting's first seed until the last rung, then all seeds.

    A setting that did not complete goes no further.

    Args:
        name: In `SEARCHES`.
        trials: The grid's.
    """
    search = SEARCHES[name]
    settings: dict[str, list[TrialSpec]] = {}
    for trial in trials:
        settings.setdefault(_setting(trial), []).append(trial)
    ladders: dict[str, list[TrialSpec]] = {}
    for setting, (first, *_) in settings.items():
        epoch = math.ceil(first.n_train / first.train.batch_size)
        steps = search.steps(first.train.steps, epoch)
        ladders[setting] = [replace(first, train=replace(first.train, steps=n)) for n in steps]
    while climbing := {setting: ladder for setting, ladder in ladders.items() if ladder}:
        rung = {setting: ladder.pop(0) for setting, ladder in climbing.items()}
        rows = yield [*rung.values()]
        scores = {row.trial_id: row.metrics["valid_score"] for row in rows if "valid_score" in row.metrics}
        groups: dict[tuple[str, str, int], list[str]] = {}
        for setting, trial in rung.items():
            groups.setdefault((trial.model, trial.task, trial.n_train), []).append(setting)
        for group in groups.values():
            done = [setting for setting in group if rung[setting].trial_id in scores]
            best = sorted(done, key=lambda setting: -scores[rung[setting].trial_id])[: search.kept(len(group))]
            for setting in {*group} - {*best}:
                del settings[setting], ladders[setting]
    yield [trial for trials in settings.values() for trial in trials]
