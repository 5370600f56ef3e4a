"""What a sweep will take before it runs: a pack of each kind is rehearsed, then the workers' day is played through."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray

from sweeper.allocator import keep_freed_memory
from sweeper.checkpoint import EVERY
from sweeper.day import Day, alike, kind_of
from sweeper.machine import free_bytes, tree_bytes
from sweeper.rehearse import Pace, Rehearsal
from sweeper.spec import TrialSpec
from sweeper.trial import one_line
from sweeper.tune import connected, gpus_for, packs_of, workers_for

MOST_SECONDS = 90.0
"""So long after the end of the first rehearsal, which may make a source model, others start; what is not rehearsed is
estimated from what is alike."""
AROUND = 3.5
"""Seconds of a CPU for what is before and after: the interpreter's and Tune's start, Ray's end, table and picture."""
HEADS = "feature_extraction"
LEAST_SHARE = 0.2
ROW_BYTES = 4000
TIME_BAND, MEMORY_BAND = (0.75, 1.35), (0.87, 1.15)
"""Measured over predicted: meant to hold 9 of 10 sweeps. `python -m tests.benchmarks.plans` measures it: with nothing
else to do all of the first ten held in time, nine in memory; with ten processes for two cores three of six in time, and
one of those took 3.7 times as long."""
UNSEEN = 0.5
"""How much wider the band is, as a share of the prediction, where nothing was rehearsed."""


@dataclass(frozen=True)
class Range:
    """A prediction, and between what it lies in 9 of 10 sweeps."""

    expected: float
    low: float
    high: float


@dataclass(frozen=True)
class Plan:
    """What a sweep will take.

    Attributes:
        trials: To run.
        packs: That train together.
        alone: Trials that are faster one after the other.
        workers: Packs that train at the same time.
        seconds: From the command to its last line, on a machine as busy as it is now.
        cpu_seconds: What the workers together need of a CPU, their start included.
        share: Of a CPU, what a worker gets now: less than 1 where others are busy.
        worker_bytes: Peak memory of the process that trains the largest pack, as its rows have it; on a GPU, of the
            device.
        memory_bytes: Of all processes together; on a GPU, of one device.
        disk_bytes: What the sweep leaves on disk, by what it is.
        rehearsed: Kinds of packs that were.
        kinds: How many there are.
        slowest: The kinds that take most, with the seconds of all their packs.
        troubles: Trials that will fail, one line for each kind of pack.
        does_not_fit: What this machine has too little of, one line each.
    """

    trials: int
    packs: int
    alone: int
    workers: int
    seconds: Range
    cpu_seconds: float
    share: float
    worker_bytes: Range
    memory_bytes: Range
    disk_bytes: Mapping[str, int]
    rehearsed: int
    kinds: int
    slowest: tuple[tuple[str, float], ...]
    troubles: tuple[str, ...]
    does_not_fit: tuple[str, ...]


class _Worker:
    """Rehearses on a worker of Ray's that is set up as `sweeper.tune.PackTrial` is."""

    def __init__(self) -> None:
        import torch

        torch.set_num_threads(1)
        keep_freed_memory()
        self.rehearsal = Rehearsal()

    def about(self) -> tuple[int, int, float]:
        """Return the id of the process, the bytes of its GPU, and the seconds of a CPU that its start took."""
        import torch

        size = torch.cuda.mem_get_info()[1] if torch.cuda.is_available() else 0
        return os.getpid(), size, time.process_time()

    def pace(self, specs: Sequence[Mapping[str, Any]], plan: bool) -> Pace | str:
        """Return what a pack takes, or in one line why it will fail."""
        try:
            return self.rehearsal.pace([TrialSpec.from_dict(spec) for spec in specs], plan)
        except Exception as error:  # as `run_planned`, which makes a row of it
            return one_line(error)


