"""Measure a workload: all contenders in turn, repeat by repeat, and whether they found the same."""

from __future__ import annotations

import gc
import itertools
import math
import shutil
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from sweeper.cache import cache_folder
from sweeper.spec import TrialSpec
from sweeper.trial import untrained
from tests.benchmarks.contenders import CONTENDERS, OURS, Contender, Found, NotHereError
from tests.benchmarks.workloads import Workload

SETTLE_SECONDS = 1.0  # processes of the one before are gone by then


def prepare(specs: Sequence[TrialSpec]) -> None:
    """Put source models into the cache, so that nobody's time has their training in it."""
    for spec in {(spec.model, spec.task, spec.n_train, spec.seed): spec for spec in specs}.values():
        untrained(spec, [spec.seed])


def forget() -> None:
    """Remove all that is cached but source models: each run finds its facts and features anew."""
    for folder in cache_folder().glob("*"):
        if folder.is_dir() and folder.name != "source":
            shutil.rmtree(folder)
    gc.collect()


def spread(specs: Sequence[TrialSpec], most: int) -> list[TrialSpec]:
    """Return at most so many trials, from all over the list."""
    count = min(most, len(specs))
    return [specs[i * len(specs) // count] for i in range(count)]


def measure(
    workload: Workload,
    repeats: int,
    quick: bool,
    chosen: Sequence[str] = (),
    say: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Return what was measured, as JSON values.

    Args:
        workload: What to run.
        repeats: How often each contender runs; the order turns round from one to the next.
        quick: Take the smallest size.
        chosen: Contenders, if not all of the workload's.
        say: Is told of each run.
    """
    specs = workload.specs(quick)
    prepare(specs)
    names = [name for name in workload.against if not chosen or name in chosen]
    parts = {name: spread(specs, workload.against[name].most) for name in names}
    parts[OURS] = specs
    seconds: dict[str, list[float]] = defaultdict(list)
    found: dict[str, Found] = {}
    missing: dict[str, str] = {}
    for repeat in range(repeats):
        for name in [OURS, *names] if repeat % 2 == 0 else [*reversed(names), OURS]:
            if name in missing:
                continue
            contender = partial(CONTENDERS[name], **workload.how) if name == OURS else CONTENDERS[name]
            try:
                taken, found[name] = timed(contender, parts[name])
            except NotHereError as error:
                missing[name] = str(error)
                continue
            say(f"  {name}: {taken:.2f} s for {len(parts[name])} trials")
            seconds[name].append(taken)
    pairs = []
    for name in names:
        pair: dict[str, Any] = {"against": name, "target": workload.against[name].target}
        if name in missing:
            pairs.append({**pair, "note": missing[name]})
            continue
        per_trial = [taken / len(parts[name]) for taken in seconds[name]]
        ratios = [theirs / (ours / len(specs)) for theirs, ours in zip(per_trial, seconds[OURS], strict=True)]
        same = compare(specs, found[OURS], found[name])
        same["training"] = training_ratio(specs, found[OURS], found[name])
        pairs.append({**pair, "trials": len(parts[name]), "seconds": seconds[name], "ratios": ratios, **same})
    return {
        "what": workload.what,
        "trials": len(specs),
        "complete": sum(bool(scores) for scores in found[OURS].values()),
        "seconds": seconds[OURS],
        "pairs": pairs,
    }


def timed(contender: Contender, specs: Sequence[TrialSpec]) -> tuple[float, Found]:
    """Return the seconds that a contender takes, and what it found."""
    forget()
    time.sleep(SETTLE_SECONDS)
    started = time.perf_counter()
    found = contender(specs)
    return time.perf_counter() - started, found


def training_ratio(specs: Sequence[TrialSpec], ours: Found, theirs: Found) -> float | None:
    """Return the ratio of the seconds in training steps alone, in the last repeat."""
    both = [spec.trial_id for spec in specs if ours.get(spec.trial_id) and theirs.get(spec.trial_id)]
    seconds = [sum(side[trial]["train_seconds"] for trial in both) for side in (theirs, ours)]
    return seconds[0] / seconds[1] if seconds[1] else None


def compare(specs: Sequence[TrialSpec], ours: Found, theirs: Found) -> dict[str, Any]:
    """Return how far scores lie apart, and how many pairs of settings stand in another order.

    Settings are ranked by their mean validation score over seeds; pairs that are level on one side do not count.
    """
    both = [spec for spec in specs if ours.get(spec.trial_id) and theirs.get(spec.trial_id)]

    def apart(name: str) -> float | None:
        pairs = [(ours[spec.trial_id].get(name), theirs[spec.trial_id].get(name)) for spec in both]
        gaps = [
            abs(a - b) for a, b in pairs if a is not None and b is not None and math.isfinite(a) and math.isfinite(b)
        ]
        return max(gaps, default=None)

    settings: dict[str, list[TrialSpec]] = defaultdict(list)
    for spec in both:
        settings[str({**spec.to_dict(), "seed": None})].append(spec)
    means = [
        [statistics.fmean(side[spec.trial_id]["valid_score"] for spec in alike) for side in (ours, theirs)]
        for alike in settings.values()
    ]
    pairs = list(itertools.combinations(means, 2))
    return {
        "compared": len(both),
        "apart": {name: apart(name) for name in ("test_score", "valid_score", "valid_loss")},
        "pairs": len(pairs),
        "swapped": sum((a[0] - b[0]) * (a[1] - b[1]) < -1e-12 for a, b in pairs),
    }
