"""What a pack will cost: a few of its steps and answers, timed in a process like the one that would train it."""

from __future__ import annotations

import importlib
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import torch

from sweeper import planner
from sweeper.allocator import PeakMemory
from sweeper.answers import TESTS, predict, score, test_scores
from sweeper.cache import cache_folder
from sweeper.facts import task_facts
from sweeper.machine import held_bytes
from sweeper.members import CannotPackError
from sweeper.models import LoadedModel
from sweeper.spec import TrialSpec
from sweeper.tasks import Split, TaskData, find_task
from sweeper.train import CURVE_POINTS, train_pack
from sweeper.trial import answer_flops, described, row_flops, strategy_of, untrained
from sweeper.work import GENERATION

LEAST_STEPS, MOST_STEPS = 6, 24
SECONDS = 1.0
"""What the steps of a rehearsal, and the answers to test rows, may take, if not `LEAST_STEPS` take longer."""
BASE_SECONDS = 15.0
"""The same for the network as loaded, which answers all test rows once for a model and task."""
SOME = 64
FORWARD_AND_BACK = 3.0
LATE = ("sklearn.neighbors", "sklearn.linear_model", "sklearn.pipeline", "sklearn.preprocessing", "sklearn.metrics")
"""What `sweeper.facts` and scores import when they are first called."""


@dataclass(frozen=True)
class Pace:
    """What a pack takes, in seconds and bytes.

    Attributes:
        members: Trials that train together: 1 where they are faster one after the other.
        share: Of a CPU, how much this process got meanwhile: less than 1 where others were busy.
        cold: Once a worker: what is imported and read when it first sees a model and task.
        planning: Once a worker: to find out whether training together pays.
        source: Once a seed: the source model, unless it is there.
        facts: Once a seed: facts of rows and features, unless they are there.
        kept: Once a seed: activations that are kept.
        fixed: All else that does not grow with the steps, points of the curve left out.
        step: A step.
        point: A point of the curve.
        row: An answer of the network as loaded.
        row_peak_bytes: Peak memory as a row has it.
        peak_bytes: Peak memory of the worker; of the device on a GPU.
        shared_bytes: What of it a worker shares with others.
        saved_bytes: What of a trial is kept on disk with ``--keep-weights``.
        checkpoint_bytes: What of the pack is on disk while it trains, if it trains for long.
        source_bytes: A source model on disk.
    """

    members: int
    share: float = 1.0
    cold: float = 0.0
    planning: float = 0.0
    source: float = 0.0
    facts: float = 0.0
    kept: float = 0.0
    fixed: float = 0.0
    step: float = 0.0
    point: float = 0.0
    row: float = 0.0
    row_peak_bytes: int = 0
    peak_bytes: int = 0
    shared_bytes: int = 0
    saved_bytes: int = 0
    checkpoint_bytes: int = 0
    source_bytes: int = 0


