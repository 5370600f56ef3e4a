"""Where the time of a sweep's own work goes: packs in one process, under cProfile."""

from __future__ import annotations

import cProfile
import pstats
import time
from collections.abc import Sequence
from pathlib import Path

import sweeper
from sweeper.spec import TrialSpec
from sweeper.trial import run_trials
from tests.benchmarks.contenders import torch_threads
from tests.benchmarks.measure import forget, prepare

MOST = 15
OURS = Path(sweeper.__file__).parent


def profile(specs: Sequence[TrialSpec]) -> str:
    """Return the functions of ours that take longest, callees included, as Markdown; in milliseconds a trial."""
    prepare(specs)
    with torch_threads(1):
        forget()
        started = time.perf_counter()
        rows = list(run_trials(specs))
        plain = time.perf_counter() - started
        forget()
        profiler = cProfile.Profile()
        profiler.runcall(lambda: list(run_trials(specs)))
    training = sum(row.metrics.get("train_seconds", 0.0) for row in rows)
    lines = [
        f"{len(specs)} trials, one thread: {1000 * plain / len(specs):.1f} ms a trial without the profiler, "
        f"of which {1000 * training / len(specs):.1f} ms are training steps",
        "",
        "| function | calls | ms a trial | of its own |",
        "|---|--:|--:|--:|",
    ]
    found = []
    for (file, _, name), (calls, _, own, cumulative, _) in pstats.Stats(profiler).stats.items():  # type: ignore[attr-defined]
        if Path(file).is_relative_to(OURS) and not name.startswith("<"):
            found.append((cumulative, own, calls, f"{Path(file).relative_to(OURS).as_posix()} {name}"))
    for cumulative, own, calls, what in sorted(found, reverse=True)[:MOST]:
        per_trial = [f"{1000 * value / len(specs):.2f}" for value in (cumulative, own)]
        lines.append(f"| {what} | {calls} | {' | '.join(per_trial)} |")
    return "\n".join(lines)
