"""Sweeps on a disk and on workers that fail, driven by a seed: no Ray, no clock, no time.

``python -m tests.faults.simulate --schedules 1000000 --seed 0`` runs many and says what came of them; a schedule
that breaks a promise names its seed, and ``--schedules 1 --seed N`` runs it again.
"""

from __future__ import annotations

import multiprocessing
import time
from collections import Counter
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from random import Random

import click

from sweeper.pack import make_packs
from sweeper.results import ResultsStore
from sweeper.spec import ALWAYS, Status, TrainArgs, TrialResult, TrialSpec
from sweeper.sweep import Sweep, done, missing
from sweeper.upkeep import compact, repair, settle
from tests.faults.disk import Killed, PowerCut, SimulatedDisk

STORE = Path("/store")
LAUNCHES = 12
LIMIT = 10.0  # seconds a trial
FAULTS = ("cut", "cut", "kill", "full", "fail", "none")


class BrokenPromiseError(AssertionError):
    """A guarantee of `RELIABILITY.md` did not hold."""


@cache
def specs() -> tuple[TrialSpec, ...]:
    """Return the trials of the sweep: two packs' worth, three trials each."""
    return tuple(
        TrialSpec("mlp", "digits_shifted", 40, "full", {}, TrainArgs(lr=lr, steps=1), seed)
        for seed in (0, 1)
        for lr in (1e-3, 3e-3, 1e-2)
    )


def row(spec: TrialSpec, status: Status, number: int) -> TrialResult:
    """Return what a worker hands over."""
    full = status is Status.COMPLETE
    metrics = dict.fromkeys(ALWAYS["metrics"], 0.5) if full else {}
    context = dict.fromkeys(ALWAYS["context"], "x") if full else {}
    when = f"2026-01-01T00:00:{number:09d}Z"
    return TrialResult(spec, status, metrics, (), context, {"recorded_at": when}, None if full else "so it goes")


class Book:
    """What the outside world was told: rows that were reported as stored."""

    def __init__(self) -> None:
        self.final: dict[str, Status] = {}
        self.number = 0

    def start(self, trials: int) -> None:
        """Hear that trials have started."""

    def finish(self, results: list[TrialResult]) -> None:
        """Hear that rows are in the store."""
        self.final.update({row.trial_id: row.status for row in results if row.status.is_final})