class Rehearsal:
    """Times packs, one after the other, in this process."""

    def __init__(self) -> None:
        self.known: set[tuple[str, str]] = set()
        self.base: dict[tuple[str, str, int], tuple[float, int]] = {}

    def pace(self, specs: Sequence[TrialSpec], plan: bool) -> Pace:
        """Return what a pack takes, from few of its steps.

        Args:
            specs: Trials of one pack.
            plan: Whether they train one after the other where that is faster.

        Raises:
            Exception: whatever would end a trial, memory that is not there among it.
        """
        while True:  # as `sweeper.trial.run_planned` does
            wall, cpu = time.perf_counter(), time.process_time()
            try:
                pace = self._pace(specs, plan)
                share = (time.process_time() - cpu) / (time.perf_counter() - wall)
                return replace(pace, share=1.0 if torch.cuda.is_available() else min(1.0, share))
            except CannotPackError:
                if len(specs) == 1:
                    raise
                specs = specs[:1]
            except (torch.OutOfMemoryError, MemoryError):
                if len(specs) == 1:
                    raise
                specs = specs[: len(specs) // 2]

    def _pace(self, specs: Sequence[TrialSpec], plan: bool) -> Pace:
        first = specs[0]
        _, imports = _timed(lambda: [importlib.import_module(name) for name in LATE])
        known = (first.model, first.task) in self.known
        self.known.add((first.model, first.task))
        # What is imported and read is so once, however many source models are made.
        cold = 0.0 if known else _timed(described, first)[1]
        source_before = _files("source")
        (model, data), load = _timed(untrained, first, [spec.seed for spec in specs])
        made, source = _files("source") - source_before, 0.0
        if made or not known:
            again = load
            (model, data), load = _timed(untrained, first, [spec.seed for spec in specs])
            source = again - load if made else 0.0
            cold += again - source - 2 * load

        metric = find_task(first.task).metric
        planning = 0.0
        if plan and len(specs) > 1:
            pays, planning = _timed(planner.pays, model, data, specs)
            if not pays:
                specs = specs[:1]
                model, data = untrained(first, [first.seed])
        facts_before = _files("facts")
        _, facts = _timed(task_facts, model.beside(), data, metric)
        facts = facts if _files("facts") - facts_before else 0.0
        base_test, base_peak = self._base(first, model, data)
        cost, row_peak, peak = self._train(specs, model, data, metric, base_test)
        tensors = [p for p in model.network.parameters() if p.requires_grad]
        return replace(
            cost,
            cold=max(0.0, cold) + imports,
            planning=planning,
            source=source,
            facts=facts,
            fixed=cost.fixed + load,
            row_peak_bytes=row_peak,
            peak_bytes=max(peak, base_peak),
            shared_bytes=held_bytes(os.getpid(), "Rss") - held_bytes(os.getpid()),
            checkpoint_bytes=3 * sum(p.numel() * p.element_size() for p in tensors),  # weights and two means
            source_bytes=4 * model.loaded_params if data.pretrain is not None else 0,
        )

    def _base(self, spec: TrialSpec, model: LoadedModel, data: TaskData) -> tuple[float, int]:
        """Return how long the network as loaded takes for all test rows, and the peak memory then."""
        key = (spec.model, spec.task, spec.n_train)
        if key not in self.base:
            base = model.beside()
            device = next(base.network.parameters()).device
            memory = PeakMemory(device)
            some = spread(data.splits["test"], SOME)
            predict(base, [some])
            _, few = _timed(predict, base, [some])
            rows = sum(len(data.splits[name]) for name in TESTS if name in data.splits)
            if few * rows / len(some) < BASE_SECONDS:
                found = _timed(test_scores, "untouched_", find_task(spec.task).metric, base, data)[1]
            else:
                found = few * rows / len(some)
            self.base[key] = (found, memory.peak_bytes())
        return self.base[key]

    def _train(
        self, specs: Sequence[TrialSpec], model: LoadedModel, data: TaskData, metric: str, base_test: float
    ) -> tuple[Pace, int, int]:
        """Return the pace of training and scoring, and the peak memory as a row has it and of all."""
        members, train = len(specs), specs[0].train
        starts = data.pretrain is not None or not model.head_is_fresh
        some = spread(data.splits["test"], SOME)
        base_some = _timed(predict, model.beside(), [some])[1]
        likely = FORWARD_AND_BACK * base_some / len(some) * train.batch_size * members
        steps = min(train.steps, max(LEAST_STEPS, min(MOST_STEPS, round(SECONDS / max(likely, 1e-6)))))

        def part(split: Split) -> Split:
            # As many activations are worth keeping as in the whole run, or as few.
            rows = steps * train.batch_size * members
            whole = train.steps * train.batch_size * members < len(split) or len(split) <= rows
            return split if whole else spread(split, rows, members)

        base_flops = _timed(row_flops, model.beside(), data)[1]
        memory = PeakMemory(next(model.network.parameters()).device)
        trained, training = _timed(
            train_pack,
            model,
            [strategy_of(spec) for spec in specs],
            [replace(spec.train, steps=steps) for spec in specs],
            [part(data.splits["train"])] * members,
            [],
            "",
            {name: part(data.splits[name]) for name in ("source_train",) if name in data.splits},
        )
        step = trained[0].train_seconds * members / steps
        setup = training - step * steps  # of the first steps what they take longer as well
        valid = [data.splits["valid"]] * members
        # A run scores between steps, where the optimizer holds two means of all that trains.
        means = [torch.ones_like(p) for p in model.network.parameters() if p.requires_grad for _ in range(2)]
        _, point = _timed(score, metric, model, valid)
        kept = 0.0
        if model.prefix is not None:
            with_making = point
            _, point = _timed(score, metric, model, valid)
            kept = with_making - point + base_some / len(some) * len(data.splits["train"])
        row_peak = memory.peak_bytes()

        del means
        model.prefix = None
        if data.work == GENERATION or base_test * members < SECONDS:
            _, test = _timed(test_scores, "", metric, model, data)
        else:
            few = _timed(predict, model, [some] * members)[1]
            test = base_test * few / base_some
        beside = base_test * (starts + (starts and model.can_switch_off))
        flops = base_flops + _timed(answer_flops, model, list(specs), data)[1]
        return (
            Pace(
                members=members,
                kept=kept,
                fixed=setup + test + beside + flops,
                step=step,
                point=point,
                row=base_some / len(some),
                saved_bytes=trained[0].saved_bytes,
            ),
            row_peak,
            memory.peak_bytes(),
        )


def points(steps: int) -> int:
    """Return how many points a learning curve has."""
    return len({round(steps * (i + 1) / CURVE_POINTS) for i in range(CURVE_POINTS)} - {0})


def spread(split: Split, rows: int, longest: int = 0) -> Split:
    """Return some rows of a split, spread evenly over it; in place of some its longest text, so many times.

    A batch is as long as its longest text, and needs the memory for it.
    """
    chosen = torch.linspace(0, len(split) - 1, min(rows, len(split))).round().long()
    if split.texts:
        chosen[:longest] = max(range(len(split)), key=lambda row: len("".join(split.texts[row])))
    return split.rows(chosen)


T = TypeVar("T")


def _timed(call: Callable[..., T], *args: object) -> tuple[T, float]:
    started = time.perf_counter()
    found = call(*args)
    return found, time.perf_counter() - started


def _files(kind: str) -> set[str]:
    try:
        return {name for name in os.listdir(cache_folder() / kind) if name.endswith((".json", ".safetensors"))}
    except FileNotFoundError:
        return set()