def plan(
    trials: Sequence[TrialSpec],
    folder: Path,
    *,
    before: float = 0.0,
    cpus: int | None = None,
    gpus_per_trial: float | None = None,
    max_concurrent: int | None = None,
    pack_size: int | None = None,
    keep_weights: bool = False,
    told: Callable[[int, int], None] | None = None,
) -> Plan:
    """Return what running trials on this machine will take.

    Args:
        trials: What is to run.
        folder: Where the store is, or will be.
        before: Seconds spent before this call that a launch will spend as well.
        cpus: As `sweeper.tune.launch` takes it, and so the next three.
        gpus_per_trial: See there.
        max_concurrent: See there.
        pack_size: See there.
        keep_weights: Whether each trial's weights are kept.
        told: Hears how many kinds of packs are rehearsed, of how many.

    Raises:
        ValueError: a pack is to take more GPUs than there are.
    """
    started = time.monotonic()
    free = free_bytes()
    with connected(None, cpus):
        gpus_per_trial, gpus = gpus_for(gpus_per_trial)
        workers = workers_for(gpus_per_trial, gpus, max_concurrent)
        packs = packs_of(trials, pack_size, workers, None)
        kinds: dict[str, list[list[TrialSpec]]] = {}
        for pack in packs:
            kinds.setdefault(kind_of(pack), []).append(pack)
        make = ray.remote(num_cpus=1, num_gpus=gpus_per_trial)(_Worker)
        actors: list[Any] = [make.remote() for _ in range(min(workers, len(packs)))]
        about = ray.get([actor.about.remote() for actor in actors])
        start = before + time.monotonic() - started
        firsts = {name: min(own, key=lambda pack: pack[0].seed) for name, own in kinds.items()}
        found, troubles = {}, []
        for name, pace in _rehearsed(firsts, actors, pack_size is None):
            if isinstance(pace, str):
                troubles.append((name, pace))
            else:
                found[name] = pace
            if told is not None:
                told(len(found) + len(troubles), len(kinds))
        others_bytes = tree_bytes(without=[process for process, *_ in about])
    lost = {name for name, _ in troubles}
    paces = {name: found.get(name) or alike(first, firsts, found) for name, first in firsts.items() if name not in lost}
    device = max((size for _, size, _ in about), default=0)
    made = {(one.model, one.task, one.n_train, one.seed) for one in (firsts[name][0] for name in found)}
    day = Day(paces, workers, start, made)
    for pack in packs:
        if kind_of(pack) not in lost:
            day.train(pack)
    spent = sum(day.by_kind.values()) or 1.0
    cpu_seconds = sum(spent * paces[name].share for name, spent in day.by_kind.items())
    share = cpu_seconds / spent
    seconds = day.end + AROUND / max(share, LEAST_SHARE)
    unseen = sum(day.by_kind.get(name, 0.0) for name in paces if name not in found) / spent

    largest = max((pace.row_peak_bytes for pace in paces.values()), default=0)
    if device:
        memory = max((pace.peak_bytes for pace in paces.values()), default=0) * max(1.0, 1 / (gpus_per_trial or 1.0))
    else:
        memory = others_bytes + day.most_bytes
    disk = _disk(trials, packs, paces, keep_weights, workers)
    return Plan(
        trials=len(trials),
        packs=len(packs),
        alone=sum(len(pack) for pack in packs if len(pack) > 1 and (p := paces.get(kind_of(pack))) and p.members == 1),
        workers=workers,
        seconds=_range(seconds, TIME_BAND, unseen),
        cpu_seconds=cpu_seconds + sum(starting for *_, starting in about),
        share=share,
        worker_bytes=_range(largest, MEMORY_BAND, unseen),
        memory_bytes=_range(memory, MEMORY_BAND, unseen),
        disk_bytes=disk,
        rehearsed=len(found),
        kinds=len(kinds),
        slowest=tuple(
            (_in_words(firsts[name]), spent)
            for name, spent in sorted(day.by_kind.items(), key=lambda item: -item[1])[:5]
        ),
        troubles=tuple(
            f"{_in_words(firsts[name])}: {sum(map(len, kinds[name]))} trials will fail: {why}" for name, why in troubles
        ),
        does_not_fit=tuple(_too_little(memory, device or free, "GPU memory" if device else "memory", disk, folder)),
    )


