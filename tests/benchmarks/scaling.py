"""How a sweep grows: with trials, with workers, with rows in the store; and how soon it has begun."""

from __future__ import annotations

import dataclasses
import gc
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import sweeper
from sweeper.results import ResultsStore
from sweeper.spec import TrialResult
from sweeper.trial import run_pack
from sweeper.tune import launch
from tests.benchmarks.contenders import CONTENDERS, OURS, Rows, sweep
from tests.benchmarks.measure import forget, prepare, timed
from tests.benchmarks.workloads import cheapest, lora_grid, no_ops

Figure = dict[str, Any]
MIB = 2**20
WRITERS = 4
BATCH = 8  # rows that a sweep writes at once


def figure(what: str, unit: str, values: list[float]) -> Figure:
    """Return a line of the table."""
    return {"what": what, "unit": unit, "values": values}


def trials(repeats: int, quick: bool) -> list[Figure]:
    """Sweep more and more of the cheapest trials."""
    found = []
    for number in (8, 16) if quick else (16, 64, 256, 1024):
        specs = cheapest(number)
        prepare(specs)
        seconds, grown, worker_grown, missing = [], [], [], 0
        for _ in range(repeats):
            forget()
            heard = Rows()
            with tempfile.TemporaryDirectory() as folder:
                store = ResultsStore(Path(folder) / "results", create=True)
                before, started = resident_mib(), time.perf_counter()
                launch(specs, store, heard)
                seconds.append((time.perf_counter() - started) / number)
                grown.append(resident_mib() - before)
                store.close()
                missing += len({spec.trial_id for spec in specs} - {row.trial_id for row in store.read().results})
            peaks = [row.metrics["peak_memory_bytes"] / MIB for row in heard.rows if "peak_memory_bytes" in row.metrics]
            # What comes after the first tenth: by then each worker has loaded all it needs.
            worker_grown.append(peaks[-1] - peaks[len(peaks) // 10])
        found += [
            figure(f"{number} trials: a trial", "ms", [1000 * value for value in seconds]),
            figure(f"{number} trials: growth of the driver's memory", "MiB", grown),
            figure(f"{number} trials: growth of a worker's peak memory", "MiB", worker_grown),
            figure(f"{number} trials: missing in the store", "rows", [missing]),
        ]
    return found


def overhead(repeats: int, quick: bool) -> list[Figure]:
    """Take what a further trial costs that trains nothing, from a small sweep and a large one, in turn."""
    small, large = (no_ops(number) for number in ((8, 16) if quick else (64, 512)))
    found: dict[str, list[float]] = {OURS: [], "Ray Tune tuned": [], "Ray Tune tuned, loop by hand": []}
    for _ in range(repeats):
        for name, further in found.items():
            seconds = [timed(CONTENDERS[name], specs)[0] for specs in (small, large)]
            further.append((seconds[1] - seconds[0]) / (len(large) - len(small)))
    bare = found["Ray Tune tuned, loop by hand"]
    ratios = [theirs / ours for ours, theirs in zip(found[OURS], bare, strict=True)]
    return [
        *(figure(f"a further trial that trains nothing: {name}", "ms", per(1, taken)) for name, taken in found.items()),
        figure("the same, Ray Tune tuned and by hand / ours", "x", ratios),
    ]


def workers(repeats: int, quick: bool) -> list[Figure]:
    """Run the LoRA grid with one worker and with two, in turn."""
    specs = lora_grid(quick)
    prepare(specs)
    taken: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(repeats):
        for number, seconds in taken.items():
            forget()
            started = time.perf_counter()
            sweep(specs, max_concurrent=number)
            seconds.append(time.perf_counter() - started)
    ratios = [one / two for one, two in zip(taken[1], taken[2], strict=True)]
    return [
        *(figure(f"LoRA grid of {len(specs)}, workers: {number}", "s", seconds) for number, seconds in taken.items()),
        figure("LoRA grid, 1 worker / 2 workers", "x", ratios),
    ]


def rows(repeats: int, quick: bool) -> list[Figure]:
    """Write and read stores of more and more rows."""
    (row,) = run_pack(cheapest(1), {})
    found = []
    for number in (10, 100) if quick else (1_000, 10_000, 100_000):
        written, read = [], []
        for _ in range(repeats):
            with tempfile.TemporaryDirectory() as folder:
                store = ResultsStore(Path(folder) / "results", create=True)
                started = time.perf_counter()
                for start in range(0, number, BATCH):
                    seeds = range(start, min(start + BATCH, number))
                    specs = [dataclasses.replace(row.spec, seed=seed) for seed in seeds]
                    store.append(dataclasses.replace(row, spec=spec) for spec in specs)
                store.close()
                written.append(time.perf_counter() - started)
                started = time.perf_counter()
                frame = sweeper.load_results(store.path)
                read.append(time.perf_counter() - started)
                assert len(frame) == number
                del frame
                gc.collect()
        found += [
            figure(f"store of {number:,} rows: to write a row, by {BATCH} at once", "ms", per(number, written)),
            figure(f"store of {number:,} rows: to read a row into a frame", "ms", per(number, read)),
        ]
    return found


def _write_one_by_one(folder: Path, row: TrialResult, seeds: range, begin: Barrier) -> None:
    store = ResultsStore(folder)
    begin.wait()
    for seed in seeds:
        store.append([dataclasses.replace(row, spec=dataclasses.replace(row.spec, seed=seed))])


def writers(repeats: int, quick: bool) -> list[Figure]:
    """Write a store from several processes at once, each row by itself and synced."""
    (row,) = run_pack(cheapest(1), {})
    number, took = 20 if quick else 2_000, []
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as name:
            store = ResultsStore(Path(name), create=True)
            store.mark()
            begin = context.Barrier(WRITERS + 1)
            parts = [range(k * number, (k + 1) * number) for k in range(WRITERS)]
            running = [context.Process(target=_write_one_by_one, args=(Path(name), row, part, begin)) for part in parts]
            for process in running:
                process.start()
            begin.wait()
            started = time.perf_counter()
            for process in running:
                process.join()
            took.append(WRITERS * number / (time.perf_counter() - started))
            assert len(store.read().results) == WRITERS * number
    return [figure(f"{WRITERS} writers, each row synced by itself: rows a second", "rows", took)]


def per(number: int, seconds: list[float]) -> list[float]:
    """Return milliseconds a piece."""
    return [1000 * value / number for value in seconds]


def start(repeats: int, quick: bool) -> list[Figure]:
    """Take the time to the first finished trial, and of `ray.init` and `import torch` alone, in turn."""
    prepare(cheapest(2))
    floor: list[float] = []
    first: list[float] = []
    for _ in range(repeats):
        for name, seconds in (("floor", floor), ("first", first)):
            forget()
            started = time.perf_counter()
            command = [sys.executable, "-m", "tests.benchmarks.start", name]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            # perf_counter is the machine's, not the process's: the other process says when it was there.
            seconds.append(float(done.stdout.split()[-1]) - started)
    return [
        figure("ray.init and import torch, alone", "s", floor),
        figure("start to first finished trial", "s", first),
        figure(
            "start to first finished trial / ray.init and import torch",
            "x",
            [b / a for a, b in zip(floor, first, strict=True)],
        ),
    ]


def resident_mib() -> float:
    """Return this process's resident memory; 0 where the system does not say."""
    gc.collect()
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / MIB


SCALING: dict[str, Callable[[int, bool], list[Figure]]] = {
    "start": start,
    "rows": rows,
    "writers": writers,
    "overhead": overhead,
    "trials": trials,
    "workers": workers,
}
STARTS_ITS_OWN_RAY = ("start",)