class Schedule:
    """One sweep, launched until it is done.

    Args:
        smooth: Nothing goes wrong but what `SimulatedDisk.arm` says.
    """

    def __init__(self, seed: int, smooth: bool = False) -> None:
        self.troubled = not smooth
        self.rng = Random(seed)
        self.disk = SimulatedDisk(self.rng)
        self.book = Book()
        self.time = 0.0
        self.seen: Counter[str] = Counter()

    def run(self) -> Counter[str]:
        """Launch, lose, launch again; return how often what happened."""
        for launch in range(LAUNCHES + 1):
            self.disk.free()
            self.troubled = launch < LAUNCHES
            fault = self.rng.choice(FAULTS) if launch < LAUNCHES else "none"
            if fault != "none":
                self.disk.arm(self.rng.randint(1, 30), fault)
            try:
                success = self.launch()
            except PowerCut:
                self.seen["power cuts"] += 1
                self.disk.cut_power()
                continue
            except Killed:
                self.seen["kills"] += 1
                self.disk.kill()
                continue
            except OSError:
                self.seen["refused writes"] += 1
                self.disk.kill()
                if self.rng.random() < 0.3:
                    self.disk.cut_power()
                continue
            self.disk.kill()
            if success:
                if self.rng.random() < 0.5:
                    self.seen["power cuts after success"] += 1
                    self.disk.cut_power()
                self.disk.free()
                self.look()
                if len(self.book.final) < len(specs()):
                    raise BrokenPromiseError("success, and not every trial was reported as done")
                self.seen["sweeps"] += 1
                return self.seen
        raise BrokenPromiseError("not done although nothing went wrong any more")

    def look(self) -> ResultsStore:
        """See that the store opens and holds what was reported."""
        try:
            store = ResultsStore(STORE, create=True, disk=self.disk)
        except ValueError as error:
            raise BrokenPromiseError(f"the store does not open: {error}") from None
        rows = {row.trial_id: row for row in store.read().results} if self.disk.names(STORE) is not None else {}
        for trial, status in self.book.final.items():
            found = rows.get(trial)
            if found is None:
                raise BrokenPromiseError(f"a finished trial is lost: {trial}")
            # One that had more memory may come later.
            if found.status is not status and status is not Status.OUT_OF_MEMORY:
                raise BrokenPromiseError(f"a finished trial has changed: {status} is {found.status} now")
        return store

    def launch(self) -> bool:
        """Do what `sweeper launch` does; return whether it ends with success."""
        store = self.look()
        if self.troubled and self.rng.random() < 0.2:
            self.rng.choice([repair, compact])(store) if self.disk.names(STORE) else None
            store = self.look()
        settle(store)
        known = store.read().results
        # What stands in the store as final counts as done, reported or not: from here on it must stay.
        ready = done(known, None)
        self.book.final.update({row.trial_id: row.status for row in known if row.trial_id in ready})
        todo = [spec for spec in specs() if spec.trial_id not in ready]
        if any(spec.trial_id in self.book.final for spec in todo):
            raise BrokenPromiseError("a finished trial is run again")
        packs = make_packs(todo, 3, 2)
        sweep = Sweep(packs, store, self.book, {}, LIMIT, lambda: self.time)
        other = ResultsStore(STORE, create=True, disk=self.disk) if self.troubled and self.rng.random() < 0.2 else None
        self.lost = set[int]()
        waiting, running = list(range(len(packs))), list[int]()
        while waiting or running or sweep.again:
            waiting, sweep.again = waiting + sweep.again, []
            while waiting and len(running) < 2:
                running.append(waiting.pop(0))
                sweep.start(running[-1])
            pack = self.rng.choice(running)
            self.step(sweep, pack, other, todo)
            for late in sweep.overdue():
                sweep.lose(late, Status.FAILED, "killed")
                self.lost.add(late)
            for ended in [pack for pack in running if pack in self.lost or not sweep.left(pack)]:
                sweep.finish(ended)
                running.remove(ended)
        if missing(store, todo):
            raise BrokenPromiseError("a launch ended well without a row for each trial")
        store.close()
        return set(self.book.final) == {spec.trial_id for spec in specs()}

    def step(self, sweep: Sweep, pack: int, other: ResultsStore | None, todo: Sequence[TrialSpec]) -> None:
        """Let one thing happen to a pack that runs."""
        chance = self.rng.random() if self.troubled else 1.0
        left = sweep.left(pack)
        if chance < 0.08:
            self.seen["lost workers"] += 1
            status = self.rng.choice([Status.FAILED, Status.PREEMPTED, Status.OUT_OF_MEMORY])
            sweep.lose(pack, status, "killed")
            self.lost.add(pack)
        elif chance < 0.14:
            self.seen["hanging workers"] += 1
            self.time += LIMIT * len(specs()) + 1
        elif chance < 0.22 and other is not None:
            # A second launch of the same sweep, on another machine.
            self.seen["rows from a second launch"] += 1
            rows = [self.row(self.rng.choice(todo))]
            try:
                other.append(rows)
            except OSError:  # it goes on for a while before it gives up
                return
            self.book.finish(rows)
        elif chance < 0.26:
            self.seen["compactions"] += 1
            compact(ResultsStore(STORE, create=True, disk=self.disk)) if self.disk.names(STORE) else None
        else:
            self.time += self.rng.random()
            sweep.add(pack, [self.row(spec) for spec in left[: self.rng.randint(1, len(left))]])

    def row(self, spec: TrialSpec) -> TrialResult:
        """Return what a worker makes of a trial: the same whenever it runs."""
        self.book.number += 1
        status = Status.DIVERGED if spec.train.lr == 1e-2 and spec.seed else Status.COMPLETE
        return row(spec, status, self.book.number)


def simulate(seeds: Sequence[int]) -> Counter[str]:
    """Run schedules; return what happened in them.

    Raises:
        BrokenPromiseError: and the seed of the schedule that shows it.
    """
    seen: Counter[str] = Counter()
    for seed in seeds:
        try:
            seen += Schedule(seed).run()
        except Exception as error:
            raise BrokenPromiseError(f"schedule {seed}: {type(error).__name__}: {error}") from error
    return seen


@click.command()
@click.option("--schedules", default=10_000, show_default=True)
@click.option("--seed", default=0, show_default=True, help="Of the first; the others follow.")
@click.option("--processes", default=1, show_default=True)
def main(schedules: int, seed: int, processes: int) -> None:
    """Run many schedules and say what happened."""
    started = time.perf_counter()
    parts = [range(start, min(start + 1000, seed + schedules)) for start in range(seed, seed + schedules, 1000)]
    seen: Counter[str] = Counter()
    if processes == 1:
        for part in parts:
            seen += simulate(part)
    else:
        with multiprocessing.get_context("spawn").Pool(processes) as pool:
            for found in pool.imap_unordered(simulate, parts):
                seen += found
    for what, number in sorted(seen.items()):
        click.echo(f"{number:>10,} {what}")
    seconds = time.perf_counter() - started
    click.echo(f"{schedules:,} schedules from seed {seed}: 0 lost, 0 run again, 0 false success; {seconds:.0f} s")


if __name__ == "__main__":
    main()