def _rehearsed(
    packs: Mapping[str, Sequence[TrialSpec]], actors: Sequence[Any], planned: bool
) -> Iterator[tuple[str, Pace | str]]:
    """Yield kinds with their pace, or why they fail; those first that tell most of others."""
    until: float | None = None
    names = iter(_in_turn(packs))
    busy: dict[Any, tuple[str, Any]] = {}
    idle = [*actors]
    while True:
        while idle and (until is None or time.monotonic() < until) and (name := next(names, None)) is not None:
            actor = idle.pop()
            specs = [spec.to_dict() for spec in packs[name]]
            busy[actor.pace.remote(specs, planned)] = (name, actor)
        if not busy:
            return
        (ready, *_), _ = ray.wait([*busy], num_returns=1)
        name, actor = busy.pop(ready)
        until = until or time.monotonic() + MOST_SECONDS
        try:
            yield name, ray.get(ready)
            idle.append(actor)
        except ray.exceptions.RayError as error:  # its process is gone, most likely for want of memory
            yield name, f"it ends its process ({type(error).__name__})"


def _in_turn(packs: Mapping[str, Sequence[TrialSpec]]) -> list[str]:
    """Return kinds, those first whose strategy with its settings, or whose task, is new for a model.

    Of these, heads alone come last: they take least, and say least of others.
    """
    known: set[tuple[object, ...]] = set()
    early: list[str] = []
    late: list[str] = []
    for name, (first, *_) in packs.items():
        new = {(first.model, first.strategy, str(first.hparams)), (first.model, first.task, first.n_train)} - known
        known |= new
        (early if new else late).append(name)
    return sorted(early, key=lambda name: packs[name][0].strategy == HEADS) + late


def _disk(
    trials: Sequence[TrialSpec],
    packs: Sequence[Sequence[TrialSpec]],
    paces: Mapping[str, Pace],
    keep_weights: bool,
    workers: int,
) -> dict[str, int]:
    """Return what a sweep writes, by what it is."""
    sources: dict[tuple[object, ...], int] = {}
    weights, checkpoints = 0, 0
    for pack in packs:
        pace, first = paces.get(kind_of(pack)), pack[0]
        if pace is None:
            continue
        sources[first.model, first.task, first.seed] = pace.source_bytes
        weights += len(pack) * pace.saved_bytes
        if first.train.steps * pace.step > EVERY:
            checkpoints = max(checkpoints, pace.checkpoint_bytes * workers)
    found = {"rows": ROW_BYTES * len(trials), "source models": sum(sources.values()), "checkpoints": checkpoints}
    return {**found, **({"weights": weights} if keep_weights else {})}


def _too_little(memory: float, free: int | None, kind: str, disk: Mapping[str, int], folder: Path) -> Iterator[str]:
    """Yield what there is too little of, with the way out."""
    if free is not None and memory > free:
        yield (
            f"{kind}: {memory / 1e9:.1f} GB of {free / 1e9:.1f} GB: "
            "fewer packs at once (--max-concurrent 1), fewer trials in each (--pack 1), or a smaller batch_size"
        )
    place = next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())
    left, needed = shutil.disk_usage(place).free, sum(disk.values())
    if needed > left:
        yield f"disk: {needed / 1e9:.1f} GB of {left / 1e9:.1f} GB at {place}: --results names another place"


def _range(value: float, band: tuple[float, float], unseen: float) -> Range:
    low, high = band
    return Range(value, value * low / (1 + UNSEEN * unseen), value * high * (1 + UNSEEN * unseen))


def _in_words(pack: Sequence[TrialSpec]) -> str:
    first = pack[0]
    together = f", {len(pack)} in a pack" if len(pack) > 1 else ""
    return f"{first.strategy} on {first.model}, {first.task}, {first.n_train} rows{together}"
